"""What the plan asks of the backend `pytorch`: findings, notes, and the chain of steps."""

import dataclasses
from collections.abc import Iterator

from pydantic import JsonValue

from enginery import toolchains
from enginery.answering import TENSORRT_LLM
from enginery.backends.environment import OFFLINE, QUIET
from enginery.backends.modelopt import DRIVER, modelopt_toolchain
from enginery.backends.pytorch.arguments import TRITON, arguments_of, max_batch_size
from enginery.backends.pytorch.findings import findings
from enginery.backends.pytorch.graphs import warm_up_sizes
from enginery.backends.pytorch.notes import notes
from enginery.backends.pytorch.quantizing import (
    activation_dtype,
    dataset,
    device,
    kv_cache,
    must_quantize,
    quantizing_argv,
)
from enginery.backends.pytorch.release_choice import chosen_release, refusal
from enginery.backends.request import BackendStep, Chain, Request, asking
from enginery.backends.toolchain_findings import toolchain_findings
from enginery.digests import remembered_digest
from enginery.drivers import driver_sha256
from enginery.errors import PlanError
from enginery.findings import Finding
from enginery.runtimes import runtime_for
from enginery.spec import BackendName, Target
from enginery.steps import ANY_GPU, Call, Command, Stage, Step
from enginery.toolchains import Identify
from enginery.triton.llmapi.served import served_llm_digest
from enginery.validation import validate_call

RUNNER = "export_checkpoint"
ENVIRONMENT = {**QUIET, **OFFLINE}


@dataclasses.dataclass(frozen=True)
class PyTorch:
    """The backend that runs Hugging Face checkpoints with TensorRT-LLM's LLM API.

    Attributes:
        identify: says what a toolchain is.
    """

    identify: Identify = dataclasses.field(default=toolchains.identity, compare=False)

    @property
    def name(self) -> BackendName:
        """`pytorch`."""
        return BackendName.PYTORCH

    def findings(self, request: Request) -> list[Finding]:
        """Every reason this target cannot be built or may go wrong; paths are those within the target."""
        release = chosen_release(request.target.release)
        modelopt = must_quantize(request.target.precision, request.model)
        return [*findings(request), *toolchain_findings(request, release, self.identify, modelopt=modelopt)]

    def notes(self, request: Request) -> list[str]:
        """What was decided for the user, what means nothing here, and what is known less surely."""
        return list(notes(request, self.release(request.target)))

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
        """Quantize the weights where that is wanted, ask the model the prompts, write the model repository."""
        making = tuple(self._quantizing(request, weights))
        inputs = {"engine": making[-1].step.key if making else weights, "weights": weights}
        release = self.release(request.target)
        toolchain = request.toolchain(release, self.identify)
        validate = asking(request, inputs, _validation(request, release), toolchain)
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=_package(request, release))
        return Chain(making, validate, BackendStep(package))

    def _quantizing(self, request: Request, weights: str) -> Iterator[BackendStep]:
        if not must_quantize(request.target.precision, request.model):
            return
        toolchain = self.identify(modelopt_toolchain(), "venv")
        recipe = Command(
            argv=quantizing_argv(request), environment=ENVIRONMENT, runner=RUNNER, parameters=_expected(request)
        )
        step = Step(
            stage=Stage.CONVERT,
            inputs={"weights": weights},
            recipe=recipe,
            toolchain=toolchain.digest(),
            runs_on="any" if device(request) == "cpu" else ANY_GPU,
        )
        texts = dataset(request)
        yield BackendStep(step, toolchain, {"dataset": str(texts)} if texts else {})


def _expected(request: Request) -> dict[str, JsonValue]:
    """What the checkpoint must turn out to be. Nothing of the target's name or GPU: others may share it."""
    expected: dict[str, JsonValue] = {
        "precision": str(request.target.precision),
        "kv_cache": kv_cache(request),
        "dtype": activation_dtype(request.model),
        "driver_sha256": driver_sha256(DRIVER),
    }
    texts = dataset(request)
    return expected | ({"dataset_sha256": remembered_digest(texts)} if texts else {})


def _validation(request: Request, release: str) -> Call:
    """The prompts, and the arguments that the model is asked with: those it will be served with."""
    how: dict[str, JsonValue] = {
        "backend": str(BackendName.PYTORCH),
        "release": release,
        "world_size": request.world_size,
        "arguments": arguments_of(request, release),
    }
    return validate_call(request.validation, driver=TENSORRT_LLM, parameters=how)


def _package(request: Request, release: str) -> Call:
    runtime = runtime_for("pytorch", release)
    sizes: list[JsonValue] = list(warm_up_sizes(_triton_config(request), max_batch_size(request)))
    details: dict[str, JsonValue] = {
        "model": request.spec.name,
        "target": request.target.name,
        "release": release,
        "precision": str(request.target.precision),
        "world_size": request.world_size,
        "arguments": {**runtime.arguments, **arguments_of(request, release)},
        "llm_class": runtime.name,
        "serving": {
            "decoupled": request.serving.decoupled,
            "exclude_input_in_output": request.serving.exclude_input_in_output,
        },
        "warm_up": sizes,
        "served_models_sha256": served_llm_digest(),
    }
    return Call(function="package_llmapi", version=2, parameters=details)


def _triton_config(request: Request) -> dict[str, JsonValue]:
    config = request.llm.get(TRITON)
    return dict(config) if isinstance(config, dict) else {}
