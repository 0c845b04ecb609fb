"""What is wrong with a target for the PyTorch backend, found before anything runs.

| code | found |
|---|---|
| E401 | a release without the backend |
| E402 | a precision or GPU that the release, or the backend, does not support |
| E403 | an unknown key of `llm` |
| E404 | a value that a key does not take, alone or together with another key |
| E405 | a key that is set elsewhere, or twice |
| E406 | a build option that has no effect in this backend |
| E407 | a source that is quantized to something else |
| E408 | no NVIDIA GPU |
| E409 | a conversion that ModelOpt's driver cannot do |
| E410 | a validation by a script of the release: there is no such script |
| E195 | a model that generates no text, or has an encoder that the release does not run |
| E196, W195 | an architecture that the release does not run, or is not known to run |
| E140, E142, E143 | a model that cannot be split over the GPUs |
| E153, W151 | answers that leave no room for the prompt, or sequences too long for the model |
| W191 | rotary settings in a form that the release does not read |
| W169 | a value that releases before or after this one refuse; this one was not read |
| W401 | a GPU that the release's support matrix does not list |
"""

from collections.abc import Iterator
from typing import Any

from enginery.backends.common import (
    Part,
    answer_findings,
    hidden_quantization,
    position_findings,
    rope_form_findings,
    split_findings,
)
from enginery.backends.pytorch.arguments import (
    FROM_BUILD,
    NO_EQUIVALENT,
    NOT_IN_LLM,
    TRITON,
    Setting,
    Settings,
    as_objects,
    contradictions,
    newer_name,
    settings,
    with_release_paths,
)
from enginery.backends.pytorch.keys import NESTED, Path, chosen_release, is_certain, keys, refusal
from enginery.backends.pytorch.models import model_findings
from enginery.backends.pytorch.quantize import (
    QUANTIZED,
    READABLE,
    READABLE_FORMATS,
    algorithm_name,
    dataset,
    must_quantize,
    quantized_to,
)
from enginery.backends.pytorch.refusals import applied
from enginery.backends.pytorch.schema import Mistake, mistakes
from enginery.backends.quantizing import uneven_sizes
from enginery.backends.request import Request
from enginery.releases import capabilities, precisions
from enginery.spec import BuildOptions, Finding, Precision, gpus, warning

WARM_UP = {"warm_up"}
READS_ROPE_PARAMETERS = "1.3.0rc3"
"""The first known release whose LLM API reads `rope_parameters` (`RopeParams.from_config`, NVIDIA's PR 10636)."""
CACHE_FORMAT = "convert.kv_cache"
"""A field that `_conversion` checks."""
OF_THE_VALUE = ("must ", "is ")
"""How a refusal begins that is about the argument's own value."""


def findings(request: Request) -> Iterator[Finding]:
    """Everything that stops the target, or may go wrong."""
    yield from _conversion(request)
    yield from _build_options(request)
    if request.validation.run_script:
        problem = "only engines of the backend tensorrt can be run by a script of the release"
        yield Finding("E410", "validation.run_script", problem, "leave it out")
    yield from _triton(request.llm.get(TRITON))
    yield from _split_findings(request)
    refused = refusal(request.target.release)
    if refused is not None:
        yield refused
        return
    release = chosen_release(request.target.release)
    yield from model_findings(request, release)
    yield from _hardware(request, release)
    yield from _arguments(request, release)
    yield from _lengths(request, release)
    if not must_quantize(request.target.precision, request.model):  # ModelOpt's export writes the old form
        yield from _rope_form(request, release)


def unsupported_options(options: BuildOptions) -> Iterator[str]:
    """Build options that the spec sets, but that the LLM API has no argument for."""
    supported = {*FROM_BUILD, *(("max_output_len",) if options.max_input_len is not None else ())}
    for field in BuildOptions.model_fields:
        value = getattr(options, field)
        changes_nothing = value is None or value == () or (field in NO_EQUIVALENT and not value)
        if field in options.model_fields_set and field not in supported and not changes_nothing:
            yield field


def _split_findings(request: Request) -> Iterator[Finding]:
    """Findings for parts that the GPUs cannot share evenly; none if the model's shape is not known.

    The LLM API also asserts that heads and feed-forward sizes divide evenly, but only after it has loaded the model.
    Other parts need no check: the API copies key-value heads if they are too few, splits experts in another way, and
    allows pipeline stages of different sizes.
    """
    model, stages = request.model, request.target.pipeline_parallel
    if model is None:
        return
    parts = []
    if request.llm.get("enable_attention_dp") is not True:  # if it is true, each GPU has all heads
        parts.append(Part("E140", model.heads, f"{model.heads} attention heads"))
    if not model.experts:
        parts.append(Part("E142", model.intermediate_size, f"an intermediate size of {model.intermediate_size}"))
    yield from split_findings(parts, request.target.tensor_parallel)
    if 0 < model.layers < stages:
        problem = f"{model.layers} layers are too few for {stages} stages of a pipeline"
        yield Finding("E143", "pipeline_parallel", problem, f"use at most {model.layers}")


def _rope_form(request: Request, release: str) -> Iterator[Finding]:
    yield from rope_form_findings(request.model, release, READS_ROPE_PARAMETERS)
    if request.model and request.model.rope_by_layer_type and release == READS_ROPE_PARAMETERS:
        problem = f"{release} stops if rope_parameters has an object for each kind of layer, as this config.json has"
        yield warning("W191", "release", problem, "write the settings of transformers 4, or use another release")


def _hardware(request: Request, release: str) -> Iterator[Finding]:
    precision, gpu = request.target.precision, request.gpu
    if precision not in READABLE:
        problem = f"the PyTorch backend does not read {precision} checkpoints"
        yield Finding("E402", "precision", problem, f"use one of {', '.join(READABLE)}")
    elif gpu == gpus.CPU:
        found = ", and this machine has none" if request.target.gpu == "auto" else ""
        yield Finding(
            "E408", "gpu", f"TensorRT-LLM needs an NVIDIA GPU{found}", "name one, or use backend: onnxruntime"
        )
    elif not gpu.supports(precision):
        first = ".".join(map(str, gpus.FIRST_CAPABILITY[precision]))
        problem = f"{precision} needs compute capability {first}; {gpu.name} has {gpu.compute_capability}"
        yield Finding("E402", "precision", problem, "use another precision or GPU")
    else:
        yield from _support_matrix(release, precision, gpu)


def _support_matrix(release: str, precision: Precision, gpu: gpus.Gpu) -> Iterator[Finding]:
    listed, able = capabilities(release), precisions(release, gpu.capability)
    whose = f"the support matrix of {listed.provenance.release}"
    if gpu.capability in listed.value:
        if precision not in able.value:
            problem = f"{whose} has no {precision} for compute capability {gpu.compute_capability} ({gpu.name})"
            yield Finding("E402", "precision", problem, "use another precision, GPU or release")
    elif listed.value and gpu.capability < listed.value[0]:
        problem = f"{whose} begins at compute capability {'.'.join(map(str, listed.value[0]))}; {gpu.name} has"
        yield Finding("E402", "gpu", f"{problem} {gpu.compute_capability}", "use a newer GPU")
    elif precision is Precision.NVFP4 and not any(capability >= (10, 0) for capability in listed.value):
        yield Finding("E402", "precision", f"{whose} has no GPU for nvfp4", "use a newer release")
    else:
        problem = f"{whose} does not list compute capability {gpu.compute_capability} ({gpu.name})"
        yield warning("W401", "gpu", problem, "use a newer release")


def _arguments(request: Request, release: str) -> Iterator[Finding]:
    for name in request.llm:
        if name in NOT_IN_LLM:
            yield Finding("E405", f"llm.{name}", f"is not for llm: {NOT_IN_LLM[name]}", "remove it")
    for given, other in contradictions(request):
        if given.field.split(".")[1] not in NOT_IN_LLM:
            problem = f"is {given.value!r} here and {other.value!r} in {other.field}"
            yield Finding("E405", given.field, problem, "remove one of the two")
    found = settings(request, release).items()
    refused = {path for path, setting in found if setting.field.startswith("llm.") and path[0] in NOT_IN_LLM}
    kept = {path: setting for path, setting in found if path not in refused}
    moved = with_release_paths(release, kept)
    paths = set[str]()
    for mistake in mistakes(release, as_objects(moved)):
        finding = _mistake_finding(mistake, moved, release)
        paths.add(finding.path)
        yield finding
    yield from (one for one in _refusals(kept, release) if one.path not in paths)


def change_notes(request: Request, release: str) -> Iterator[str]:
    """Notes on what the LLM API changes by itself."""
    found = settings(request, release)
    for path, record in applied(release, as_objects(found)):
        if not record.stops:
            known = "" if record.certain else f", as far as known from {record.release}"
            yield f"{_field_of(path, found)}: {release} {record.says}{known}"


def _refusals(found: Settings, release: str) -> Iterator[Finding]:
    """Findings for arguments that the release's validators refuse: the gravest one for each argument."""
    arguments = as_objects(found)
    stopping = [one for one in applied(release, arguments) if one.refusal.stops]
    for path, record in {one.path: one.refusal for one in reversed(stopping)}.items():
        field, named = _field_of(path, found), ".".join(path)
        if field == CACHE_FORMAT:
            continue
        value = found.get(path[:2]) or found.get(path[:1])
        shown = f"{value.value!r} " if value is not None and record.says.startswith(OF_THE_VALUE) else ""
        problem = f"{shown}{record.says}" if field.endswith(named) else f"{named}: {shown}{record.says}"
        remedy = f"correct it for release {release}"
        if record.certain:
            whose = "" if record.release == release else f", as known of {record.release}"
            yield Finding("E404", field, f"{problem}{whose}", remedy)
        else:
            unread = f", as {record.release} checks and {record.unlike} does not; {release} was not read"
            yield warning("W169", field, f"{problem}{unread}", remedy)


def _field_of(path: Path, found: Settings) -> str:
    """The field of the spec that an argument comes from; for one that is not given, where it would be."""
    setting = found.get(path[:2]) or found.get(path[:1])
    return setting.field if setting else f"llm.{'.'.join(path)}"


def _lengths(request: Request, release: str) -> Iterator[Finding]:
    length = settings(request, release).get(("max_seq_len",))
    if length is None or type(length.value) is not int:
        return
    yield from answer_findings(request, length.value, length.field)
    if request.model is not None:
        yield from position_findings(request.model, length.value, length.field)


def _mistake_finding(mistake: Mistake, moved: dict[Path, Setting], release: str) -> Finding:
    """The finding for a mistake. Its path is the field of the spec from which the argument comes."""
    setting = moved.get(mistake.path[:2]) or moved.get(mistake.path[:1])
    named = ".".join(mistake.path)
    field = setting.field if setting else f"llm.{named}"
    ours = bool(setting) and not field.startswith("llm.")
    known = keys(release).provenance
    whose = "" if is_certain(release) else f", as far as known from {known.release}"
    if not mistake.unknown:
        problem = f"{named}: {mistake.problem}" if ours or not field.endswith(named) else mistake.problem
        return Finding("E404", field, problem, f"correct it for release {release}")
    if ours:
        problem = f"the LLM API of {release} has no {named}{whose}"
        return Finding("E403", field, problem, "remove it, or use another release")
    problem = f"the LLM API of {release} has no such key{whose}"
    return Finding("E403", f"llm.{named}", problem, _remedy(mistake, newer_name(mistake.path)))


def _remedy(mistake: Mistake, newer: str) -> str:
    if newer:
        return f"from 1.0 on {newer}" if mistake.path[0] != NESTED else newer
    return f"did you mean {' or '.join(mistake.near)}?" if mistake.near else "remove it, or use another release"


def _conversion(request: Request) -> Iterator[Finding]:
    precision, convert, model = request.target.precision, request.convert, request.model
    if model and model.quantization:
        yield from _source(precision, model.quantization)
    if convert.converter == "release":
        problem = "the release has no script that writes Hugging Face checkpoints"
        yield Finding("E409", "convert.converter", problem, "use auto or modelopt")
    if convert.kv_cache == "int8":
        yield Finding("E409", "convert.kv_cache", "the PyTorch backend has no int8 KV cache", "use auto or fp8")
    if convert.extra_args:
        yield Finding("E409", "convert.extra_args", "ModelOpt's driver takes no extra arguments", "remove them")
    quantizes = must_quantize(precision, model)
    gpus = request.target.tensor_parallel
    for name, size, block in uneven_sizes(model, precision, gpus) if model and quantizes else ():
        problem = f"the {name} size {size} over {gpus} GPUs is no multiple of {block}"
        yield Finding("E409", "precision", f"{problem}, the block size of {precision}", "use another precision")
    texts = dataset(request)
    if quantizes and texts is not None and not texts.is_file():
        problem = f"there is no file {texts}, and ModelOpt's driver fetches no data set by its name"
        remedy = "give a .jsonl or .txt file, or leave it out for built-in texts"
        yield Finding("E409", "convert.calibration.dataset", problem, remedy)


def _source(precision: Precision, quantization: Any) -> Iterator[Finding]:
    algorithm, found = algorithm_name(quantization), quantized_to(quantization)
    if hidden := hidden_quantization(quantization):
        problem = f"the source is quantized ({algorithm}): {hidden}"
        yield Finding("E407", "precision", problem, "use a source that is not quantized")
    elif found is None:
        problem = f"the source is quantized as {algorithm}; Enginery serves only {READABLE_FORMATS}"
        yield Finding("E407", "precision", problem, "use a source that is not quantized")
    elif found is not precision:
        undo = "cannot be undone" if precision not in QUANTIZED else "cannot be quantized again"
        problem = f"the source is quantized to {found} ({algorithm}) and {undo}"
        yield Finding("E407", "precision", problem, f"use precision: {found}, or a source that is not quantized")


def _build_options(request: Request) -> Iterator[Finding]:
    own = set(unsupported_options(request.target.build)) if request.target.build else set()
    for field in unsupported_options(request.build):
        path, reason = f"build.{field}", "there is no engine to build, and the LLM API has no such argument"
        if field in NO_EQUIVALENT:
            yield Finding("E406", path, reason, f"remove it; {NO_EQUIVALENT[field]}")
        elif field in own:
            yield Finding("E406", path, reason, "remove it from this target")


def _triton(config: object) -> Iterator[Finding]:
    """Findings for the served model's own settings in `llm.triton_config`. The only one is `warm_up`."""
    if config is None:
        return
    path = f"llm.{TRITON}"
    if not isinstance(config, dict):
        yield Finding("E404", path, "must be a mapping", "write triton_config: {warm_up: false}")
        return
    for name in config:
        if name not in WARM_UP:
            yield Finding("E403", f"{path}.{name}", "there is no such key", "use warm_up; for others see serving")
    wanted = config.get("warm_up", True)
    sizes = isinstance(wanted, list) and all(type(size) is int and size > 0 for size in wanted)
    if not (isinstance(wanted, bool) or sizes):
        yield Finding("E404", f"{path}.warm_up", f"is {wanted!r}", "use true, false or a list of batch sizes")
