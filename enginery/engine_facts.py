"""What decides where a build's engine runs and what it takes, gathered from the records of the steps that made it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from pydantic import Field

from enginery import gpus
from enginery.errors import UsageError
from enginery.records import StepRecord
from enginery.steps import Frozen, Stage

TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
"""TensorRT is installed under one of these names."""
LIMITS = ("max_batch_size", "max_input_len", "max_output_len", "max_seq_len", "max_num_tokens", "max_beam_width")
"""In requests and tokens, by TensorRT-LLM's names."""
SAID = ("limits", "arguments", "serving")
"""Where a step's facts and parameters speak of them: what was built in, and how it is served."""


class EngineFacts(Frozen):
    """What is known of an engine besides its target; empty where it is not known.

    Attributes:
        compute_capability: of the GPU it was built for, such as `9.0`; empty for `cpu`.
        tensorrt: the version of TensorRT that built it; empty for backends without it.
        limits: the most it takes, such as `max_batch_size` (requests) and `max_seq_len` (tokens).
    """

    compute_capability: str = ""
    tensorrt: str = ""
    limits: Mapping[str, int] = Field(default_factory=dict)


def engine_facts(gpu: str, steps: Sequence[StepRecord]) -> EngineFacts:
    """The facts of an engine.

    Args:
        gpu: the product name of the GPU it was built for, or `cpu`.
        steps: the records of the chain that made it.
    """
    return EngineFacts(
        compute_capability=_compute_capability(gpu),
        tensorrt=next(_tensorrt_versions(steps), ""),
        limits=_limits(steps),
    )


def _compute_capability(gpu: str) -> str:
    try:
        return gpus.find(gpu).compute_capability
    except UsageError:  # one that nvidia-smi named and our table has not
        return ""


def _tensorrt_versions(steps: Sequence[StepRecord]) -> Iterator[str]:
    for record in steps:
        if record.step.stage is Stage.BUILD:
            yield from (record.toolchain[name] for name in TENSORRT_PACKAGES if name in record.toolchain)


def _limits(steps: Sequence[StepRecord]) -> dict[str, int]:
    """Where several places speak of one, the smallest counts: neither the engine nor its server takes more."""
    found: dict[str, int] = {}
    for name, value in _numbers(steps):
        found[name] = min(value, found.get(name, value))
    return {name: found[name] for name in LIMITS if name in found}


def _numbers(steps: Sequence[StepRecord]) -> Iterator[tuple[str, int]]:
    for record in steps:
        if record.step.stage not in {Stage.BUILD, Stage.PACKAGE}:
            continue
        for place in (record.facts, record.step.recipe.parameters):
            for said in (place.get(name) for name in SAID):
                if isinstance(said, Mapping):
                    yield from ((name, value) for name, value in said.items() if name in LIMITS and _is_number(value))


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
