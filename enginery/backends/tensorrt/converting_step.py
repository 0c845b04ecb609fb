"""The step that makes a checkpoint: shared by all targets that agree on precision, parallelism and release."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from enginery.backends.environment import OFFLINE, QUIET
from enginery.backends.modelopt import DRIVER, MODELOPT, modelopt_toolchain
from enginery.backends.request import BackendStep, Request
from enginery.backends.tensorrt.calibration import dataset_digest, is_path
from enginery.backends.tensorrt.checks_rope import accepts_lost_base
from enginery.backends.tensorrt.converters import Conversion, conversion
from enginery.backends.tensorrt.family_choice import family_for
from enginery.backends.tensorrt.modelopt_converter import modelopt_argv, modelopt_device
from enginery.backends.tensorrt.precision_terms import (
    ALGORITHMS,
    SCRIPT_SMOOTHQUANT,
    activation_dtype,
    calibrates,
    kv_cache,
)
from enginery.drivers import driver_sha256
from enginery.errors import PlanError
from enginery.model_facts import DEFAULT_ROPE_THETA
from enginery.spec import Precision
from enginery.steps import ANY_GPU, Command, Stage, Step
from enginery.toolchains import Identify, ToolchainIdentity

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
