"""What the plan asks of the backend `tensorrt`: findings, notes, and the chain of steps."""

import dataclasses
from collections.abc import Iterator

from pydantic import JsonValue

from enginery import toolchains
from enginery.answering import TENSORRT_LLM
from enginery.backends.environment import OFFLINE, QUIET
from enginery.backends.modelopt import MODELOPT
from enginery.backends.request import BackendStep, Chain, Request, asking
from enginery.backends.tensorrt.checks import chain_findings
from enginery.backends.tensorrt.converting_step import converting_step, user_places
from enginery.backends.tensorrt.precision_terms import activation_dtype
from enginery.backends.tensorrt.release_choice import chosen_release, refusal
from enginery.backends.tensorrt.remarks import remarks
from enginery.backends.tensorrt.rendering import rendered
from enginery.backends.toolchain_findings import toolchain_findings
from enginery.errors import PlanError
from enginery.findings import Finding
from enginery.spec import BackendName, Target
from enginery.steps import Call, Command, Stage, Step
from enginery.toolchains import Identify, ToolchainIdentity
from enginery.triton.served import served_models_digest
from enginery.validation import validate_call

ENVIRONMENT = {**QUIET, **OFFLINE}

HOST_MEMORY = "W202"
"""The warning about host memory: who accepts it also wants the build to be tried."""


@dataclasses.dataclass(frozen=True)
class TensorRT:
    """The backend that builds engines with TensorRT-LLM.

    Attributes:
        identify: says what a toolchain is.
    """

    identify: Identify = dataclasses.field(default=toolchains.identity, compare=False)

    @property
    def name(self) -> BackendName:
        """`tensorrt`."""
        return BackendName.TENSORRT

    def findings(self, request: Request) -> list[Finding]:
        """Every reason this target cannot be built or may go wrong; paths are those within the target."""
        release = chosen_release(request.target.release)
        modelopt = bool(release) and request.convert.converter == MODELOPT
        return [*chain_findings(request), *toolchain_findings(request, release, self.identify, modelopt=modelopt)]

    def notes(self, request: Request) -> list[str]:
        """What was decided for the user, and what is known less surely."""
        return list(remarks(request, self.release(request.target)))

    def release(self, target: Target) -> str:
        """The release that `latest` or a range comes to.

        Raises:
            PlanError: when there is none.
        """
        refused = refusal(target.release)
        if refused is not None:
            raise PlanError([str(refused)], subject=target.name)
        return chosen_release(target.release)

    def chain(self, request: Request, weights: str) -> Chain:
        """Convert the weights, build the engine, ask it the prompts, write the model repository."""
        release = self.release(request.target)
        toolchain = request.toolchain(release, self.identify)
        converting = converting_step(request, release, weights, toolchain, self.identify)
        building = self._building(request, release, converting.step.key, toolchain)
        inputs = {"engine": building.step.key, "weights": weights}
        validate = asking(request, inputs, _validation(request, release), toolchain, user_places(request))
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=_package(request, release))
        return Chain((converting, building), validate, BackendStep(package))

    def _building(self, request: Request, release: str, checkpoint: str, toolchain: ToolchainIdentity) -> BackendStep:
        dtype = activation_dtype(request.target.precision, request.model, request.gpu)
        made = rendered(request, release)
        places = ("--checkpoint_dir", "{checkpoint}", "--output_dir", "{output}")
        recipe = Command(
            argv=("trtllm-build", *places, *made.flags),
            environment={**ENVIRONMENT, **made.environment},
            runner="build_engine",
            parameters={**dict(_engine(request, release)), "gpu": request.gpu.name, "dtype": dtype},
        )
        inputs = {"checkpoint": checkpoint}
        step = Step(
            stage=Stage.BUILD, inputs=inputs, recipe=recipe, toolchain=toolchain.digest(), runs_on=request.gpu.name
        )
        return BackendStep(step, toolchain)


def _engine(request: Request, release: str) -> Iterator[tuple[str, JsonValue]]:
    """What the engine must turn out to be."""
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


def _validation(request: Request, release: str) -> Call:
    details: dict[str, JsonValue] = {"release": release, "world_size": request.world_size}
    return validate_call(request.validation, driver=TENSORRT_LLM, parameters=details)


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
