"""The step that makes a checkpoint: how it is planned, and how it runs.

All targets with the same precision, parallelism and release share one such step. The step fails if the checkpoint is
not complete or differs from its model.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue, TypeAdapter
from pydantic.dataclasses import dataclass

from enginery.backends.checkpoints.configuration import MODELOPT_ALGORITHMS, CheckpointExpectation
from enginery.backends.checkpoints.verify import verify_checkpoint
from enginery.backends.common import ENVIRONMENT, QUIET
from enginery.backends.quantizing import (
    DRIVER,
    MODELOPT,
    dataset_digest,
    driver_facts,
    modelopt_toolchain,
    own_texts,
    require_same_texts,
)
from enginery.backends.request import BackendStep, Request, command_step
from enginery.backends.tensorrt.converters import accepts_lost_base, conversion, modelopt_argv, modelopt_device
from enginery.backends.tensorrt.release import (
    SCRIPT_SMOOTHQUANT,
    activation_dtype,
    calibrates,
    family_for,
    kv_cache,
)
from enginery.core import process
from enginery.core.digests import file_digest
from enginery.core.errors import CommandError, PlanError, UsageError
from enginery.core.process import FailureCause
from enginery.core.progress import Facts
from enginery.models import DEFAULT_ROPE_THETA
from enginery.releases import QUANTIZE
from enginery.spec import Precision
from enginery.store import ANY_GPU, Command, Stage, StepContext
from enginery.toolchains import Identify, ToolchainIdentity, driver_sha256

RUNNER = "convert_checkpoint"
SCRIPT = 1
"""The script's position in a command. The interpreter comes before it."""
NAME_LENGTH = 12
"""How much of the step's key is in the name of the weights. Code that comes with a model is cached by this name."""


@dataclass(frozen=True, kw_only=True)
class ConvertParameters(CheckpointExpectation):
    """The recipe's parameters: what the checkpoint must be, and how it is made.

    Attributes:
        converter: the script, as `enginery.releases.flags` names it, or `modelopt`.
        dataset_sha256: digest of the user's own texts to calibrate with; empty if there are none.
        weights_name: the beginning of the name under which the script must see the weights' directory.
    """

    converter: str
    dataset_sha256: str = ""
    weights_name: str = "weights"


def converting_step(
    request: Request, release: str, weights: str, toolchain: ToolchainIdentity, identify: Identify
) -> BackendStep:
    """The step that makes a target's checkpoint.

    Raises:
        PlanError: when the release has no converter for the model.
        ToolchainError: when the spec asks for ModelOpt, and there is no toolchain with it.
    """
    converter: str = MODELOPT
    more: dict[str, JsonValue] = {}
    if request.convert.converter == MODELOPT:
        toolchain = identify(modelopt_toolchain(), "venv")
        argv, on_gpu = modelopt_argv(request), modelopt_device(request) == "cuda"
        more["driver_sha256"] = driver_sha256(DRIVER)
    else:
        made = conversion(request, release, _family(request, release))
        argv, converter, on_gpu = made.argv, made.script.command, made.on_gpu
        if made.weights_name:
            more["weights_name"] = made.weights_name
        if accepts_lost_base(request, release, converter):
            more["accepted_rope_theta"] = DEFAULT_ROPE_THETA
    from_hub = converter != MODELOPT and calibrates(request) and own_texts(request.convert.calibration) is None
    environment = QUIET if from_hub else ENVIRONMENT
    parameters = {**dict(_expected(request, release, converter)), **more}
    recipe = Command(argv=argv, environment=environment, runner=RUNNER, parameters=parameters)
    step = command_step(Stage.CONVERT, {"weights": weights}, recipe, toolchain, ANY_GPU if on_gpu else "any")
    return step._replace(places=user_places(request))


def user_places(request: Request) -> dict[str, str]:
    """Placeholder -> path of the user's own files that commands read. A step's key does not contain these paths."""
    convert = request.convert
    found = {"examples": convert.examples} if convert.examples is not None else {}
    texts = own_texts(convert.calibration)
    return found if texts is None else {**found, "dataset": str(texts)}


def convert_checkpoint(context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str]) -> Facts:
    """Convert the weights and check the result. The command runner `convert_checkpoint`.

    Raises:
        UsageError: when the script is not found in the release's examples.
        SourceError: when the texts to calibrate with are not those of the plan.
        CommandError: when the converter fails, or writes nothing.
        CheckpointError: when the checkpoint is not complete, or does not fit its model.
    """
    parameters = TypeAdapter(ConvertParameters).validate_python(dict(context.parameters))
    if parameters.dataset_sha256:
        require_same_texts(Path(context.places.get("dataset", "")), parameters.dataset_sha256)
    in_container = context.toolchain is not None and context.toolchain.identity.kind == "container"
    found = argv if in_container else with_real_script(argv, parameters.converter)
    if found != argv:
        context.log(f"the script is not at {argv[SCRIPT]}, but at {found[SCRIPT]}")
    done = _run(context, found, environment, parameters)
    if not any(context.output.iterdir()):
        raise _nothing_written(found, done.last_lines)
    facts = dict(verify_checkpoint(context.output, context.inputs["weights"], parameters))
    if parameters.accepted_rope_theta is not None:
        facts["accepted_rope_theta"] = parameters.accepted_rope_theta
        context.log(f"a rotary base of {parameters.accepted_rope_theta:g} is accepted, even if the model has another")
    script = Path(found[SCRIPT])
    facts["script_sha256"] = file_digest(script) if script.is_file() else None
    own = driver_facts(done.last_lines)
    return {**facts, "converter": own} if own else facts


def _run(
    context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str], parameters: ConvertParameters
) -> process.Completed:
    """Run the script, which sees the weights by a name without folders.

    Some scripts search the path of the weights for names of models. A path in a store, or one below a home directory
    such as `/home/avila`, would tell them something wrong. ModelOpt's driver does not look at it.
    """
    if parameters.converter == MODELOPT:
        return context.run(argv, environment)
    weights = context.inputs["weights"]
    name = f"{parameters.weights_name}-{context.key[:NAME_LENGTH]}"
    link = context.scratch / name
    link.unlink(missing_ok=True)
    link.symlink_to(weights.absolute())
    place = re.compile(rf"{re.escape(str(weights))}(?=/|$)")
    script = str(Path(argv[SCRIPT]).absolute())
    shown = (place.sub(name, word, count=1) if place.match(word) else word for word in argv[SCRIPT + 1 :])
    return context.run((*argv[:SCRIPT], script, *shown), environment, cwd=context.scratch)


def with_real_script(argv: tuple[str, ...], converter: str) -> tuple[str, ...]:
    """The command with the real path of its script. The scripts moved in a release between 0.17 and 1.3.

    Raises:
        UsageError: when the script is not found, or there are several.
    """
    script = Path(argv[SCRIPT])
    if script.is_file():
        return argv
    parts = ("quantization", QUANTIZE) if converter == QUANTIZE else (script.parent.name, script.name)
    examples = next((parent for parent in script.parents if parent.name == "examples"), script.parent)
    found = sorted(examples.rglob("/".join(parts)))
    if len(found) != 1:
        others = f"there are {', '.join(str(one) for one in found)}" if found else f"there is none in {examples}"
        remedy = "set convert.examples to the examples in a checkout of exactly this release"
        raise UsageError(f"the converter is not at this path, and {others}", subject=str(script), remedy=remedy)
    return (*argv[:SCRIPT], str(found[0]), *argv[SCRIPT + 1 :])


def _family(request: Request, release: str) -> str:
    architecture = request.model.architecture if request.model else ""
    family = family_for(release, architecture).family
    if family is None:
        raise PlanError([f"release: {release} has no converter for {architecture!r}"], subject=request.target.name)
    return family


def _expected(request: Request, release: str, converter: str) -> Iterator[tuple[str, JsonValue]]:
    """What the checkpoint must be. The target's name and GPU are left out: other targets may share the checkpoint."""
    target = request.target
    yield "release", release
    yield "precision", str(target.precision)
    yield "dtype", activation_dtype(target.precision, request.model, request.gpu)
    yield "kv_cache_quant_algo", kv_cache(request).upper() or None
    yield "tensor_parallel", target.tensor_parallel
    yield "pipeline_parallel", target.pipeline_parallel
    texts = own_texts(request.convert.calibration)
    if calibrates(request) and texts is not None:
        yield "dataset_sha256", dataset_digest(texts)
    yield "converter", converter
    own = converter.startswith("convert_checkpoint.py")
    smooth = own and target.precision is Precision.INT8_SMOOTHQUANT
    yield "quant_algo", SCRIPT_SMOOTHQUANT if smooth else MODELOPT_ALGORITHMS.get(target.precision)


def _nothing_written(argv: tuple[str, ...], last_lines: tuple[str, ...]) -> CommandError:
    return CommandError(
        "the converter ended without an error, but it wrote nothing",
        subject=Path(argv[SCRIPT]).name,
        remedy="look at its last lines; the examples may be those of another release",
        cause=FailureCause.INCOMPLETE,
        last_lines=last_lines,
    )
