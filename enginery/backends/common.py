"""What the backends share: the environment of their commands, how a release is chosen, and checks of lengths."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from packaging.version import Version
from typing_extensions import override

from enginery import toolchains
from enginery.backends.quantizing import modelopt_toolchain
from enginery.backends.request import Backend, Request
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

NOT_MULTIPLIED = frozenset({"su", "longrope", "llama3"})
"""Kinds of rotary scaling whose factor is already part of the model's positions."""


@dataclasses.dataclass(frozen=True)
class TensorRTLLMBackend(Backend):
    """The common part of the two backends that run a release of TensorRT-LLM.

    Attributes:
        identify: says what a toolchain is.
    """

    identify: Identify = dataclasses.field(default=toolchains.identify, compare=False)

    def refusal(self, wanted: str) -> Finding | None:
        """Why `latest`, a range or a version comes to no release; None where it comes to one."""
        raise NotImplementedError

    def chosen_release(self, wanted: str) -> str:
        """The release that `latest`, a range or a version comes to; empty for none."""
        raise NotImplementedError

    @override
    def release(self, target: Target) -> str:
        refused = self.refusal(target.release)
        if refused is not None:
            raise PlanError([str(refused)], subject=target.name)
        return self.chosen_release(target.release)

    def toolchain_findings(self, request: Request, *, modelopt: bool) -> list[Finding]:
        """Why this machine lacks a toolchain that the target needs: its release's, and ModelOpt's if that is needed."""
        release = self.chosen_release(request.target.release)
        try:
            if release:
                request.toolchain(release, self.identify)
            if modelopt:
                self.identify(modelopt_toolchain(), "venv")
        except (ToolchainError, UsageError) as error:
            return [Finding("E180", "toolchain", f"{error.subject}: {error.problem}", error.remedy)]
        return []


def newest_release(wanted: str, candidates: Sequence[str]) -> str:
    """The newest candidate that fits a range or `latest`; a preview only where nothing else fits. Empty for none."""
    suitable = [release for release in candidates if fits(wanted, release)]
    stable = [release for release in suitable if not Version(release).is_prerelease]
    return (stable or suitable or [""])[-1]


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
