"""What the backends share: the environment of their commands, how a release is chosen, and checks of lengths."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.version import Version

from enginery.backends.quantizing import modelopt_toolchain
from enginery.backends.request import Request
from enginery.core.errors import PlanError, ToolchainError, UsageError
from enginery.core.versions import fits
from enginery.sources import ModelFacts
from enginery.spec import Finding, Target, warning
from enginery.toolchains import Identify

QUIET = {
    # Each line is logged when it is printed, so the error is the last one. Progress bars print no whole lines.
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

OFFLINE = {
    # A step works on its inputs and on nothing else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}

ENVIRONMENT = {**QUIET, **OFFLINE}

NOT_MULTIPLIED = frozenset({"su", "longrope", "llama3"})
"""Kinds of rotary scaling whose factor is already part of the model's positions."""


def release_of(target: Target, refused: Finding | None, chosen: str) -> str:
    """The release that was chosen for a target.

    Raises:
        PlanError: when it was refused.
    """
    if refused is not None:
        raise PlanError([str(refused)], subject=target.name)
    return chosen


def toolchain_findings(request: Request, release: str, identify: Identify, *, modelopt: bool) -> Iterator[Finding]:
    """Why this machine lacks a toolchain that the target needs: its release's, and ModelOpt's if that is needed."""
    try:
        if release:
            request.toolchain(release, identify)
        if modelopt:
            identify(modelopt_toolchain(), "venv")
    except (ToolchainError, UsageError) as error:
        yield Finding("E180", "toolchain", f"{error.subject}: {error.problem}", error.remedy)


def newest_release(wanted: str, candidates: Sequence[str]) -> str:
    """The newest candidate that fits a range or `latest`; a preview only where nothing else fits. Empty for none."""
    suitable = [release for release in candidates if fits(wanted, release)]
    stable = [release for release in suitable if not Version(release).is_prerelease]
    return (stable or suitable or [""])[-1]


class Part(NamedTuple):
    """Something that every GPU takes an equal part of.

    Attributes:
        code: of the finding where it cannot.
        size: how many there are.
        what: what they are, with the number.
        copied: whether several GPUs may also have the same one.
    """

    code: str
    size: int
    what: str
    copied: bool = False

    def fits(self, gpus: int) -> bool:
        """Whether so many GPUs can share it evenly."""
        return self.size % gpus == 0 or (self.copied and gpus % self.size == 0)


def split_findings(parts: Sequence[Part], gpus: int) -> Iterator[Finding]:
    """What so many GPUs cannot share evenly."""
    even = [number for number in range(1, 2 * gpus + 1) if all(part.fits(number) for part in parts)]
    for part in parts:
        if not part.fits(gpus):
            how = "are neither split evenly nor copied evenly to" if part.copied else "cannot be split evenly over"
            remedy = f"use one of {', '.join(map(str, even))}"
            yield Finding(part.code, "tensor_parallel", f"{part.what} {how} {gpus} GPUs", remedy)


def answer_findings(request: Request, longest: int, field: str) -> Iterator[Finding]:
    """Answers so long that a sequence has no space left for the prompt.

    Args:
        request: the target, whose validation says how long answers may be.
        longest: prompt and answer together, in tokens; 0 where that is not known.
        field: the field of the spec that sets `longest`.
    """
    validation = request.validation
    lengths: Mapping[str, int] = {"max_tokens": validation.max_tokens} | {
        f"prompts.{number}.max_tokens": prompt.max_tokens
        for number, prompt in enumerate(validation.prompts)
        if prompt.max_tokens
    }
    for path, tokens in lengths.items():
        if longest and tokens >= longest:
            problem = f"answers of {tokens} tokens do not fit in sequences of {longest}"
            yield Finding("E153", f"validation.{path}", problem, f"use fewer, or a larger {field}")


def position_findings(model: ModelFacts, length: int, field: str) -> Iterator[Finding]:
    """Sequences that are longer than the model's positions."""
    positions = model_positions(model)
    if positions and length > positions:
        problem = f"sequences of {length} tokens are longer than the {positions} that the model was made for"
        yield warning("W151", field, problem, f"use at most {positions}: beyond it answers get worse")


def model_positions(model: ModelFacts) -> int:
    """The longest sequence that a release builds for by default; 0 where it is not known."""
    scaling = model.rope_scaling or {}
    factor = scaling.get("factor", 1)
    stretched = scaling.get("rope_type") not in NOT_MULTIPLIED and isinstance(factor, int | float)
    return int(model.max_positions * factor) if stretched else model.max_positions
