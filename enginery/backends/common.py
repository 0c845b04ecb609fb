"""Variables that every backend's commands are given."""

from collections.abc import Iterator

from packaging.version import Version

from enginery import toolchains
from enginery.backends.request import Request
from enginery.core.errors import ToolchainError, UsageError
from enginery.sources import ModelFacts
from enginery.spec import Finding, Precision, warning
from enginery.toolchains import DRIVERS, Identify

QUIET = {
    # Lines come when they are printed, so the error is the last of them; progress bars are no lines.
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

OFFLINE = {
    # What a step works on comes from its inputs and from nowhere else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


# Lengths that no backend can serve: answers without room for a prompt, sequences beyond the model's positions.


NOT_MULTIPLIED = frozenset({"su", "longrope", "llama3"})
"""Kinds of rotary scaling whose factor is in the model's positions already."""


def answer_findings(request: Request, longest: int, field: str) -> Iterator[Finding]:
    """Answers that the validation asks for and that leave no room for a prompt.

    Args:
        request: the target.
        longest: prompt and answer together, in tokens; 0 where that is not known.
        field: where it is set.
    """
    validation = request.validation
    wanted = {"max_tokens": validation.max_tokens} | {
        f"prompts.{number}.max_tokens": prompt.max_tokens
        for number, prompt in enumerate(validation.prompts)
        if prompt.max_tokens
    }
    for path, tokens in wanted.items():
        if longest and tokens >= longest:
            problem = f"answers of {tokens} tokens do not fit in sequences of {longest}"
            yield Finding("E153", f"validation.{path}", problem, f"use fewer, or a larger {field}")


def position_findings(model: ModelFacts, asked: int, field: str) -> Iterator[Finding]:
    """Sequences that are longer than the model can tell places apart."""
    positions = model_positions(model)
    if positions and asked > positions:
        problem = f"sequences of {asked} tokens are longer than the {positions} that the model was made for"
        yield warning("W151", field, problem, f"use at most {positions}: beyond it answers get worse")


def model_positions(model: ModelFacts) -> int:
    """The longest sequence that the release builds for by itself; 0 where it is not known."""
    scaling = model.rope_scaling or {}
    factor = scaling.get("factor", 1)
    stretched = scaling.get("rope_type") not in NOT_MULTIPLIED and isinstance(factor, int | float)
    return int(model.max_positions * factor) if stretched else model.max_positions


# NVIDIA ModelOpt as both backends of TensorRT-LLM use it: Enginery's driver, and the toolchain it runs in.


DRIVER = DRIVERS / "convert_modelopt.py"
MODELOPT = "modelopt"
PREFIX = f"{MODELOPT}-"
BLOCKS = {Precision.INT4_AWQ: 128, Precision.W4A8_AWQ: 128, Precision.NVFP4: 16}
"""How many weights in a row share one scale: each GPU's part of a row must be whole blocks."""


def modelopt_toolchain() -> str:
    """The newest toolchain with ModelOpt.

    Raises:
        ToolchainError: when there is none.
    """
    found = [name for name in toolchains.names() if name.startswith(PREFIX)]
    if not found:
        remedy = "pin one (see infra/toolchains/README.md)"
        raise ToolchainError("there is no toolchain with ModelOpt", subject=MODELOPT, remedy=remedy)
    return max(found, key=lambda name: Version(name.removeprefix(PREFIX)))


# Whether the environments that a target of TensorRT-LLM needs can be had.


def toolchain_findings(request: Request, release: str, identify: Identify, *, modelopt: bool) -> list[Finding]:
    """Why the release or ModelOpt cannot be had as the target asks for them.

    Args:
        request: the target.
        release: its release; empty where there is none, which is a finding of its own.
        identify: says what a toolchain is.
        modelopt: whether ModelOpt is needed, too.
    """
    try:
        if release:
            request.toolchain(release, identify)
        if modelopt:
            identify(modelopt_toolchain(), "venv")
    except (ToolchainError, UsageError) as error:
        return [Finding("E180", "toolchain", f"{error.subject}: {error.problem}", error.remedy)]
    return []
