"""The backend `tensorrt`: findings, notes, and the chain of steps for a target."""

import dataclasses
from collections.abc import Iterator

from pydantic import JsonValue
from typing_extensions import override

from enginery import toolchains
from enginery.backends.bench.step import bench_call
from enginery.backends.choose import choice_notes
from enginery.backends.common import ENVIRONMENT, release_of, toolchain_findings, unchecked_notes
from enginery.backends.model_kinds import model_notes
from enginery.backends.quantizing import MODELOPT
from enginery.backends.request import Backend, BackendStep, Chain, Request, command_step
from enginery.backends.runtimes import logits_notes
from enginery.backends.tensorrt.build_options import rendered
from enginery.backends.tensorrt.checks import chain_findings
from enginery.backends.tensorrt.convert import converting_step, user_places
from enginery.backends.tensorrt.converters import conversion
from enginery.backends.tensorrt.converting.refused import changed_notes
from enginery.backends.tensorrt.release import (
    activation_dtype,
    calibrates,
    chosen_release,
    family_for,
    is_known,
    refusal,
    table_notes,
)
from enginery.backends.validate import validate_call
from enginery.core.versions import is_version
from enginery.releases import Certainty, Provenance, capabilities, flags_of
from enginery.spec import FLOATS, BackendName, Finding, Target
from enginery.store import Call, Command, Stage, Step
from enginery.toolchains import SETTING, Identify, ToolchainIdentity, checkout_examples
from enginery.triton import served_models_digest, serving_notes

HOST_MEMORY = "W202"
"""Code of the warning about host memory. If the spec accepts it in `force`, the build is tried anyway."""


@dataclasses.dataclass(frozen=True)
class TensorRT(Backend):
    """The backend that builds engines with TensorRT-LLM."""

    identify: Identify = dataclasses.field(default=toolchains.identify, compare=False)
    name = BackendName.TENSORRT

    @override
    def release(self, target: Target) -> str:
        return release_of(target, refusal(target.release), chosen_release(target.release))

    @override
    def findings(self, request: Request) -> list[Finding]:
        release = chosen_release(request.target.release)
        modelopt = request.convert.converter == MODELOPT and bool(release)
        missing = toolchain_findings(request, release, self.identify, modelopt=modelopt)
        return [*chain_findings(request), *missing]

    @override
    def notes(self, request: Request) -> list[str]:
        release = self.release(request.target)
        compared = request.reference and not request.validation.run_script
        return [*_notes(request, release), *(logits_notes("tensorrt", release, request.build) if compared else ())]

    @override
    def chain(self, request: Request, weights: str) -> Chain:
        """Convert the weights, build the engine, validate it, write the model repository."""
        release = self.release(request.target)
        toolchain = request.toolchain(release, self.identify)
        converting = converting_step(request, release, weights, toolchain, self.identify)
        building = self._building(request, release, converting.step.key, toolchain)
        inputs = {"engine": building.step.key, "weights": weights}
        validation = validate_call(request.validation, "tensorrt", release, request.world_size)
        validate = command_step(Stage.VALIDATE, request.checked(inputs), validation, toolchain, request.gpu.name)
        validate = validate._replace(places=user_places(request))
        measuring = bench_call(request.validation.gates.speed, "tensorrt", release, request.world_size)
        bench = command_step(Stage.BENCH, inputs, measuring, toolchain, request.gpu.name)
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=_package(request, release))
        return Chain((converting, building), validate, BackendStep(package), bench)

    def _building(self, request: Request, release: str, checkpoint: str, toolchain: ToolchainIdentity) -> BackendStep:
        dtype = activation_dtype(request.target.precision, request.model, request.gpu)
        made = rendered(request, release)
        paths = ("--checkpoint_dir", "{checkpoint}", "--output_dir", "{output}")
        recipe = Command(
            argv=("trtllm-build", *paths, *made.flags),
            environment={**ENVIRONMENT, **made.environment},
            runner="build_engine",
            parameters={**dict(_engine(request, release)), "gpu": request.gpu.name, "dtype": dtype},
        )
        return command_step(Stage.BUILD, {"checkpoint": checkpoint}, recipe, toolchain, request.gpu.name)


def _engine(request: Request, release: str) -> Iterator[tuple[str, JsonValue]]:
    """The parameters of the build step: what the engine must be."""
    target = request.target
    yield "release", release
    yield "precision", str(target.precision)
    yield "world_size", request.world_size
    yield "tensor_parallel", target.tensor_parallel
    yield "pipeline_parallel", target.pipeline_parallel
    if request.model is not None:
        yield "architecture", request.model.architecture
    if HOST_MEMORY in request.spec.force:
        yield "accept_host_memory", True


def _package(request: Request, release: str) -> Call:
    details: dict[str, JsonValue] = {
        "model": request.spec.name,
        "target": request.target.name,
        "release": release,
        "serving": request.serving.model_dump(mode="json"),
        "tensor_parallel": request.target.tensor_parallel,
        "pipeline_parallel": request.target.pipeline_parallel,
        "served_models_sha256": served_models_digest(),
    }
    return Call(function="package_inflight", version=1, parameters=details)


def _notes(request: Request, release: str) -> Iterator[str]:
    yield from _choices(request, release)
    yield from _certainty(request, release)
    yield from _conversion(request, release)
    yield from unchecked_notes(request)
    if request.model is not None:
        yield from table_notes(release, request.model, request.target.precision)
    yield from model_notes(request.model)
    yield from _examples(request)
    yield from rendered(request, release).notes
    yield from serving_notes(request.serving, release)
    yield from (f"llm.{name} is ignored: it is for backend pytorch" for name in request.llm)


def _choices(request: Request, release: str) -> Iterator[str]:
    yield from choice_notes(request, BackendName.TENSORRT)
    if not is_version(request.target.release):
        yield f"release {request.target.release} is {release}, the newest known release that builds engines and fits"


def _certainty(request: Request, release: str) -> Iterator[str]:
    if not is_known(release):
        yield from _nearest(f"flags of {release}'s trtllm-build", flags_of(release).provenance)
    yield from _nearest(f"GPUs and precisions of {release}", capabilities(release).provenance)
    if request.model is None:
        yield "the model is not known: what depends on its shape was not checked"
    elif family_for(release, request.model.architecture).indirect:
        yield f"{request.model.architecture} is converted as another model, which {release} treats as the same"
    if request.model is not None and request.model.rope_theta is None and request.model.positions in {"rope", ""}:
        yield "config.json does not say the rotary base, and its class is not known: the checkpoint's is not compared"


def _nearest(what: str, provenance: Provenance) -> Iterator[str]:
    if provenance.certainty is Certainty.NEAREST:
        yield f"{what}: {provenance.note}"


def _conversion(request: Request, release: str) -> Iterator[str]:
    if request.target.precision not in FLOATS:
        dtype = activation_dtype(request.target.precision, request.model, request.gpu)
        yield f"the weights are {request.target.precision}, and computations are in {dtype}"
    family = family_for(release, request.model.architecture).family if request.model else None
    by_modelopt = request.convert.converter == MODELOPT
    script = conversion(request, release, family).script if family and not by_modelopt else None
    if not calibrates(request):
        for field in request.convert.calibration.model_dump(exclude_none=True):
            yield f"convert.calibration.{field} is ignored: {request.target.precision} needs no calibration"
    elif request.convert.calibration.dataset is None and by_modelopt:
        yield "calibrated with a few built-in texts: enough for a first try, too few for good answers"
    elif request.convert.calibration.dataset is None:
        flag = script.find("--calib_dataset") if script else None
        name = f" {flag.default}" if flag and flag.default else ""
        yield f"calibrated with the converter's own data set{name}, which it takes from the Hugging Face Hub"
    if by_modelopt:
        yield f"the checkpoint is made by ModelOpt, not by the scripts of {release}"
    elif script and family:
        yield from _nearest(f"flags of {script.short_title}", script.known.provenance)
        yield from changed_notes(request, script, family)


def _examples(request: Request) -> Iterator[str]:
    """A note on the directory with the release's scripts, if the spec does not name it or it is missing."""
    needed = request.convert.converter != MODELOPT or request.validation.run_script
    if not needed or request.target.toolchain == "container":
        return
    place = checkout_examples(request.convert.examples or "")
    if place is None:
        yield f"the machine that runs this needs the release's examples: name them in {SETTING} or convert.examples"
    elif not place.is_dir():
        yield f"there is no {place} on this machine: the machine that runs this needs the release's examples there"
