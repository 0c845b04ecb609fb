"""The model repository of the backend `tensorrt`: NVIDIA's five models, as each release's templates have them.

`config` makes each `config.pbtxt`; `repository` writes the directory; `problems` checks a spec while planning.
"""

from enginery.triton.inflight.problems import (
    rollout_problems,
    serving_notes,
    serving_problems,
    set_fields,
    tokenizer_problems,
)

__all__ = [
    "rollout_problems",
    "serving_notes",
    "serving_problems",
    "set_fields",
    "tokenizer_problems",
]
