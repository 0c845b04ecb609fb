"""The model repository of the backend `tensorrt`: NVIDIA's five models, as each release's templates have them.

`problems` and `notes` are for a plan; `repository` writes the directory, and `packaging` is the step that does.
"""

from enginery.context import Facts, StepContext
from enginery.triton.inflight.notes import serving_notes
from enginery.triton.inflight.problems import rollout_problems, serving_problems, set_fields, tokenizer_problems

__all__ = [
    "package_inflight",
    "rollout_problems",
    "serving_notes",
    "serving_problems",
    "set_fields",
    "tokenizer_problems",
]


def package_inflight(context: StepContext) -> Facts:
    """Make the model repository of a TensorRT-LLM engine: the step function; see `packaging.package`."""
    from enginery.triton.inflight.packaging import package  # noqa: PLC0415  a plan needs none of it

    return package(context)
