"""The findings of the backend `tensorrt`: what stops a build or may go wrong, found before anything runs."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from enginery.backends.common import (
    Part,
    answer_findings,
    builder_reads,
    format_name,
    hidden_quantization,
    position_findings,
    split_findings,
)
from enginery.backends.model_kinds import kind_finding, unnamed
from enginery.backends.onnx_models import BUILT
from enginery.backends.pytorch.keys import pytorch_remedy
from enginery.backends.pytorch.quantize import quantized_to
from enginery.backends.quantizing import MODELOPT, own_texts
from enginery.backends.request import Request
from enginery.backends.tensorrt.build_defaults import EngineOptions, default_length, in_yaml, unset_value
from enginery.backends.tensorrt.build_options import rendered
from enginery.backends.tensorrt.converters import conversion, modelopt_findings, rope_findings
from enginery.backends.tensorrt.release import (
    FamilyChoice,
    architectures,
    calibrates,
    chosen_release,
    family_for,
    first_release,
    refusal,
)
from enginery.models import ModelFacts, ModelKind
from enginery.releases import (
    builds_engines,
    capabilities,
    precisions,
    releases,
)
from enginery.spec import BuildOptions, Finding, Gpu, Precision, ServingOptions, gpus, warning
from enginery.triton import serving_problems

OF_ACTIVATIONS = frozenset({"E164", "W164"})
"""Codes of findings that depend on the precision. They mean nothing if the precision or the GPU is refused."""

OTHER_NAMES = {
    Precision.INT8: "int8_wo (weights only) or int8_sq (SmoothQuant)",
    Precision.INT4: "int4_awq, or int4_wo (weights only, without calibration)",
}
"""Precisions of ONNX Runtime -> what TensorRT-LLM has instead."""

TWO_ENGINES = "a release makes two engines of it, and Enginery builds and serves one"
NEAR = 3
SIMILAR = 0.8
"""How many architectures to suggest, and how similar their names must be."""
PATH = "convert.calibration.dataset"


def chain_findings(request: Request) -> list[Finding]:
    """What is wrong with a target according to the spec, the release's facts, the GPU and the model."""
    refused = refusal(request.target.release)
    if refused is not None:
        return [refused]
    release = chosen_release(request.target.release)
    hardware = list(hardware_findings(request, release))
    named = {finding.path for finding in hardware}
    options = rendered(request, release).findings
    return [
        *hardware,
        *model_findings(request, release),
        *(one for one in _converter_findings(request, release) if one.path not in named),
        *calibration_findings(request),
        *(one for one in options if not hardware or one.code not in OF_ACTIVATIONS),
        *length_findings(request, release),
        *serving_problems(request.serving, release),
        *serving_findings(request.build, request.serving, release),
    ]


class Need(NamedTuple):
    """What a serving option needs of the engine.

    Attributes:
        serving: the serving option.
        build: the build option it depends on.
        met: (serving option's value, build option's value) -> whether the engine can do it.
        wanted: serving option's value -> the build option's value that it needs.
    """

    serving: str
    build: str
    met: Callable[[Any, Any], bool]
    wanted: Callable[[Any], Any]


NEEDS = (
    Need("enable_kv_cache_reuse", "use_paged_context_fmha", lambda value, has: has or not value, lambda _: True),
    Need("enable_chunked_context", "use_paged_context_fmha", lambda value, has: has or not value, lambda _: True),
    Need("max_beam_width", "max_beam_width", lambda value, has: has >= value, lambda value: value),
    Need("gpu_weights_percent", "weight_streaming", lambda value, has: has or value == 1, lambda _: True),
)


def serving_findings(options: BuildOptions, serving: ServingOptions, release: str) -> tuple[Finding, ...]:
    """A warning (W165) for each serving option that the engine is not built for; none if the release builds no engines.

    Raises:
        UsageError: when the release is so old that nothing is known of it.
    """
    engine = EngineOptions(options, release)
    found = (_unmet(engine, need, getattr(serving, need.serving)) for need in NEEDS) if engine.flags else ()
    return tuple(finding for finding in found if finding)


def _unmet(engine: EngineOptions, need: Need, value: Any) -> Finding | None:
    given = getattr(engine.options, need.build)
    has = unset_value(engine, need.build) if given is None else given
    if value is None or has is None or need.met(value, has):
        return None
    origin = f", the default of {engine.release}" if given is None else ""
    problem = f"is {in_yaml(value)}, and the engine is built with {need.build} {in_yaml(has)}{origin}"
    remedy = f"set build.{need.build} to {in_yaml(need.wanted(value))}"
    return warning("W165", f"serving.{need.serving}", problem, remedy)


def hardware_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings for a GPU that the release does not list, and for a precision that it does not support on this GPU."""
    gpu = request.gpu
    if gpu == gpus.CPU:
        found = ", and this machine has none" if request.target.gpu == "auto" else ""
        problem = f"TensorRT-LLM needs an NVIDIA GPU{found}"
        yield Finding("E110", "gpu", problem, "name one, or use backend: onnxruntime")
    elif gpu.capability not in _listed(release):
        listed = _dotted(_listed(release))
        problem = f"{release} does not list compute capability {gpu.compute_capability} of {gpu.name}, only {listed}"
        having = _span(one for one in releases() if builds_engines(one) and gpu.capability in _listed(one))
        remedy = f"use {having}, or another GPU" if having else "use another GPU: no known release lists it"
        yield Finding("E110", "gpu", problem, remedy)
    yield from _precision_findings(gpu, request.target.precision, release)


def _precision_findings(gpu: Gpu, precision: Precision, release: str) -> Iterator[Finding]:
    path, able = "precision", _precisions_on(release, gpu.capability)
    if precision in OTHER_NAMES:
        problem = f"{precision} is a precision of onnxruntime; TensorRT-LLM has other names"
        yield Finding("E121", path, problem, f"use {OTHER_NAMES[precision]}")
    elif precision not in _precisions_of(release):
        having = _span(one for one in releases() if builds_engines(one) and precision in _precisions_of(one))
        remedy = f"use {having}, or one of {', '.join(sorted(_precisions_of(release)))}"
        yield Finding("E121", path, f"{release} computes in {precision} on no GPU", remedy)
    elif gpu.capability in _listed(release) and precision not in able:
        capable = _dotted(one for one in _listed(release) if precision in _precisions_on(release, one))
        where = f"compute capability {capable}; {gpu.name} has {gpu.compute_capability}"
        remedy = f"use one of {', '.join(sorted(able))}, or another GPU"
        yield Finding("E120", path, f"{release} computes in {precision} on {where}", remedy)


def _dotted(capabilities: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{major}.{minor}" for major, minor in capabilities)


@cache  # the same for every target of a plan
def _listed(release: str) -> tuple[tuple[int, int], ...]:
    """The compute capabilities that a release lists."""
    return capabilities(release).value


@cache
def _precisions_on(release: str, capability: tuple[int, int]) -> frozenset[Precision]:
    """The precisions that a release computes in on a compute capability."""
    return precisions(release, capability).value


@cache
def _precisions_of(release: str) -> frozenset[Precision]:
    """The precisions that a release computes in on some GPU."""
    return frozenset[Precision]().union(*(_precisions_on(release, one) for one in _listed(release)))


def _span(found: Iterable[str]) -> str:
    """The first and the last of some releases, as words for a remedy; empty if there are none."""
    having = list(found)
    if len(having) > 1:
        return f"a release from {having[0]} to {having[-1]}"
    return f"release {having[0]}" if having else ""


def model_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings if the release cannot convert this model, or cannot split it over the GPUs.

    None if the model is not known. The vocabulary is not checked: converters pad it to a multiple of the GPUs.
    """
    model = request.model
    if model is None:
        return
    choice = family_for(release, model.architecture)
    drafts = model.kind is ModelKind.DRAFT  # its own finding says what the converter also needs
    if not drafts and (refused := kind_finding(model, "tensorrt", TWO_ENGINES)):
        yield refused
    elif choice.family is None:
        yield _unknown(model, release, choice)
    if model.quantization:
        how = format_name(model.quantization)
        problem = f"the source is quantized already ({how}); {request.target.precision} is made from plain weights"
        yield Finding("E123", "precision", problem, f"use the plain model{_reader(model, release)}")
    yield from _split_findings(request, model)


def _reader(model: ModelFacts, release: str) -> str:
    """Words for the backend that reads a quantized source; empty if none does."""
    if not model.quantization or hidden_quantization(model.quantization):
        return ""
    found, pytorch = quantized_to(model.quantization), pytorch_remedy(release, model.architecture)
    if found and pytorch:
        return f", or {pytorch}, and precision: {found}"
    kept = builder_reads(model.quantization) if model.architecture in BUILT else set()
    return f", or backend: onnxruntime, and precision: {' or '.join(sorted(kept))}" if kept else ""


def _unknown(model: ModelFacts, release: str, choice: FamilyChoice) -> Finding:
    if choice.obstacle:
        problem = f"{release} makes {model.architecture} with its converter {choice.obstacle}"
        return Finding("E131", "release", problem, f"use {_instead(model, release)}")
    if not model.architecture:
        return unnamed("E130", "a converter is chosen by it", model, frozenset(architectures(release)))
    problem = f"{release} has no converter for {model.architecture}"
    first = first_release(model.architecture)
    if first:
        remedy = f"release {first} has one: use that or a later one, or {_instead(model, release)}"
        return Finding("E130", "release", problem, remedy)
    near = difflib.get_close_matches(model.architecture, architectures(release), n=NEAR, cutoff=SIMILAR)
    like = f"; similar architectures are {', '.join(near)}" if near else ""
    remedy = f"no known release has one: use {_instead(model, release)}"
    return Finding("E130", "release", f"{problem}{like}", remedy)


def _instead(model: ModelFacts, release: str) -> str:
    """What to use for a model without a converter, as words for a remedy."""
    return pytorch_remedy(release, model.architecture) or "another model"


def _split_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    parts = (
        Part("E140", model.heads, f"{model.heads} attention heads"),
        Part("E141", model.kv_heads, f"{model.kv_heads} key-value heads", copied=True),
        Part("E142", model.intermediate_size, f"an intermediate size of {model.intermediate_size}"),
    )
    yield from split_findings(parts, request.target.tensor_parallel)
    pipeline = request.target.pipeline_parallel
    if model.layers % pipeline:
        problem = f"{model.layers} layers are not split evenly over {pipeline} GPUs"
        even = [str(gpus) for gpus in range(1, 2 * pipeline + 1) if model.layers % gpus == 0]
        yield Finding("E143", "pipeline_parallel", problem, f"use one of {', '.join(even)}")


def _converter_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings for what the converter does not accept."""
    if request.convert.converter == MODELOPT:
        yield from modelopt_findings(request)
        yield from rope_findings(request, release, MODELOPT)
    elif request.model and (family := family_for(release, request.model.architecture).family):
        made = conversion(request, release, family)
        yield from made.refused
        yield from rope_findings(request, release, made.script.command)


def calibration_findings(request: Request) -> Iterator[Finding]:
    """What is wrong with the user's texts. ModelOpt's driver reads a file, releases' own scripts read a directory."""
    place = own_texts(request.convert.calibration)
    if place is None or not calibrates(request):
        return
    if not place.exists():
        yield Finding("E155", PATH, f"there is no {place} to calibrate with", "correct the path, or give a name")
    elif place.is_dir() and not any(place.iterdir()):
        yield Finding("E155", PATH, f"{place} is empty: nothing to calibrate with", "put the texts there")
    elif place.is_file() and request.convert.converter != MODELOPT:
        remedy = f"give a directory with only {place.name} in it, or use convert.converter: modelopt"
        yield Finding("E156", PATH, f"the release's scripts read a directory of texts; {place.name} is a file", remedy)


def length_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings for lengths that do not agree with each other, with the validation or with the model."""
    build = request.build
    longest = _longest_sequence(build)
    if longest and build.max_input_len and build.max_input_len > longest:
        problem = f"prompts of {build.max_input_len} tokens do not fit in sequences of {longest}"
        yield Finding("E150", "build.max_input_len", problem, "use fewer, or a larger max_seq_len")
    if build.opt_num_tokens and build.max_num_tokens and build.opt_num_tokens > build.max_num_tokens:
        problem = f"it is tuned for {build.opt_num_tokens} tokens at once, but takes {build.max_num_tokens} at most"
        yield Finding("E152", "build.opt_num_tokens", problem, "use at most max_num_tokens")
    yield from answer_findings(request, longest or default_length(build, release), "build.max_seq_len")
    if request.model is not None:
        field = "max_seq_len" if build.max_seq_len else "max_output_len" if build.max_output_len else "max_input_len"
        yield from position_findings(request.model, longest or build.max_input_len or 0, f"build.{field}")


def _longest_sequence(build: BuildOptions) -> int:
    """The longest sequence (prompt and answer) in tokens; 0 if the spec leaves it to the release."""
    if build.max_seq_len:
        return build.max_seq_len
    return build.max_input_len + build.max_output_len if build.max_input_len and build.max_output_len else 0
