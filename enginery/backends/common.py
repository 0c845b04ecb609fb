"""What the backends share: the environment of their commands, the choice of a release, and checks of sizes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from packaging.version import Version

from enginery.backends.pytorch.quantize import quantized_to
from enginery.backends.quantizing import modelopt_toolchain
from enginery.backends.request import Request
from enginery.core.errors import PlanError, ToolchainError, UsageError
from enginery.core.versions import fits
from enginery.models import SAID_IN, ModelFacts
from enginery.spec import Finding, Precision, Target, warning
from enginery.toolchains import Identify

QUIET = {
    # Without a buffer each line is logged at once, and an error is the last line. Progress bars print no whole lines.
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

OFFLINE = {
    # A step reads its inputs only, and nothing from the network.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}

ENVIRONMENT = {**QUIET, **OFFLINE}

BUILDER_READS: Mapping[str, Mapping[int, Precision]] = {
    "awq": {4: Precision.INT4},
    "gptq": {4: Precision.INT4, 8: Precision.INT8},
}
"""Quantized sources that ONNX Runtime GenAI's builder reads: method -> bits -> the precision to build.

Tried with release 0.18.0. With another precision the builder keeps the source's bits, or ends in a traceback."""
BUILDER_MAY_READ = frozenset({"olive", "quark", "quant_auto"})
"""Quantized sources for which release 0.18.0 has a loader too. They are as its own tools write them: int4."""
PLAIN = "the plain model that it was made from"
NEEDS = ("bits", "group_size")
"""Settings that the builder reads from a quantized source without a default."""

NOT_MULTIPLIED = frozenset({"su", "longrope", "llama3"})
"""Kinds of rotary scaling for which the model's number of positions already includes the factor."""


def release_of(target: Target, refused: Finding | None, chosen: str) -> str:
    """Return the release `chosen` for a target.

    Raises:
        PlanError: when `refused` says why the target's release cannot be used.
    """
    if refused is not None:
        raise PlanError([str(refused)], subject=target.name)
    return chosen


def toolchain_findings(request: Request, release: str, identify: Identify, *, modelopt: bool) -> Iterator[Finding]:
    """A finding if this machine lacks the toolchain of the release or, where `modelopt` is set, that of ModelOpt."""
    try:
        if release:
            request.toolchain(release, identify)
        if modelopt:
            identify(modelopt_toolchain(), "venv")
    except (ToolchainError, UsageError) as error:
        yield Finding("E180", "toolchain", f"{error.subject}: {error.problem}", error.remedy)


def newest_release(wanted: str, candidates: Sequence[str]) -> str:
    """The newest candidate that fits a range or `latest`, a preview only if no stable one fits; empty for none."""
    suitable = [release for release in candidates if fits(wanted, release)]
    stable = [release for release in suitable if not Version(release).is_prerelease]
    return (stable or suitable or [""])[-1]


def format_name(quantization: Mapping[str, Any]) -> str:
    """The name of a source's quantization, and where it is said if that is not `quantization_config`."""
    name = quantization.get("quant_method") or quantization.get("quant_algo") or "in an unnamed format"
    said_in = quantization.get(SAID_IN)
    return f"{name}, as {said_in} says" if said_in else str(name)


def hidden_quantization(quantization: Mapping[str, Any]) -> str:
    """Why no backend reads a quantized source: where it says so, no loader looks. Empty if it says so where they do."""
    said_in = quantization.get(SAID_IN)
    return f"{said_in} says so, and loaders look only into config.json's quantization_config" if said_in else ""


def builder_source_findings(request: Request) -> Iterator[Finding]:
    """A finding (E193) if the source is quantized in a way that the builder of ONNX Runtime GenAI does not read."""
    quantization = request.model.quantization if request.model else None
    if not quantization:
        return
    precision = request.target.precision
    problem = f"the source is quantized already ({format_name(quantization)})"
    fitting = builder_reads(quantization)
    if fitting and not hidden_quantization(quantization):
        if precision not in fitting:
            kept = " or ".join(sorted(fitting))
            yield Finding("E193", "precision", f"{problem}, and stays as it is", f"use precision: {kept}, or {PLAIN}")
        return
    found = None if hidden_quantization(quantization) else quantized_to(quantization)
    otherwise = f", or backend: pytorch and precision: {found}" if found else ""
    yield Finding("E193", "precision", f"{problem}, which the builder does not read", f"use {PLAIN}{otherwise}")


def builder_reads(quantization: Mapping[str, Any]) -> set[Precision]:
    """The precision for which ONNX Runtime GenAI's builder reads a quantized source; empty if it does not read it."""
    method = str(quantization.get("quant_method") or "").lower()
    if method in BUILDER_MAY_READ:
        return {Precision.INT4}
    complete = all(type(quantization.get(name)) is int for name in NEEDS)
    found = BUILDER_READS.get(method, {}).get(quantization["bits"]) if complete else None
    return {found} if found else set()


class Part(NamedTuple):
    """A part of a model that is split evenly over GPUs, such as its attention heads.

    Attributes:
        code: the finding's code if an even split is not possible.
        size: the number to split, such as 32.
        what: the words for the finding's text, such as `32 attention heads`.
        copied: whether several GPUs may also have a copy of the same one.
    """

    code: str
    size: int
    what: str
    copied: bool = False

    def fits(self, gpus: int) -> bool:
        """Whether this number of GPUs can share it evenly."""
        return self.size % gpus == 0 or (self.copied and gpus % self.size == 0)


def split_findings(parts: Sequence[Part], gpus: int) -> Iterator[Finding]:
    """A finding for each part that this number of GPUs cannot share evenly."""
    even = [number for number in range(1, 2 * gpus + 1) if all(part.fits(number) for part in parts)]
    for part in parts:
        if not part.fits(gpus):
            how = "cannot be split or copied evenly to" if part.copied else "cannot be split evenly over"
            remedy = f"use one of {', '.join(map(str, even))}"
            yield Finding(part.code, "tensor_parallel", f"{part.what} {how} {gpus} GPUs", remedy)


def unchecked_notes(request: Request) -> Iterator[str]:
    """A note on sizes of the model that are not known, so that nobody can say whether the GPUs can share it."""
    model, target = request.model, request.target
    if model is None or target.tensor_parallel * target.pipeline_parallel == 1:
        return
    sizes = {
        "attention heads": model.heads,
        "layers": model.layers,
        "width of its feed-forward blocks": model.intermediate_size or model.experts,
    }
    unknown = [name for name, size in sizes.items() if not size]
    if unknown:
        yield f"not known of the model: {', '.join(unknown)}; whether the GPUs can share it evenly was not checked"


def answer_findings(request: Request, longest: int, field: str) -> Iterator[Finding]:
    """Findings for answers so long that a sequence has no space left for the prompt.

    Args:
        request: the target, whose validation says how long answers may be.
        longest: the longest sequence (prompt and answer) in tokens; 0 if it is not known.
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
    """A warning if sequences have more tokens than the model has positions."""
    positions = model_positions(model)
    if positions and length > positions:
        problem = f"sequences of {length} tokens are longer than the {positions} that the model was made for"
        yield warning("W151", field, problem, f"use at most {positions}: beyond it answers get worse")


def rope_form_findings(model: ModelFacts | None, release: str, reader: str | None) -> Iterator[Finding]:
    """A warning if the release does not read `rope_parameters`, and so would take other rotary embeddings.

    Args:
        model: the model; None if it is not known.
        release: the release of TensorRT-LLM.
        reader: the first release that reads `rope_parameters`; None if no release does.
    """
    if model is None or not model.only_new_rope or (reader and Version(release) >= Version(reader)):
        return
    problem = (
        "config.json has the rotary settings in rope_parameters, as transformers 5 writes them;"
        f" {release} reads only rope_theta and rope_scaling, and would take its usual base and no scaling"
    )
    later = f", or use {reader} or a later release" if reader else ""
    yield warning("W191", "release", problem, f"write both at the top level of the model's config.json too{later}")


def model_positions(model: ModelFacts) -> int:
    """The longest sequence that a release builds for by default, in tokens; 0 if it is not known."""
    scaling = model.rope_scaling or {}
    factor = scaling.get("factor", 1)
    stretched = scaling.get("rope_type") not in NOT_MULTIPLIED and isinstance(factor, int | float)
    return int(model.max_positions * factor) if stretched else model.max_positions
