"""Whether the GPUs of a target can share the model: what the LLM API finds out only once it has loaded.

Its attention and its linear layers assert that heads and feed-forward sizes are divided evenly. Key-value heads are
copied where there are too few, experts have their own ways, and stages of a pipeline need not be alike.
"""

from collections.abc import Iterator
from typing import NamedTuple

from enginery.backends.request import Request
from enginery.findings import Finding
from enginery.model_facts import ModelFacts


class Shared(NamedTuple):
    """Something that every GPU takes an equal part of.

    Attributes:
        code: of the finding where it cannot.
        size: how many there are.
        what: what they are, with the number.
    """

    code: str
    size: int
    what: str


def split_findings(request: Request) -> Iterator[Finding]:
    """What does not come out even; nothing where the model's shape is not known."""
    model, gpus, stages = request.model, request.target.tensor_parallel, request.target.pipeline_parallel
    if model is None:
        return
    parts = list(_shared(request, model))
    fitting = [number for number in range(1, 2 * gpus + 1) if not any(part.size % number for part in parts)]
    for part in parts:
        if part.size % gpus:
            problem = f"{part.what} cannot be split evenly over {gpus} GPUs"
            yield Finding(part.code, "tensor_parallel", problem, f"use one of {', '.join(map(str, fitting))}")
    if 0 < model.layers < stages:
        problem = f"{model.layers} layers are too few for {stages} stages of a pipeline"
        yield Finding("E143", "pipeline_parallel", problem, f"use at most {model.layers}")


def _shared(request: Request, model: ModelFacts) -> Iterator[Shared]:
    if request.llm.get("enable_attention_dp") is not True:  # else each GPU has all heads, for its own requests
        yield Shared("E140", model.heads, f"{model.heads} attention heads")
    if not model.experts:
        yield Shared("E142", model.intermediate_size, f"an intermediate size of {model.intermediate_size}")
