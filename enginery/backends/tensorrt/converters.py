"""The command that makes a target's checkpoint with the release's own scripts.

`convert_checkpoint.py` of the model's family makes plain checkpoints and those it can quantize itself;
`quantize.py` makes the rest. Nothing is written that the release's recorded flags do not accept.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery.backends.common import BLOCKS, DRIVER, MODELOPT, OFFLINE, QUIET, modelopt_toolchain
from enginery.backends.request import BackendStep, Request
from enginery.backends.tensorrt.release import (
    ALGORITHMS,
    FLOATS,
    SCRIPT_SMOOTHQUANT,
    WEIGHT_ONLY,
    activation_dtype,
    calibrates,
    family_for,
    kv_cache,
)
from enginery.backends.tensorrt.rope import accepts_lost_base
from enginery.core.digests import json_digest, remembered_digest
from enginery.core.errors import PlanError
from enginery.releases import Certainty, Flag, Known, flags_of, script
from enginery.sources import DEFAULT_ROPE_THETA, ModelFacts
from enginery.spec import Finding, Precision
from enginery.store import ANY_GPU, Command, Stage, Step
from enginery.toolchains import Identify, ToolchainIdentity, driver_sha256

# The texts a quantization measures the model with: a name that the converter knows, or files of the user's.


PLACEHOLDER = "{dataset}"
SUFFIXES = (".jsonl", ".json", ".txt", ".csv", ".parquet")


def is_path(dataset: str) -> bool:
    """Whether it names a file or directory; reading a spec makes those that exist absolute."""
    return Path(dataset).is_absolute() or dataset.startswith((".", "~")) or dataset.endswith(SUFFIXES)


def dataset_argument(dataset: str) -> str:
    """How a command names it: files by a placeholder, so that where they lie is no part of the key."""
    return PLACEHOLDER if is_path(dataset) else dataset


def dataset_digest(dataset: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a directory.

    Raises:
        OSError: when it cannot be read.
    """
    if dataset.is_file():
        return remembered_digest(dataset)
    found = sorted(path for path in dataset.rglob("*") if path.is_file())
    return json_digest({str(path.relative_to(dataset)): remembered_digest(path) for path in found})


# Arguments for a script of a release: only what its recorded flags accept is ever written.


MANY = frozenset({"+", "*"})
OPTIONAL = frozenset({"?", "*"})


class Wish(NamedTuple):
    """An argument that a setting of the spec asks for.

    Attributes:
        path: the setting, such as `convert.kv_cache`.
        names: the flag's names in different releases, the usual one first.
        value: its value; None for a switch.
    """

    path: str
    names: tuple[str, ...]
    value: str | None = None


@dataclass(frozen=True)
class Script:
    """A script of a release.

    Attributes:
        release: the release.
        command: its name, such as `quantize.py` or `convert_checkpoint.py llama`.
        known: its flags and how they are known.
    """

    release: str
    command: str
    known: Known[Mapping[str, Flag]]

    @property
    def short_title(self) -> str:
        """Its name for people."""
        name, _, family = self.command.partition(" ")
        of = f" of {family}" if family else ""
        return f"{self.release}'s {name}{of}"

    @property
    def title(self) -> str:
        """The same with the release its flags are known of, where that is another one."""
        nearest = self.known.provenance.certainty is Certainty.NEAREST
        return f"{self.short_title} (known of {self.known.provenance.release})" if nearest else self.short_title

    def find(self, *names: str) -> Flag | None:
        """The flag with one of these names; None when it has none."""
        return find(self.known.value, *names)


class Arguments(NamedTuple):
    """What was asked for as arguments, and what the script does not accept of it."""

    argv: tuple[str, ...]
    refused: tuple[Finding, ...]


def find(flags: Mapping[str, Flag], *names: str) -> Flag | None:
    """The flag with one of these names or aliases."""
    by_name = (flags[name] for name in names if name in flags)
    by_alias = (flag for flag in flags.values() if set(names) & set(flag.aliases))
    return next(by_name, None) or next(by_alias, None)


def write(script: Script, wishes: Iterable[Wish], remedy: str) -> Arguments:
    """The arguments for these wishes, in their order."""
    argv: list[str] = []
    refused = []
    for wish in wishes:
        flag = script.find(*wish.names)
        problem = f"has no {wish.names[0]}" if flag is None else value_problem(flag, wish.value)
        if flag is None or problem:
            told = flag is None and wish.value and not is_placeholder(wish.value)
            asked = f" (asked for: {wish.value})" if told else ""
            refused.append(Finding("E122", wish.path, f"{script.title} {problem}{asked}", remedy))
        else:
            argv += [flag.name] if wish.value is None else [flag.name, wish.value]
    return Arguments(tuple(argv), tuple(refused))


def is_placeholder(value: str) -> bool:
    """Whether it stands for a place that only the run knows."""
    return value.startswith("{")


def value_problem(flag: Flag, value: str | None) -> str:
    """Why a flag does not accept a value; empty where it does."""
    if flag.is_switch:
        return "" if value is None else f"takes no value for {flag.name}"
    if value is None:
        return "" if flag.nargs in OPTIONAL else f"needs a value for {flag.name}"
    if is_placeholder(value):
        return ""
    if flag.type in {"int", "float"} and not _is_number(value, flag.type):
        return f"takes {'an integer' if flag.type == 'int' else 'a number'} for {flag.name}, not {value!r}"
    choices = [str(choice).rpartition("CheckpointType.")[2] for choice in flag.choices]
    if choices and value not in choices:
        return f"does not take {value!r} for {flag.name}, only {', '.join(choices)}"
    return ""


def problems(flags: Mapping[str, Flag], argv: Sequence[str]) -> list[str]:
    """What a script with these flags would refuse in a whole list of arguments, as argparse reads them."""
    found = []
    at = 0
    while at < len(argv):
        name, equals, value = argv[at].partition("=")
        at += 1
        flag = find(flags, name)
        if flag is None:
            found.append(f"has no {name}" if name.startswith("-") else f"takes no argument {name!r} by itself")
            continue
        values: list[str | None] = [value] if equals else [*_values(flags, flag, argv[at:])]
        at += 0 if equals else len(values)
        if _count(flag) > 1 and len(values) != _count(flag):
            found.append(f"takes {_count(flag)} values for {flag.name}, not {len(values)}")
        found += [problem for one in (values or [None]) if (problem := value_problem(flag, one))]
    return found


def _values(flags: Mapping[str, Flag], flag: Flag, rest: Sequence[str]) -> list[str]:
    """The values that follow a flag: as many as it takes, up to the next one."""
    if flag.is_switch:
        return []
    most = len(rest) if flag.nargs in MANY else _count(flag)
    until = next((at for at, text in enumerate(rest) if text.startswith("--") or find(flags, text)), len(rest))
    return list(rest[: min(most, until)])


def _count(flag: Flag) -> int:
    """How many values a flag takes, where that is a number."""
    return int(flag.nargs) if str(flag.nargs).isdecimal() else 1


def _is_number(value: str, kind: str) -> bool:
    try:
        int(value) if kind == "int" else float(value)
    except ValueError:
        return False
    return True


# What a few families' converters must be told of the model, which others find out by themselves.


BAICHUAN_2_VOCABULARY = 125696
BAICHUAN_7B_HIDDEN = 4096


def family_wishes(script: Script, family: str, model: ModelFacts | None) -> Iterator[Wish]:
    """The arguments that only this family's script has; none for `quantize.py`."""
    if not script.command.endswith(f" {family}"):
        return
    if family in {"gemma", "recurrentgemma"}:
        yield Wish("source", ("--ckpt-type", "--ckpt_type"), "hf")
    if model is None:
        return
    if family == "baichuan":
        yield Wish("source", ("--model_version",), _baichuan(model))
    if family == "qwen" and script.find("--qwen_type"):
        yield Wish("source", ("--qwen_type",), "qwen2" if model.architecture.startswith("Qwen2") else "qwen")
    if family == "phi" and script.find("--model_type"):
        yield Wish("source", ("--model_type",), _phi(model))


def _baichuan(model: ModelFacts) -> str:
    generation = "v2" if model.vocab_size >= BAICHUAN_2_VOCABULARY else "v1"
    return f"{generation}_{'7b' if model.hidden_size == BAICHUAN_7B_HIDDEN else '13b'}"


def _phi(model: ModelFacts) -> str:
    if model.architecture != "Phi3ForCausalLM":
        return "phi-2"
    return "Phi-3-mini-128k-instruct" if model.rope_scaling else "Phi-3-mini-4k-instruct"


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
    return Script(release, command, flags_of(release, command))


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


# The command that makes a target's checkpoint with NVIDIA ModelOpt, in a toolchain of its own, and what it refuses.
#
# It asks nothing of the release: ModelOpt writes the checkpoint that `trtllm-build` reads.


FAMILIES = ("GPT2", "GPTBigCode", "Gemma", "Llama", "Mistral", "Mixtral", "QWen", "Qwen2", "MPT", "Dbrx")
"""How the architectures begin that ModelOpt writes a `config.json` of TensorRT-LLM's for."""
AWQ_VOCABULARY = 64
OTHERWISE = "use convert.converter: release"


def modelopt_device(request: Request) -> str:
    """Where it works: on a GPU, unless nothing is calibrated or the spec says otherwise."""
    return request.convert.device or ("cuda" if calibrates(request) else "cpu")


def modelopt_argv(request: Request) -> tuple[str, ...]:
    """The command."""
    return ("{python}", f"{{drivers}}/{DRIVER.name}", *(part for pair in _arguments(request) for part in pair))


def _arguments(request: Request) -> Iterator[tuple[str, str]]:
    target, asked = request.target, request.convert.calibration
    yield "--model_dir", "{weights}"
    yield "--output_dir", "{output}"
    yield "--dtype", activation_dtype(target.precision, request.model, request.gpu)
    yield "--qformat", "full_prec" if target.precision in FLOATS else str(target.precision)
    if kv_cache(request):
        yield "--kv_cache_dtype", kv_cache(request)
    if target.tensor_parallel > 1:
        yield "--tp_size", str(target.tensor_parallel)
    if target.pipeline_parallel > 1:
        yield "--pp_size", str(target.pipeline_parallel)
    if calibrates(request):
        if asked.dataset is not None:
            yield "--calib_dataset", dataset_argument(asked.dataset)
        named = {"size": "size", "max_length": "max_length", "batch_size": "batch_size"}
        for field, name in named.items():
            if (value := getattr(asked, field)) is not None:
                yield f"--calib_{name}", str(value)
        if asked.seed is not None:
            yield "--seed", str(asked.seed)
    yield "--device", modelopt_device(request)


def modelopt_findings(request: Request) -> Iterator[Finding]:
    """What it would refuse, or write so that the engine is wrong."""
    if request.target.precision is Precision.FLOAT32:
        problem = "ModelOpt writes float32 as float16 for TensorRT-LLM"
        yield Finding("E122", "precision", problem, f"use bfloat16 or float16, or {OTHERWISE.removeprefix('use ')}")
    if request.convert.extra_args:
        yield Finding("E122", "convert.extra_args", "with ModelOpt there are no more arguments", "remove them")
    dataset = request.convert.calibration.dataset
    if calibrates(request) and dataset is not None and not is_path(dataset):
        problem = f"ModelOpt runs without the network and knows no data set {dataset!r}"
        yield Finding("E156", "convert.calibration.dataset", problem, "give a .jsonl or .txt file of texts")
    if request.model is not None:
        yield from _model_findings(request, request.model)


def _model_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    architecture, target = model.architecture, request.target
    if not architecture.startswith(FAMILIES):
        yield _refused("convert.converter", f"ModelOpt writes no TensorRT-LLM checkpoint of {architecture}")
    if architecture.startswith("Gemma") and target.pipeline_parallel > 1:
        yield _refused("pipeline_parallel", f"ModelOpt leaves the last layer of {architecture} out with more than 1")
    if target.precision in {Precision.INT4_AWQ, Precision.W4A8_AWQ} and model.vocab_size % AWQ_VOCABULARY:
        problem = (
            f"for {target.precision} ModelOpt fills {model.vocab_size} tokens up to a multiple of {AWQ_VOCABULARY}"
        )
        yield _refused("precision", f"{problem} with some that mean nothing")
    yield from _block_findings(request, model)


def _block_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    precision, gpus = request.target.precision, request.target.tensor_parallel
    block = BLOCKS.get(precision, 1)
    rows = {
        "hidden": model.hidden_size,
        "attention": model.heads * model.head_size,
        "intermediate": model.intermediate_size,
    }
    for name, size in rows.items():
        if block > 1 and size % (block * gpus):
            problem = f"the {name} size {size} over {gpus} GPUs is no multiple of {block}, the block of {precision}"
            yield Finding("E144", "tensor_parallel", problem, "use fewer GPUs, or another precision")


def _refused(path: str, problem: str) -> Finding:
    return Finding("E122", path, problem, OTHERWISE)


# The step that makes a checkpoint: shared by all targets that agree on precision, parallelism and release.


RUNNER = "convert_checkpoint"


def converting_step(
    request: Request, release: str, weights: str, toolchain: ToolchainIdentity, identify: Identify
) -> BackendStep:
    """The step for a target.

    Raises:
        PlanError: when the release has no converter for the model.
        ToolchainError: when ModelOpt is asked for, and there is no toolchain with it.
    """
    if request.convert.converter == MODELOPT:
        recipe, on_gpu = _modelopt(request, release), modelopt_device(request) == "cuda"
        toolchain = identify(modelopt_toolchain(), "venv")
    else:
        made = conversion(request, release, _family(request, release))
        recipe, on_gpu = _release_scripts(request, release, made), made.on_gpu
    step = Step(
        stage=Stage.CONVERT,
        inputs={"weights": weights},
        recipe=recipe,
        toolchain=toolchain.digest(),
        runs_on=ANY_GPU if on_gpu else "any",
    )
    return BackendStep(step, toolchain, user_places(request))


def _release_scripts(request: Request, release: str, made: Conversion) -> Command:
    return Command(
        argv=made.argv,
        environment=QUIET if made.calibrates and _from_hub(request) else {**QUIET, **OFFLINE},
        runner=RUNNER,
        parameters={
            **dict(_expected(request, release)),
            **_algorithm(request, made.script.command),
            **_accepted(request, release, made.script.command),
        },
    )


def _modelopt(request: Request, release: str) -> Command:
    return Command(
        argv=modelopt_argv(request),
        environment={**QUIET, **OFFLINE},
        runner=RUNNER,
        parameters={
            **dict(_expected(request, release)),
            **_algorithm(request, MODELOPT),
            "driver_sha256": driver_sha256(DRIVER),
        },
    )


def _family(request: Request, release: str) -> str:
    architecture = request.model.architecture if request.model else ""
    family = family_for(release, architecture).family
    if family is None:
        raise PlanError([f"release: {release} has no converter for {architecture!r}"], subject=request.target.name)
    return family


def _from_hub(request: Request) -> bool:
    """Whether the texts for a calibration come from the Hugging Face Hub, as the scripts' own do."""
    dataset = request.convert.calibration.dataset
    return dataset is None or not is_path(dataset)


def _expected(request: Request, release: str) -> Iterator[tuple[str, JsonValue]]:
    """What the checkpoint must turn out to be. Nothing of the target's name or GPU: others may share it."""
    target = request.target
    yield "release", release
    yield "precision", str(target.precision)
    yield "dtype", activation_dtype(target.precision, request.model, request.gpu)
    yield "kv_cache_quant_algo", kv_cache(request).upper() or None
    yield "tensor_parallel", target.tensor_parallel
    yield "pipeline_parallel", target.pipeline_parallel
    dataset = request.convert.calibration.dataset
    if calibrates(request) and dataset is not None and is_path(dataset):
        yield "dataset_sha256", dataset_digest(Path(dataset).expanduser())


def _algorithm(request: Request, converter: str) -> dict[str, JsonValue]:
    """How the weights are to turn out, which depends on what makes them."""
    own = converter.startswith("convert_checkpoint.py")
    smooth = own and request.target.precision is Precision.INT8_SMOOTHQUANT
    quantized = SCRIPT_SMOOTHQUANT if smooth else ALGORITHMS.get(request.target.precision)
    return {"converter": converter, "quant_algo": quantized}


def _accepted(request: Request, release: str, converter: str) -> dict[str, JsonValue]:
    """What of the model may be lost, since the spec says so."""
    return {"accepted_rope_theta": DEFAULT_ROPE_THETA} if accepts_lost_base(request, release, converter) else {}


def user_places(request: Request) -> dict[str, str]:
    """The user's own files that commands are given; where they lie is no part of a key."""
    convert = request.convert
    found = {"examples": convert.examples} if convert.examples is not None else {}
    dataset = convert.calibration.dataset
    if dataset is not None and is_path(dataset):
        found["dataset"] = str(Path(dataset).expanduser())
    return found
