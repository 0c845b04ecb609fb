"""Findings for what a script would refuse, fail at or change after it has parsed its arguments.

Each finding rests on a record of the release (`enginery.releases.refusals`). Records of the LLM API and of the engine
builder are checked elsewhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from enginery.backends.quantizing import own_texts
from enginery.backends.request import Request
from enginery.backends.tensorrt.converting.variants import (
    CHATGLM,
    GPT_VARIANTS,
    extra_value,
    glm_version,
    has_extra,
    measures_int8,
    variant_findings,
)
from enginery.backends.tensorrt.release import (
    MODELOPT_FAMILIES,
    WEIGHT_ONLY,
    activation_dtype,
    calibrates,
    kv_cache,
)
from enginery.backends.tensorrt.script_arguments import Script
from enginery.models import ModelFacts
from enginery.releases import QUANTIZE, recorded, refusal, refusal_ids
from enginery.spec import FLOATS, Finding, Precision, warning

EVERY = "convert_checkpoint.py"
"""The name in records of what all families' scripts do."""
AWQ = (Precision.INT4_AWQ, Precision.W4A8_AWQ)
AWQ_TEXTS = 32
DEEPSEEK_GB = 80
SHARING = "--use_embedding_sharing"
PARALLEL_EMBEDDING = "--use_parallel_embedding"
TAKEN_FOR = "Gemma"
"""This pattern of `quantize.py` also fits later models with Gemma in their names, which are built in other ways."""
PLAIN = "GemmaForCausalLM"


@dataclass(frozen=True)
class Case:
    """A target with a model, and the script that converts it."""

    request: Request
    model: ModelFacts
    script: Script
    family: str

    @cached_property
    def by_quantize(self) -> bool:
        """Whether `quantize.py` converts it, and not the script of its family."""
        return self.script.command == QUANTIZE

    @property
    def name(self) -> str:
        """The script's name in records. The family of ChatGLM has another name in later releases."""
        family = CHATGLM[0] if self.family in CHATGLM else self.family
        return QUANTIZE if self.by_quantize else f"convert_checkpoint.py {family}"

    @property
    def precision(self) -> Precision:
        """The precision that the target asks for."""
        return self.request.target.precision

    @property
    def int8_path(self) -> str:
        """The setting because of which the script measures the model to make int8 values."""
        return "precision" if self.precision is Precision.INT8_SMOOTHQUANT else "convert.kv_cache"

    @property
    def instead(self) -> str:
        """A remedy for what depends on the precision."""
        return f"use another precision or release{self.by_modelopt}"

    @property
    def by_modelopt(self) -> str:
        """The end of a remedy, if ModelOpt can make the checkpoint."""
        able = self.model.architecture.startswith(MODELOPT_FAMILIES)
        return ", or convert.converter: modelopt" if able else ""

    @property
    def int8(self) -> str:
        """The setting because of which the script measures the model, with its value."""
        return f"{self.int8_path}: {self.precision if self.int8_path == 'precision' else kv_cache(self.request)}"

    def place(self, what: str, name: str = "") -> str:
        """Where the release does this, in brackets; empty if there is no such record, or the release does not do it."""
        record = f"{name or self.name}: {what}"
        found = refusal(record, self.script.release).value if record in refusal_ids() else None
        if found is None:
            return ""
        of = "" if found.release == self.script.release else f"{found.release}: "
        return f" ({of}{found.place})"

    def fact(self, what: str, fact: str) -> Any:
        """A further fact of a record that holds; empty if it has none."""
        return recorded(f"{self.name}: {what}", self.script.release, fact) or []


def refused_findings(request: Request, script: Script, family: str) -> Iterator[Finding]:
    """Findings for what the code of a script does with a target, though its parser accepts the arguments."""
    yield from variant_findings(script, family, request)
    if request.model is None:
        return
    case = Case(request, request.model, script, family)
    for check in QUANTIZE_CHECKS if case.by_quantize else OWN_CHECKS:
        yield from check(case)
    yield from _data_set(case)


def changed_notes(request: Request, script: Script, family: str) -> Iterator[str]:
    """Notes on what the script changes without an error, and on what it needs of the machine."""
    if request.model is None:
        return
    case = Case(request, request.model, script, family)
    size = request.convert.calibration.size if calibrates(request) else None
    if case.precision in AWQ and size and size > AWQ_TEXTS and case.place("AWQ with more than 32 texts"):
        yield f"{script.short_title} calibrates AWQ with {AWQ_TEXTS} texts, and not with {size}"
    dtype = activation_dtype(case.precision, request.model, request.gpu)
    if dtype == Precision.BFLOAT16 and case.place("bfloat16 without a GPU"):
        yield f"{script.short_title} looks up the GPU for bfloat16: convert on a machine with one, Ampere or newer"


def _pipeline(case: Case) -> Iterator[Finding]:
    asked = case.request.target.pipeline_parallel
    if asked > 1 and (place := case.place("pipeline_parallel")):
        problem = f"{case.script.title} does not split the layers of a model over {asked} GPUs{place}"
        yield Finding("E135", "pipeline_parallel", problem, "use 1, and tensor_parallel for more GPUs")


def _tensor_parallel(case: Case) -> Iterator[Finding]:
    if case.request.target.tensor_parallel == 1:
        return
    path, remedy = "tensor_parallel", "use 1, or another release"
    if case.model.model_type != "mamba2" and (place := case.place("tensor_parallel")):
        yield Finding("E136", path, f"{case.script.title} does not split Mamba over GPUs{place}", "use 1")
    uneven = case.model.vocab_size % case.request.target.tensor_parallel
    if uneven and (place := case.place("tensor_parallel of an uneven vocabulary")):
        problem = f"{case.script.title} cannot split a vocabulary of {case.model.vocab_size} tokens evenly{place}"
        yield Finding("E136", path, problem, "use a number of GPUs that divides it")
    if measures_int8(case.request) and (place := case.place("tensor_parallel with int8")):
        problem = f"with {case.int8}, {case.script.title} converts for one GPU only{place}"
        yield Finding("E136", path, problem, remedy)
    if place := _ignored_by_phi(case):
        yield Finding("E136", path, f"{case.script.title} takes it, but converts for one GPU{place}", remedy)


def _ignored_by_phi(case: Case) -> str:
    return case.place("flags without effect") if case.model.architecture == "PhiForCausalLM" else ""


def _weights_only(case: Case) -> Iterator[Finding]:
    if case.precision in WEIGHT_ONLY and (place := _ignored_by_phi(case)):
        problem = f"{case.script.title} takes it, but does not quantize {case.model.architecture}{place}"
        yield Finding("E138", "precision", problem, case.instead)


def _tied(case: Case) -> Iterator[Finding]:
    """Findings if the script looks for an output embedding that is the same tensor as the input embedding."""
    if not case.model.tied_embeddings:
        return
    exaone = case.model.architecture.startswith("Exaone")
    if measures_int8(case.request):
        if place := case.place("tied embeddings with int8"):
            problem = f"with tied embeddings, {case.script.title} finds no lm_head{place}"
            yield Finding("E137", case.int8_path, problem, case.instead)
        return
    what = "tied embeddings of EXAONE" if exaone else "tied embeddings"
    if not (place := case.place(what)) or (case.fact(what, "sharing") and has_extra(case.request, SHARING)):
        return
    problem = f"the model's embeddings are tied, and {case.script.title} needs a tensor lm_head.weight{place}"
    if case.fact(what, "in_files"):
        yield warning("W134", "release", f"{problem}, which such files rarely have", _tied_remedy(case, what))
    else:
        yield Finding("E137", "release", problem, _tied_remedy(case, what))


def _tied_remedy(case: Case, what: str) -> str:
    remedy = f"use release 0.15.0 or a later one{case.by_modelopt}"
    if case.model.architecture.startswith("Exaone"):
        remedy = "use backend: pytorch"
    if case.fact(what, "sharing") and case.request.target.pipeline_parallel == 1:
        split = f', "{PARALLEL_EMBEDDING}"' if case.request.target.tensor_parallel > 1 else ""
        return f'set convert.extra_args to ["{SHARING}"{split}], or {remedy}'
    return remedy


def _smoothquant(case: Case) -> Iterator[Finding]:
    what, architecture = "SmoothQuant of other layers", case.model.architecture
    if case.precision is not Precision.INT8_SMOOTHQUANT or not (place := case.place(what)):
        return
    able = case.fact(what, "smoothed")
    if architecture not in able:
        problem = f"{case.script.title} smooths only {', '.join(able)}, not {architecture}{place}"
        yield Finding("E138", "precision", problem, case.instead)


def _multi_query(case: Case) -> Iterator[Finding]:
    shared = case.model.kv_heads != case.model.heads
    multi_query = shared or GPT_VARIANTS.get(case.model.architecture) in {"starcoder", "santacoder"}
    if multi_query and measures_int8(case.request) and (place := case.place("int8 of multi-query attention")):
        problem = f"{case.script.title} makes no int8 values of multi-query attention{place}"
        yield Finding("E138", case.int8_path, problem, case.instead)


def _deepseek(case: Case) -> Iterator[Finding]:
    method, scale = (case.model.details.get(name) for name in ("topk_method", "routed_scaling_factor"))
    known = {None, "greedy", "group_limited_greedy"}
    if method not in known and (place := case.place("topk_method")):
        problem = f"{case.script.title} does not know how the model chooses experts: {method}{place}"
        yield Finding("E138", "release", problem, "use backend: pytorch with a later release")
    if method == "greedy" and scale not in {None, 1} and (place := case.place("routed_scaling_factor")):
        problem = f"{case.script.title} takes no routed_scaling_factor of {scale} with a greedy choice{place}"
        yield Finding("E138", "release", problem, "use backend: pytorch with a later release")
    if case.request.gpu.memory_gb < DEEPSEEK_GB and (place := case.place("GPU memory")):
        problem = f"{case.script.title} loads the model only on GPUs of {DEEPSEEK_GB} GB or more{place}"
        yield warning("W136", "gpu", problem, "convert on such a machine, or use a later release")


def _extra_arguments(case: Case) -> Iterator[Finding]:
    for problem, place in _extra_problems(case):
        remedy = "change one of them, or use another release"
        yield Finding("E146", "convert.extra_args", f"{case.script.title} takes no {problem}{place}", remedy)


def _extra_problems(case: Case) -> Iterator[tuple[str, str]]:
    """What the script would refuse because of `convert.extra_args`, each with its place."""
    yield from _loading_problems(case)
    yield from _embedding_problems(case)
    yield from _expert_problems(case)


def _loading_problems(case: Case) -> Iterator[tuple[str, str]]:
    for flag in ("--load_by_shard", "--load_model_on_cpu"):
        given = has_extra(case.request, flag)
        if given and measures_int8(case.request) and (place := case.place(f"{flag} with int8")):
            yield f"{flag} with {case.int8}", place
        if given and case.model.experts and (place := case.place(f"{flag} with experts")):
            yield f"{flag} for a mixture of experts", place


def _embedding_problems(case: Case) -> Iterator[tuple[str, str]]:
    target, vocabulary = case.request.target, case.model.vocab_size
    by_rows = extra_value(case.request, "--embedding_sharding_dim") in {"", "0"}
    split = has_extra(case.request, PARALLEL_EMBEDDING) and by_rows
    uneven = split and vocabulary % target.tensor_parallel
    if uneven and (place := case.place(f"{PARALLEL_EMBEDDING} of an uneven vocabulary")):
        yield f"{PARALLEL_EMBEDDING} for {vocabulary} tokens on {target.tensor_parallel} GPUs", place
    if not has_extra(case.request, SHARING):
        return
    if glm_version(case.model) not in {"chatglm", "glm"} and (place := case.place(SHARING)):
        yield f"{SHARING} for this model", place
    lone = target.tensor_parallel > 1 and not split
    if lone and (place := case.place(f"{SHARING} with tensor_parallel", EVERY)):
        yield f"{SHARING} with tensor_parallel, but without {PARALLEL_EMBEDDING}", place
    if target.pipeline_parallel > 1 and (place := case.place(f"{SHARING} with pipeline_parallel", EVERY)):
        yield f"{SHARING} with pipeline_parallel", place


def _expert_problems(case: Case) -> Iterator[tuple[str, str]]:
    names = ("--moe_tp_size", "--moe_ep_size")
    sizes = [extra_value(case.request, name) for name in names]
    gpus = case.request.target.tensor_parallel
    place = case.place(" and ".join(names), EVERY)
    if place and all(size.isdecimal() for size in sizes) and int(sizes[0]) * int(sizes[1]) != gpus:
        yield f"{names[0]} {sizes[0]} and {names[1]} {sizes[1]} for {gpus} GPUs", place


def _model_type(case: Case) -> Iterator[Finding]:
    """Findings if `quantize.py` does not know the class of the model, or takes it for another."""
    what, architecture = "model type", case.model.architecture
    path = "precision" if case.precision not in FLOATS else "convert.kv_cache"
    known = [(pattern, name) for pattern, name in case.fact(what, "patterns") if _fits(pattern, architecture)]
    pattern, name = known[0] if known else ("", "")
    exported, place = case.fact("no checkpoint for the model type", "exported"), case.place(what)
    if exported and name not in exported:
        npz = case.place("no checkpoint for the model type")
        problem = f"{case.script.title} writes no checkpoint of {architecture} that the engine builder reads{npz}"
        yield Finding("E138", path, problem, case.instead)
    elif not known:
        problem = f"{case.script.title} does not know {architecture}, and exports it without saying what comes out"
        yield warning("W135", path, f"{problem}{place}", case.instead)
    elif pattern == TAKEN_FOR and architecture != PLAIN:
        yield warning("W135", path, f"{case.script.title} takes {architecture} for {PLAIN}{place}", case.instead)


def _fits(pattern: str, architecture: str) -> bool:
    return pattern.casefold() in architecture.casefold()


def _kv_cache(case: Case) -> Iterator[Finding]:
    """A finding if `quantize.py` makes another KV cache than the one that is asked for."""
    place = case.place("--kv_cache_dtype without effect")
    asked = kv_cache(case.request)
    unmeasured = case.precision in {*FLOATS, *WEIGHT_ONLY} and not asked
    int8 = case.precision in {Precision.INT8_SMOOTHQUANT, Precision.INT8_WEIGHT_ONLY}
    made = "" if int8 or unmeasured else "fp8"
    if place and asked != made:
        wanted = f"a KV cache in {asked}" if asked else "a KV cache in the format of the activations"
        instead = f"one in {made}" if made else "none that is quantized"
        problem = f"with {case.precision}, {case.script.title} makes {instead}, and not {wanted}{place}"
        yield Finding("E139", "convert.kv_cache", problem, f"set it to {made or 'auto'}, or use another release")


def _data_set(case: Case) -> Iterator[Finding]:
    """A finding if the script does not know the data set to calibrate with."""
    calibration = case.request.convert.calibration
    what, every = "calibration data set", case.name if case.by_quantize else EVERY
    place = case.place(what, every)
    if calibration.dataset is None or not calibrates(case.request) or not place:
        return
    known = recorded(f"{every}: {what}", case.script.release, "known") or []
    texts, reads = own_texts(calibration), recorded(f"{every}: {what}", case.script.release, "directories")
    if texts is not None and reads:
        return
    if not any(name in (Path(texts).name if texts else calibration.dataset) for name in known):
        problem = f"{case.script.title} does not know this data set{place}"
        able = [*known, *(["a directory of texts"] if reads else [])]
        remedy = f"give {' or '.join(able)}, or use another release{case.by_modelopt}"
        yield Finding("E145", "convert.calibration.dataset", problem, remedy)


Check = Callable[[Case], Iterator[Finding]]
OWN_CHECKS: tuple[Check, ...] = (
    _pipeline,
    _tensor_parallel,
    _weights_only,
    _tied,
    _smoothquant,
    _multi_query,
    _deepseek,
    _extra_arguments,
)
QUANTIZE_CHECKS: tuple[Check, ...] = (_model_type, _kv_cache)
