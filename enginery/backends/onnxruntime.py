"""The backend `onnxruntime`: engines made by ONNX Runtime GenAI's model builder, for CPUs and NVIDIA GPUs.

The tables below were tried with release 0.18.0: an engine in every precision of the builder was built and run, on a CPU
and on an H200 (see docs/where-it-ran.md).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from packaging.version import Version
from pydantic import JsonValue
from typing_extensions import override

from enginery import toolchains
from enginery.backends.bench.step import bench_call
from enginery.backends.choose import choice_notes, choose
from enginery.backends.common import ENVIRONMENT as COMMON
from enginery.backends.common import builder_source_findings
from enginery.backends.model_kinds import model_notes
from enginery.backends.onnx_models import model_findings
from enginery.backends.onnx_quantization import ALGORITHMS, algorithm_findings, algorithm_note, algorithm_options
from enginery.backends.request import Backend, BackendStep, Chain, Request, command_step
from enginery.backends.validate import validate_call
from enginery.core.errors import PlanError
from enginery.core.versions import fits, mistake
from enginery.spec import BackendName, BuildOptions, Finding, Gpu, Precision, ServingOptions, Spec, Target, gpus
from enginery.store import Call, Command, Stage, Step
from enginery.toolchains import Identify
from enginery.triton import served_models_digest

Provider = Literal["cpu", "cuda"]

ONNXRUNTIME_PACKAGES: dict[Provider, str] = {"cpu": "onnxruntime-genai", "cuda": "onnxruntime-genai-cuda"}
"""The package that a toolchain must have for a kind of hardware."""

BUILDER_NAMES = {
    Precision.FLOAT32: "fp32",
    Precision.FLOAT16: "fp16",
    Precision.BFLOAT16: "bf16",
    Precision.INT8: "int8",
    Precision.INT4: "int4",
}

SUPPORTED: dict[Provider, tuple[Precision, ...]] = {
    "cpu": (Precision.FLOAT32, Precision.INT8, Precision.INT4),
    "cuda": (Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8, Precision.INT4),
}

REFUSED: dict[tuple[Provider, Precision], str] = {
    ("cpu", Precision.FLOAT16): "the builder writes a float16 graph, but ONNX Runtime fails to run it on a CPU",
    ("cpu", Precision.BFLOAT16): (
        "the builder writes a bfloat16 graph, but ONNX Runtime has no bfloat16 kernels for a CPU"
    ),
    ("cuda", Precision.FLOAT32): (
        "the builder writes a graph without a key-value cache, which ONNX Runtime refuses to load"
    ),
}
"""Precisions that the builder writes without an error, but that do not run -> why."""
NOT_MADE = (Precision.FP8, Precision.NVFP4)

INT4_OPTIONS = {"int4_block_size": "block_size", "int4_accuracy_level": "accuracy_level"}
"""Field of the spec -> name among the builder's extra options."""
INT4_FIELDS = frozenset({"int4_algorithm", *INT4_OPTIONS})

FUSED = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
"""Architectures whose gated MLP the builder's option `fuse_mlp_gate_up` was tried with."""

ONLY_TENSORRT_LLM = ("convert", "llm")
"""Parts of a spec that have no effect in this backend."""

SERVING = frozenset(
    {
        "max_batch_size",
        "max_queue_delay_microseconds",
        "decoupled",
        "preprocessing_instance_count",
        "postprocessing_instance_count",
        "bls_instance_count",
        "exclude_input_in_output",
    }
)
"""The fields of `serving` that have an effect in this backend."""

ENVIRONMENT = {
    **COMMON,
    # ONNX Runtime's wheels send usage reports, and write an identifier into HOME, unless this is set.
    "ORT_DISABLE_TELEMETRY": "1",
    # The builder writes into the engine the commit of any Git repository that contains the toolchain.
    "GIT_DIR": "/dev/null",
}


@dataclasses.dataclass(frozen=True)
class OnnxRuntime(Backend):
    """The backend for one kind of hardware: CPUs and GPUs have different toolchains.

    The toolchains' pin files are read once, so each plan makes a new object.

    Attributes:
        provider: ONNX Runtime's execution provider.
        identify: returns a toolchain's identity.
    """

    provider: Provider
    identify: Identify = dataclasses.field(default=toolchains.identify, compare=False)
    name = BackendName.ONNXRUNTIME

    @override
    def findings(self, request: Request) -> list[Finding]:
        found = (*self._release_findings(request), *self._precision_findings(request.target.precision, request.gpu))
        usable = self._usable_releases(request.target)
        about_model = (*model_findings(request, usable[-1]), *algorithm_findings(request, usable[-1])) if usable else ()
        return [*found, *builder_source_findings(request), *_other_findings(request.target), *about_model]

    @override
    def notes(self, request: Request) -> list[str]:
        target, release = request.target, self.release(request.target)
        resolved = [] if target.release == release else [f"release {target.release} is {release}"]
        return [
            *choice_notes(request, self.name),
            *resolved,
            *model_notes(request.model),
            *self._defaults(request),
            *_ignored(request.spec, target),
        ]

    @override
    def release(self, target: Target) -> str:
        usable = self._usable_releases(target)
        if not usable:
            known = ", ".join(self._pinned)
            raise PlanError([f"release: no toolchain for {target.release!r}; there are {known}"], subject=target.name)
        return usable[-1]

    @override
    def chain(self, request: Request, weights: str) -> Chain:
        """Run the model builder, validate the engine, write the model repository."""
        toolchain = self.identify(self._pinned[self.release(request.target)], request.target.toolchain)
        command = Command(argv=self._argv(request), environment=ENVIRONMENT)
        build = command_step(Stage.BUILD, {"weights": weights}, command, toolchain, request.gpu.name)
        inputs = {"engine": build.step.key, "weights": weights}
        recipe, gpu = validate_call(request.validation), request.gpu.name
        validate = command_step(Stage.VALIDATE, request.checked(inputs), recipe, toolchain, gpu)
        bench = command_step(Stage.BENCH, inputs, bench_call(request.validation.gates.speed), toolchain, gpu)
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=self._package(request))
        return Chain((build,), validate, BackendStep(package), bench)

    def _package(self, request: Request) -> Call:
        details: dict[str, JsonValue] = {
            "model": request.spec.name,
            "target": request.target.name,
            "serving": request.serving.model_dump(mode="json", include=set(SERVING), exclude_none=True),
            "provider": self.provider,
            "served_models_sha256": served_models_digest(),
        }
        return Call(function="package", version=1, parameters=details)

    def _argv(self, request: Request) -> tuple[str, ...]:
        """The builder's command. The builder makes its cache directory beside the output, and removes it at the end."""
        builder = ("{python}", "-m", "onnxruntime_genai.models.builder")
        paths = ("-i", "{weights}", "-o", "{output}", "-c", "{output}.cache")
        precision = request.target.precision
        what = ("-p", BUILDER_NAMES[precision], "-e", self.provider)
        values = {name: getattr(request.build, field) for field, name in INT4_OPTIONS.items()}
        given = (f"{name}={value}" for name, value in values.items() if value is not None)
        release = self.release(request.target)
        int4 = (*algorithm_options(request, release), *given) if precision is Precision.INT4 else ()
        options = ("hf_token=false", "hf_remote=false", *self._fused(request, release), *int4)
        return (*builder, *paths, *what, "--extra_options", *options)

    def _fused(self, request: Request, release: str) -> tuple[str, ...]:
        """On a GPU, the first two matrix products of a gated MLP as one: 5 to 14% faster, with the same numbers."""
        model = request.model
        fits_model = model is not None and model.architecture in FUSED and not model.quantization
        return ("fuse_mlp_gate_up=true",) if self.provider == "cuda" and release in ALGORITHMS and fits_model else ()

    def _usable_releases(self, target: Target) -> list[str]:
        return [release for release in self._pinned if fits(target.release, release)]

    @cached_property  # a plan for a thousand targets needs them thousands of times
    def _pinned(self) -> Mapping[str, str]:
        """The releases that have a toolchain for this hardware, oldest first: release -> toolchain."""
        found = {}
        for name in toolchains.names():
            pin_file = toolchains.describe(name)
            packages = {pin.partition("==")[0] for pin in pin_file.pins}
            if pin_file.backend == self.name and ONNXRUNTIME_PACKAGES[self.provider] in packages:
                found[pin_file.release] = name
        return {release: found[release] for release in sorted(found, key=Version)}

    def _release_findings(self, request: Request) -> Iterator[Finding]:
        target, known = request.target, ", ".join(self._pinned)
        if target.toolchain == "container":
            yield Finding("E304", "toolchain", "onnxruntime has no image of its own", "use venv or host")
        if not self._pinned:
            package = ONNXRUNTIME_PACKAGES[self.provider]
            remedy = f"use gpu: cpu, or pin a toolchain with {package} (see infra/toolchains/README.md)"
            yield Finding("E301", "gpu", f"no toolchain runs onnxruntime on {request.gpu.name}", remedy)
        elif problem := mistake(target.release):
            yield Finding("E101", "release", problem, f"use a release that has a toolchain: {known}")
        elif not self._usable_releases(target):
            is_auto = target.backend is BackendName.AUTO
            why = f": backend auto is {self.name}, since {choose(request).reason}" if is_auto else ""
            yield Finding("E302", "release", f"no toolchain for {target.release!r}{why}", f"there are {known}")

    def _precision_findings(self, precision: Precision, gpu: Gpu) -> Iterator[Finding]:
        usable = [one for one in SUPPORTED[self.provider] if gpu.supports(one)]
        if precision in usable:
            return
        reason = REFUSED.get((self.provider, precision), "the builder has no such quantization")
        if precision in SUPPORTED[self.provider]:
            first = ".".join(str(part) for part in gpus.FIRST_CAPABILITY[precision])
            reason = f"it needs compute capability {first}, this GPU has {gpu.compute_capability}"
        elif precision in NOT_MADE:
            reason = f"the builder keeps weights that are {precision} already, but does not make them"
        problem = f"onnxruntime cannot build {precision} for {gpu.name}: {reason}"
        yield Finding("E303", "precision", problem, f"use one of {', '.join(usable)}")

    def _defaults(self, request: Request) -> Iterator[str]:
        if request.target.precision is Precision.INT4:
            if request.build.int4_algorithm is None:
                yield algorithm_note(request, self.release(request.target))
            if request.build.int4_block_size is None:
                yield "int4_block_size is 32, the builder's default"
            if request.build.int4_accuracy_level is None:
                yield f"int4_accuracy_level is {4 if self.provider == 'cpu' else 0}, the builder's default"


def _other_findings(target: Target) -> Iterator[Finding]:
    for field in ("tensor_parallel", "pipeline_parallel"):
        if getattr(target, field) != 1:
            yield Finding("E305", field, "an engine of onnxruntime runs on one GPU", "use 1")
    for field in ONLY_TENSORRT_LLM:
        if getattr(target, field) is not None:
            yield Finding("E306", field, "it is for TensorRT-LLM and means nothing to onnxruntime", "remove it")
    if target.build is not None:
        for field, reason in _without_meaning(target.build, target.precision):
            yield Finding("E306", f"build.{field}", reason, "remove it from this target")


def _ignored(spec: Spec, target: Target) -> Iterator[str]:
    """Notes on settings that the spec has for all its targets, and that have no effect in this backend."""
    own = target.build.model_fields_set if target.build else set()
    for field, reason in _without_meaning(spec.build, target.precision):
        if field not in own:
            yield f"build.{field} is ignored: {reason}"
    for field in ONLY_TENSORRT_LLM:
        if getattr(spec, field) != Spec.model_fields[field].get_default(call_default_factory=True):
            yield f"{field} is ignored: it is for TensorRT-LLM"
    for field, value in spec.serving_for(target):
        if field not in SERVING and value != ServingOptions.model_fields[field].default:
            yield f"serving.{field} is ignored: it is for TensorRT-LLM"


def _without_meaning(options: BuildOptions, precision: Precision) -> Iterator[tuple[str, str]]:
    for field in BuildOptions.model_fields:
        if field not in INT4_FIELDS and getattr(options, field) not in {None, ()}:
            yield field, "it is for trtllm-build and means nothing to onnxruntime"
    if precision is not Precision.INT4:
        for field in sorted(INT4_FIELDS):
            if getattr(options, field) is not None:
                yield field, f"it means nothing in {precision}"
