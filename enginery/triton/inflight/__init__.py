"""The model repository of the backend `tensorrt`: NVIDIA's five models, as each release's templates have them.

`problems` and `notes` are for a plan; `repository` writes the directory.
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
