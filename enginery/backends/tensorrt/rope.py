"""Whether the release carries the model's rotary embeddings over: its base, and how it is stretched.

Read from the releases' sources: `RotaryScalingType` in tensorrt_llm/functional.py, and examples/llama of 0.8.0, whose
converter takes both from its flags and, but for a Mixtral's base, not from the model.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import Version

from enginery.backends.pytorch.release import instead
from enginery.backends.request import Request
from enginery.sources import DEFAULT_ROPE_THETA, ModelFacts
from enginery.spec import Finding, warning

SCALING_SINCE = {
    "linear": "0.8.0",
    "dynamic": "0.8.0",
    "su": "0.10.0",
    "longrope": "0.10.0",
    "llama3": "0.12.0",
    "yarn": "0.15.0",
    "mrope": "0.16.0",
}
"""Kind of rotary scaling -> the first release that has it."""
BY_FLAGS = ("0.8.0", ("convert_checkpoint.py llama", "convert_checkpoint.py internlm"))
"""The release and the scripts that take rotary embeddings from flags."""


LOST_BASE = "W133"


def rope_findings(request: Request, release: str, command: str) -> Iterator[Finding]:
    """What would be lost.

    Args:
        request: the target.
        release: its release.
        command: the script that converts, as `enginery.releases.flags` names it.
    """
    model = request.model
    if model is None:
        return
    if model.rope_scaling:
        yield from _scaling_findings(request, release, command, model.rope_scaling)
    if loses_base(request, release, command):
        problem = (
            f"{release}'s converter takes a rotary base of {DEFAULT_ROPE_THETA:g}, this model's is {model.rope_theta:g}"
        )
        yield warning(LOST_BASE, "convert.extra_args", problem, f"{base_remedy(model)}, or use a later release")


def _scaling_findings(request: Request, release: str, command: str, scaling: Mapping[str, Any]) -> Iterator[Finding]:
    kind = str(scaling["rope_type"])
    first = SCALING_SINCE.get(kind)
    if first is None or Version(release) < Version(first):
        problem = f"{release} does not know the model's rotary scaling {kind}"
        remedy = f"use {first} or a later release, or {instead(release)}" if first else f"use {instead(release)}"
        yield Finding("E132", "release", problem, remedy)
    elif takes_flags(release, command) and not _is_told(request, "--rotary_scaling"):
        wanted = f'["--rotary_scaling", "{kind}", "{scaling.get("factor")}"]'
        problem = f"{release}'s converter does not read the model's rotary scaling {kind}"
        yield Finding("E133", "convert.extra_args", problem, f"set them to {wanted}")


def loses_base(request: Request, release: str, command: str) -> bool:
    """Whether the converter writes another base than the model's, since it is not told."""
    model = request.model
    if model is None or model.model_type == "mixtral" or _is_told(request, "--rotary_base"):
        return False
    return takes_flags(release, command) and not math.isclose(model.rope_theta, DEFAULT_ROPE_THETA)


def accepts_lost_base(request: Request, release: str, command: str) -> bool:
    """Whether the spec knows of the loss and wants the engine all the same, as who follows the tutorial does."""
    return LOST_BASE in request.spec.force and loses_base(request, release, command)


def base_remedy(model: ModelFacts) -> str:
    """How to tell the converter."""
    return f'set convert.extra_args to ["--rotary_base", "{model.rope_theta}"]'


def takes_flags(release: str, command: str) -> bool:
    """Whether the script takes rotary embeddings from flags."""
    first, commands = BY_FLAGS
    return Version(release) == Version(first) and command in commands


def _is_told(request: Request, flag: str) -> bool:
    return any(argument.partition("=")[0] == flag for argument in request.convert.extra_args)
