"""The commands that make a target's checkpoint, and findings for what they would refuse or lose.

A release has scripts for this: `convert_checkpoint.py` of the model's family makes plain checkpoints, and quantized
ones if it can. `quantize.py` makes the others. Enginery's driver for NVIDIA ModelOpt needs no script of the release.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.version import Version

from enginery.backends.common import rope_form_findings
from enginery.backends.pytorch.keys import pytorch_remedy
from enginery.backends.quantizing import (
    BLOCKS,
    DRIVER,
    MODELOPT,
    PLACEHOLDER,
    calibration_arguments,
    is_path,
    uneven_sizes,
)
from enginery.backends.request import Request
from enginery.backends.tensorrt.converting.refused import refused_findings
from enginery.backends.tensorrt.converting.variants import family_options, has_extra, weights_name
from enginery.backends.tensorrt.release import (
    MODELOPT_FAMILIES,
    WEIGHT_ONLY,
    activation_dtype,
    calibrates,
    kv_cache,
)
from enginery.backends.tensorrt.script_arguments import Script, ScriptOption, argument_problems, script_of
from enginery.models import DEFAULT_ROPE_THETA, ModelFacts
from enginery.releases import QUANTIZE, refusal, refusal_ids, script
from enginery.spec import FLOATS, Finding, Precision, warning

SMOOTHING = "0.5"
"""SmoothQuant's strength: how much difficulty moves from activations to weights. Releases' examples use it, too."""
REMEDY = "use another precision or release"

AWQ_VOCABULARY = 64
BY_RELEASE = "convert.converter: release"

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
"""The release and those of its scripts that do not read rotary embeddings from the model, but from flags."""
LOST_BASE = "W133"


@dataclass(frozen=True)
class Conversion:
    """How a checkpoint is made by a script of the release.

    Attributes:
        argv: the command, with placeholders.
        script: the script that the command runs.
        refused: settings of the spec that the script does not accept.
        weights_name: the name under which the script must see the weights' directory; empty for any.
    """

    argv: tuple[str, ...]
    script: Script
    on_gpu: bool
    refused: tuple[Finding, ...]
    weights_name: str = ""


def conversion(request: Request, release: str, family: str) -> Conversion:
    """The command that converts a target's weights with a script of the release."""
    chosen = _script_for(request, release, family)
    quantizes = chosen.command == QUANTIZE
    measures = calibrates(request)
    options = [*family_options(chosen, family, request), *_common_options(request)]
    options += _quantize_options(request) if quantizes else _convert_options(request, chosen)
    options += _calibration_options(request) if measures else ()
    written, refused = chosen.arguments(options, _remedy(request))
    extra = request.convert.extra_args
    return Conversion(
        ("{python}", f"{{examples}}/{_location(release, chosen.command)}", *written, *extra),
        chosen,
        (measures or quantizes) and request.convert.device != "cpu",
        (*refused, *_extra_refused(chosen, written, extra), *refused_findings(request, chosen, family)),
        weights_name(chosen, family, request),
    )


def modelopt_device(request: Request) -> str:
    """The device that ModelOpt uses: the spec's, else `cuda` if it calibrates and `cpu` if not."""
    return request.convert.device or ("cuda" if calibrates(request) else "cpu")


def modelopt_argv(request: Request) -> tuple[str, ...]:
    """The command that makes the checkpoint with ModelOpt."""
    target = request.target
    flags = {
        "--model_dir": "{weights}",
        "--output_dir": "{output}",
        "--dtype": activation_dtype(target.precision, request.model, request.gpu),
        "--qformat": "full_prec" if target.precision in FLOATS else str(target.precision),
        "--kv_cache_dtype": kv_cache(request),
        "--tp_size": str(target.tensor_parallel) if target.tensor_parallel > 1 else "",
        "--pp_size": str(target.pipeline_parallel) if target.pipeline_parallel > 1 else "",
    }
    words = (word for flag, value in flags.items() if value for word in (flag, value))
    calibration = calibration_arguments(request.convert.calibration) if calibrates(request) else ()
    return ("{python}", f"{{drivers}}/{DRIVER.name}", *words, *calibration, "--device", modelopt_device(request))


def modelopt_findings(request: Request) -> Iterator[Finding]:
    """Findings for what ModelOpt would refuse, or would write in a way that makes the engine wrong."""
    if request.target.precision is Precision.FLOAT32:
        problem = "ModelOpt writes float32 as float16 for TensorRT-LLM"
        yield Finding("E122", "precision", problem, f"use bfloat16 or float16, or {BY_RELEASE}")
    if request.convert.extra_args:
        yield Finding("E122", "convert.extra_args", "ModelOpt takes no extra arguments", "remove them")
    dataset = request.convert.calibration.dataset
    if calibrates(request) and dataset is not None and not is_path(dataset):
        problem = f"ModelOpt runs without the network and knows no data set {dataset!r}"
        yield Finding("E156", "convert.calibration.dataset", problem, "give a .jsonl or .txt file of texts")
    if request.model is not None:
        yield from _modelopt_model_findings(request, request.model)


def rope_findings(request: Request, release: str, command: str) -> Iterator[Finding]:
    """Findings for what a converter loses of the model's rotary embeddings: their base, or how they are scaled.

    Args:
        request: the target.
        release: its release.
        command: the script that converts, as `enginery.releases.flags` names it.
    """
    model = request.model
    if model is None:
        return
    if command != MODELOPT:  # its driver reads both forms; all releases' scripts use transformers 4
        yield from rope_form_findings(model, release, None)
    if model.rope_scaling:
        yield from _scaling_findings(request, release, command, model.rope_scaling)
    if model.rope_theta is None and _needs_base(request, release, command):
        problem = f"config.json does not say the rotary base, and {release}'s converter uses {DEFAULT_ROPE_THETA:g}"
        remedy = 'set convert.extra_args to ["--rotary_base", "..."] with the model\'s base, or use a later release'
        yield warning("W190", "convert.extra_args", problem, remedy)
    elif _loses_base(request, release, command):
        problem = (
            f"{release}'s converter uses a rotary base of {DEFAULT_ROPE_THETA:g}, this model's is {model.rope_theta:g}"
        )
        remedy = f'set convert.extra_args to ["--rotary_base", "{model.rope_theta}"], or use a later release'
        yield warning(LOST_BASE, "convert.extra_args", problem, remedy)


def accepts_lost_base(request: Request, release: str, command: str) -> bool:
    """Whether the converter loses the rotary base, and the spec accepts this in `force`. The tutorials accept it."""
    return LOST_BASE in request.spec.force and _loses_base(request, release, command)


def _scaling_findings(request: Request, release: str, command: str, scaling: Mapping[str, Any]) -> Iterator[Finding]:
    kind = str(scaling["rope_type"])
    first = SCALING_SINCE.get(kind)
    if first is None or Version(release) < Version(first):
        problem = f"{release} does not know the model's rotary scaling {kind}"
        later = f"{first} or a later release" if first else ""
        architecture = request.model.architecture if request.model else ""
        ways = [way for way in (later, pytorch_remedy(release, architecture)) if way]
        yield Finding("E132", "release", problem, f"use {', or '.join(ways) or 'another model'}")
    elif _takes_rope_flags(release, command) and not has_extra(request, "--rotary_scaling"):
        flags = f'["--rotary_scaling", "{kind}", "{scaling.get("factor")}"]'
        problem = f"{release}'s converter does not read the model's rotary scaling {kind}"
        yield Finding("E133", "convert.extra_args", problem, f"set it to {flags}")


def _loses_base(request: Request, release: str, command: str) -> bool:
    """Whether the converter writes another rotary base than the model's, because no flag gives it the model's."""
    base = request.model.rope_theta if request.model else None
    different = base is not None and not math.isclose(base, DEFAULT_ROPE_THETA)
    return different and _needs_base(request, release, command)


def _needs_base(request: Request, release: str, command: str) -> bool:
    """Whether the converter has to be told the rotary base, and is not."""
    model = request.model
    if model is None or model.model_type == "mixtral" or model.positions in {"learned", "alibi", "none"}:
        return False
    return _takes_rope_flags(release, command) and not has_extra(request, "--rotary_base")


def _takes_rope_flags(release: str, command: str) -> bool:
    first, commands = BY_FLAGS
    return Version(release) == Version(first) and command in commands


def _script_for(request: Request, release: str, family: str) -> Script:
    """The family's own script if it can do what the target needs, else `quantize.py`."""
    own = script_of(release, f"convert_checkpoint.py {family}")
    if kv_cache(request) in {"fp8", "nvfp4"} or not _can(own, request.target.precision):
        return script_of(release, QUANTIZE)
    if kv_cache(request) == "int8" and own.find("--int8_kv_cache") is None:
        return script_of(release, QUANTIZE)
    return own


def _can(own: Script, precision: Precision) -> bool:
    if precision in FLOATS:
        return True
    if precision in WEIGHT_ONLY:
        return own.find("--use_weight_only", "--use-weight-only-with-precision") is not None
    if precision is Precision.INT8_SMOOTHQUANT:
        # Gemma's script has `--smoothquant`, but lacks other flags that SmoothQuant needs.
        return None not in {own.find("--smoothquant"), own.find("--tp_size")}
    return False


def _remedy(request: Request) -> str:
    """What to do if a script does not take an argument. ModelOpt is named only if it can make the checkpoint."""
    model = request.model
    able = model is None or not any(_modelopt_model_findings(request, model))
    return f"{REMEDY}, or convert.converter: modelopt" if able else REMEDY


@cache
def _location(release: str, command: str) -> str:
    """The path of a script below the release's examples."""
    return (script(release, command).value or command).removeprefix("examples/")


def _common_options(request: Request) -> Iterator[ScriptOption]:
    target = request.target
    yield ScriptOption("source", ("--model_dir", "--model-dir"), "{weights}")
    yield ScriptOption("source", ("--output_dir", "--output-model-dir"), "{output}")
    yield ScriptOption("precision", ("--dtype",), activation_dtype(target.precision, request.model, request.gpu))
    if target.tensor_parallel > 1:
        names = ("--tp_size", "--world_size", "--world-size")
        yield ScriptOption("tensor_parallel", names, str(target.tensor_parallel))
    if target.pipeline_parallel > 1:
        yield ScriptOption("pipeline_parallel", ("--pp_size",), str(target.pipeline_parallel))


def _quantize_options(request: Request) -> Iterator[ScriptOption]:
    precision = request.target.precision
    yield ScriptOption("precision", ("--qformat",), "full_prec" if precision in FLOATS else str(precision))
    if kv_cache(request):
        yield ScriptOption("convert.kv_cache", ("--kv_cache_dtype",), kv_cache(request))


def _convert_options(request: Request, own: Script) -> Iterator[ScriptOption]:
    precision = request.target.precision
    if precision in WEIGHT_ONLY:
        if own.find("--use_weight_only"):
            yield ScriptOption("precision", ("--use_weight_only",))
        names = ("--weight_only_precision", "--use-weight-only-with-precision")
        yield ScriptOption("precision", names, WEIGHT_ONLY[precision])
    if precision is Precision.INT8_SMOOTHQUANT:
        yield ScriptOption("precision", ("--smoothquant",), SMOOTHING)
        yield ScriptOption("precision", ("--per_token",))
        yield ScriptOption("precision", ("--per_channel",))
    if kv_cache(request):
        yield ScriptOption("convert.kv_cache", _int8_kv_cache(own))


def _int8_kv_cache(own: Script) -> tuple[str, ...]:
    """The flag for an int8 KV cache. Baichuan's script of one release has two, and does not use the usual one."""
    ignored = f"{own.command}: --int8_kv_cache without effect"
    held = ignored in refusal_ids() and refusal(ignored, own.release).value
    return ("--calibrate_kv_cache",) if held else ("--int8_kv_cache",)


def _calibration_options(request: Request) -> Iterator[ScriptOption]:
    """The spec's options for calibration. If the spec leaves one out, the script uses its default."""
    calibration = request.convert.calibration
    flags = {
        "size": ("--calib_size",),
        "max_length": ("--calib_max_seq_length", "--max_seq_length"),
        "batch_size": ("--batch_size",),
        "seed": ("--seed",),
    }
    if calibration.dataset is not None:
        texts = PLACEHOLDER if is_path(calibration.dataset) else calibration.dataset
        yield ScriptOption("convert.calibration.dataset", ("--calib_dataset",), texts)
    for field, names in flags.items():
        if (value := getattr(calibration, field)) is not None:
            yield ScriptOption(f"convert.calibration.{field}", names, str(value))
    if request.convert.device == "cpu":
        yield ScriptOption("convert.device", ("--device",), "cpu")


def _extra_refused(chosen: Script, written: tuple[str, ...], extra: tuple[str, ...]) -> Iterator[Finding]:
    path = "convert.extra_args"
    for problem in argument_problems(chosen.known.value, extra):
        yield Finding("E122", path, f"{chosen.title} {problem}", "correct it, or use another release")
    ours = {argument for argument in written if argument.startswith("-")}
    for argument in extra:
        flag = chosen.find(argument.partition("=")[0]) if argument.startswith("-") else None
        if flag is not None and flag.name in ours:
            problem = f"{flag.name} is set from the spec already"
            yield Finding("E122", path, problem, "remove it, or change the setting")


def _modelopt_model_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    architecture, target, use = model.architecture, request.target, f"use {BY_RELEASE}"
    if not architecture.startswith(MODELOPT_FAMILIES):
        problem = f"ModelOpt writes no TensorRT-LLM checkpoint of {architecture}"
        yield Finding("E122", "convert.converter", problem, use)
    if architecture.startswith("Gemma") and target.pipeline_parallel > 1:
        problem = f"if it is more than 1, ModelOpt leaves out the last layer of {architecture}"
        yield Finding("E122", "pipeline_parallel", problem, use)
    if target.precision in {Precision.INT4_AWQ, Precision.W4A8_AWQ} and model.vocab_size % AWQ_VOCABULARY:
        problem = (
            f"for {target.precision} ModelOpt pads the vocabulary of {model.vocab_size} tokens to a multiple of"
            f" {AWQ_VOCABULARY} with tokens that mean nothing"
        )
        yield Finding("E122", "precision", problem, use)
    if target.precision in BLOCKS:
        for name, size, block in uneven_sizes(model, target.precision, target.tensor_parallel):
            problem = (
                f"the {name} size {size} over {target.tensor_parallel} GPUs is no multiple of {block},"
                f" the block size of {target.precision}"
            )
            yield Finding("E144", "tensor_parallel", problem, "use fewer GPUs, or another precision")
