"""The backend `pytorch`: findings, notes, and the chain of steps for a target."""

import dataclasses
from collections.abc import Iterator

from pydantic import JsonValue
from typing_extensions import override

from enginery import toolchains
from enginery.backends.bench.step import bench_call
from enginery.backends.choose import choice_notes
from enginery.backends.common import ENVIRONMENT, release_of, toolchain_findings, unchecked_notes
from enginery.backends.model_kinds import model_notes
from enginery.backends.pytorch.arguments import (
    FROM_SERVING,
    GRAPHS,
    NO_EQUIVALENT,
    OTHER_SERVING,
    TRITON,
    arguments_of,
    max_batch_size,
    warm_up_sizes,
)
from enginery.backends.pytorch.findings import change_notes, findings, unsupported_options
from enginery.backends.pytorch.keys import Layout, chosen_release, is_certain, keys, layout, refusal
from enginery.backends.pytorch.quantize import (
    QUANTIZED,
    activation_dtype,
    algorithm_name,
    dataset,
    device,
    kv_cache,
    must_quantize,
    quantizing_argv,
)
from enginery.backends.quantizing import DRIVER, modelopt_toolchain
from enginery.backends.request import Backend, BackendStep, Chain, Request, command_step
from enginery.backends.runtimes import logits_notes, runtime_for
from enginery.backends.validate import validate_call
from enginery.core.digests import remembered_digest
from enginery.core.versions import is_version
from enginery.spec import DEFAULT_BATCH, BackendName, Finding, Target
from enginery.store import ANY_GPU, Call, Command, Stage, Step
from enginery.toolchains import Identify, driver_sha256
from enginery.triton import keeps_measurements, served_models_digest

RUNNER = "export_checkpoint"


@dataclasses.dataclass(frozen=True)
class PyTorch(Backend):
    """The backend that runs Hugging Face checkpoints with TensorRT-LLM's LLM API."""

    identify: Identify = dataclasses.field(default=toolchains.identify, compare=False)
    name = BackendName.PYTORCH

    @override
    def release(self, target: Target) -> str:
        return release_of(target, refusal(target.release), chosen_release(target.release))

    @override
    def findings(self, request: Request) -> list[Finding]:
        release = chosen_release(request.target.release)
        modelopt = must_quantize(request.target.precision, request.model)
        return [*findings(request), *toolchain_findings(request, release, self.identify, modelopt=modelopt)]

    @override
    def notes(self, request: Request) -> list[str]:
        release = self.release(request.target)
        compared = request.reference and not request.validation.run_script
        return [*_notes(request, release), *(logits_notes("pytorch", release, request.build) if compared else ())]

    @override
    def chain(self, request: Request, weights: str) -> Chain:
        """Quantize the weights if the target needs it, validate the model, write the model repository."""
        making = tuple(self._quantizing(request, weights))
        inputs = {"engine": making[-1].step.key if making else weights, "weights": weights}
        release = self.release(request.target)
        toolchain = request.toolchain(release, self.identify)
        # Validation and serving use the same arguments.
        arguments = arguments_of(request, release)
        recipe = validate_call(request.validation, "pytorch", release, request.world_size, arguments)
        validate = command_step(Stage.VALIDATE, request.checked(inputs), recipe, toolchain, request.gpu.name)
        measuring = bench_call(request.validation.gates.speed, "pytorch", release, request.world_size, arguments)
        bench = command_step(Stage.BENCH, inputs, measuring, toolchain, request.gpu.name)
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=_package(request, release))
        return Chain(making, validate, BackendStep(package), bench)

    def _quantizing(self, request: Request, weights: str) -> Iterator[BackendStep]:
        if not must_quantize(request.target.precision, request.model):
            return
        toolchain = self.identify(modelopt_toolchain(), "venv")
        recipe = Command(
            argv=quantizing_argv(request), environment=ENVIRONMENT, runner=RUNNER, parameters=_expected(request)
        )
        texts = dataset(request)
        places = {"dataset": str(texts)} if texts else {}
        runs_on = "any" if device(request) == "cpu" else ANY_GPU
        step = command_step(Stage.CONVERT, {"weights": weights}, recipe, toolchain, runs_on)
        yield step._replace(places=places)


def _expected(request: Request) -> dict[str, JsonValue]:
    """What the checkpoint must be. The target's name and GPU are left out: other targets may share the checkpoint."""
    expected: dict[str, JsonValue] = {
        "precision": str(request.target.precision),
        "kv_cache": kv_cache(request),
        "dtype": activation_dtype(request.model),
        "driver_sha256": driver_sha256(DRIVER),
    }
    texts = dataset(request)
    return expected | ({"dataset_sha256": remembered_digest(texts)} if texts else {})


def _package(request: Request, release: str) -> Call:
    runtime = runtime_for("pytorch", release)
    sizes: list[JsonValue] = list(warm_up_sizes(request))
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
        "served_models_sha256": served_models_digest(llm=True),
    }
    return Call(function="package_llmapi", version=2, parameters=details)


def _notes(request: Request, release: str) -> Iterator[str]:
    yield from _choices(request, release)
    yield from model_notes(request.model)
    yield from _conversion(request)
    yield from unchecked_notes(request)
    yield from _first_use(request, release)
    yield from change_notes(request, release)
    if request.spec.rollout_target() == request.target:
        fraction = "serving.kv_cache_free_gpu_mem_fraction"
        yield f"a rollout loads the new model while the old one still uses its GPU memory: see {fraction}"
    yield from _ignored(request)


def _choices(request: Request, release: str) -> Iterator[str]:
    yield from choice_notes(request, BackendName.PYTORCH)
    if not is_version(request.target.release):
        yield f"release {request.target.release} is {release}"
    if not is_certain(release):
        yield f"llm is checked against facts of another release: {keys(release).provenance.note}"
    if "max_batch_size" not in request.serving.model_fields_set and max_batch_size(request) == DEFAULT_BATCH:
        yield f"max_batch_size is {DEFAULT_BATCH}, as for TensorRT engines; the release's own default is higher"


def _conversion(request: Request) -> Iterator[str]:
    model, precision = request.model, request.target.precision
    if must_quantize(precision, model):
        yield f"ModelOpt quantizes the weights to {precision}, on the {device(request)} device"
    elif precision in QUANTIZED and model and model.quantization:
        yield f"the source is quantized already ({algorithm_name(model.quantization)}) and is used as it is"


def _first_use(request: Request, release: str) -> Iterator[str]:
    """Notes on what the server does when it starts, so that the first requests do not wait for it."""
    graphs = arguments_of(request, release).get(GRAPHS)
    captured = graphs.get("batch_sizes") if isinstance(graphs, dict) else None
    if isinstance(graphs, dict) and isinstance(captured, list):
        others = "are padded to the next size" if graphs.get("enable_padding") else "run without a graph"
        sizes = ", ".join(map(str, captured))
        yield f"CUDA graphs are captured at the start for batches of {sizes}; others {others}"
    warm = warm_up_sizes(request)
    if warm:
        yield f"the server warms up with batches of {', '.join(map(str, warm))} (off with llm.{TRITON}.warm_up: false)"
    if layout(release) is Layout.OBJECTS and request.llm.get("enable_autotuner") is not False:
        kept = "; launch.md says how to keep its measurements" if keeps_measurements(release) else ""
        yield f"the autotuner measures kernels at each start (enable_autotuner, the release's default){kept}"


def _ignored(request: Request) -> Iterator[str]:
    own = request.target.build.model_fields_set if request.target.build else set()
    for field in unsupported_options(request.spec.build):
        if field not in own and field not in NO_EQUIVALENT:
            yield f"build.{field} is ignored: there is no engine to build"
    for field in sorted(request.serving.model_fields_set - {*FROM_SERVING, *OTHER_SERVING}):
        if getattr(request.serving, field) is not None:
            yield f"serving.{field} is ignored: it is not for the LLM API"
