"""The command that makes a target's checkpoint with the release's own scripts.

`convert_checkpoint.py` of the model's family makes plain checkpoints and those it can quantize itself;
`quantize.py` makes the rest. Nothing is written that the release's recorded flags do not accept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from enginery.backends.request import Request
from enginery.backends.tensorrt.calibration import dataset_argument
from enginery.backends.tensorrt.family_options import family_wishes
from enginery.backends.tensorrt.precision_terms import FLOATS, WEIGHT_ONLY, activation_dtype, calibrates, kv_cache
from enginery.backends.tensorrt.script_arguments import Script, Wish, problems, write
from enginery.findings import Finding
from enginery.releases.flags import flags, script
from enginery.spec import Precision

QUANTIZE = "quantize.py"
SMOOTHING = "0.5"
"""How much of SmoothQuant's difficulty goes from activations to weights: what the release's own examples use."""
REMEDY = "use another precision or release, or convert.converter: modelopt"


@dataclass(frozen=True)
class Conversion:
    """How a checkpoint is made.

    Attributes:
        argv: the command, with placeholders.
        script: the script, below the release's examples.
        calibrates: whether it measures the model with texts.
        on_gpu: whether it needs a GPU.
        refused: what was asked for and cannot be written.
    """

    argv: tuple[str, ...]
    script: Script
    calibrates: bool
    on_gpu: bool
    refused: tuple[Finding, ...]


def conversion(request: Request, release: str, family: str) -> Conversion:
    """The command for a target."""
    chosen = _script_for(request, release, family)
    quantizes = chosen.command == QUANTIZE
    measures = calibrates(request)
    wishes = [*_places_and_dtype(request, chosen, family), *_parallel(request)]
    wishes += _quantize(request) if quantizes else _convert(request, chosen)
    wishes += _calibration(request) if measures else ()
    written = write(chosen, wishes, REMEDY)
    extra = request.convert.extra_args
    return Conversion(
        ("{python}", f"{{examples}}/{_location(release, chosen.command)}", *written.argv, *extra),
        chosen,
        measures,
        (measures or quantizes) and request.convert.device != "cpu",
        (*written.refused, *_extra_refused(chosen, written.argv, extra)),
    )


@cache
def script_of(release: str, command: str) -> Script:
    """A script of a release, with its flags."""
    return Script(release, command, flags(release, command))


def _script_for(request: Request, release: str, family: str) -> Script:
    """The family's own script where it can do it, else `quantize.py`."""
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
        # Gemma's script needs more for it than it says.
        return None not in {own.find("--smoothquant"), own.find("--tp_size")}
    return False


@cache
def _location(release: str, command: str) -> str:
    """Where a script lies below the release's examples."""
    return (script(release, command).value or command).removeprefix("examples/")


def _places_and_dtype(request: Request, chosen: Script, family: str) -> Iterator[Wish]:
    yield from family_wishes(chosen, family, request.model)
    yield Wish("source", ("--model_dir", "--model-dir"), "{weights}")
    yield Wish("source", ("--output_dir", "--output-model-dir"), "{output}")
    dtype = activation_dtype(request.target.precision, request.model, request.gpu)
    yield Wish("precision", ("--dtype",), dtype)


def _parallel(request: Request) -> Iterator[Wish]:
    target = request.target
    if target.tensor_parallel > 1:
        yield Wish("tensor_parallel", ("--tp_size", "--world_size", "--world-size"), str(target.tensor_parallel))
    if target.pipeline_parallel > 1:
        yield Wish("pipeline_parallel", ("--pp_size",), str(target.pipeline_parallel))


def _quantize(request: Request) -> Iterator[Wish]:
    precision = request.target.precision
    yield Wish("precision", ("--qformat",), "full_prec" if precision in FLOATS else str(precision))
    if kv_cache(request):
        yield Wish("convert.kv_cache", ("--kv_cache_dtype",), kv_cache(request))


def _convert(request: Request, own: Script) -> Iterator[Wish]:
    precision = request.target.precision
    if precision in WEIGHT_ONLY:
        if own.find("--use_weight_only"):
            yield Wish("precision", ("--use_weight_only",))
        names = ("--weight_only_precision", "--use-weight-only-with-precision")
        yield Wish("precision", names, WEIGHT_ONLY[precision])
    if precision is Precision.INT8_SMOOTHQUANT:
        yield Wish("precision", ("--smoothquant",), SMOOTHING)
        yield Wish("precision", ("--per_token",))
        yield Wish("precision", ("--per_channel",))
    if kv_cache(request):
        yield Wish("convert.kv_cache", ("--int8_kv_cache",))


def _calibration(request: Request) -> Iterator[Wish]:
    """What the spec says of calibration; what it leaves open is the script's own default."""
    asked = request.convert.calibration
    flags_of = {
        "size": ("--calib_size",),
        "max_length": ("--calib_max_seq_length", "--max_seq_length"),
        "batch_size": ("--batch_size",),
        "seed": ("--seed",),
    }
    if asked.dataset is not None:
        yield Wish("convert.calibration.dataset", ("--calib_dataset",), dataset_argument(asked.dataset))
    for field, names in flags_of.items():
        if (value := getattr(asked, field)) is not None:
            yield Wish(f"convert.calibration.{field}", names, str(value))
    if request.convert.device == "cpu":
        yield Wish("convert.device", ("--device",), "cpu")


def _extra_refused(chosen: Script, written: tuple[str, ...], extra: tuple[str, ...]) -> Iterator[Finding]:
    for problem in problems(chosen.known.value, extra):
        yield Finding("E122", "convert.extra_args", f"{chosen.title} {problem}", "correct it, or use another release")
    ours = {argument for argument in written if argument.startswith("-")}
    for argument in extra:
        flag = chosen.find(argument.partition("=")[0]) if argument.startswith("-") else None
        if flag is not None and flag.name in ours:
            problem = f"{flag.name} is set from the spec already"
            yield Finding("E122", "convert.extra_args", problem, "remove it, or change the setting")
