"""The backend `onnxruntime`: engines made by ONNX Runtime GenAI's model builder, for CPUs and NVIDIA GPUs.

What it can build was tried with release 0.18.0: an engine in every precision of the builder was built and run, on a CPU
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
from enginery.backends.choose import choose
from enginery.backends.common import OFFLINE, QUIET
from enginery.backends.request import Backend, BackendStep, Chain, Request, command_step
from enginery.backends.validate import validate_call
from enginery.core.errors import PlanError
from enginery.core.versions import fits, mistake
from enginery.spec import BackendName, BuildOptions, Finding, Gpu, Precision, ServingOptions, Spec, Target, gpus
from enginery.store import Call, Command, Stage, Step
from enginery.toolchains import Identify, ToolchainIdentity
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

REFUSED_ON: dict[Provider, dict[Precision, str]] = {
    "cpu": {
        Precision.FLOAT16: "the builder writes a float16 graph, but ONNX Runtime fails to run it on a CPU",
        Precision.BFLOAT16: "the builder writes a bfloat16 graph, but ONNX Runtime has no bfloat16 kernels for a CPU",
    },
    "cuda": {
        Precision.FLOAT32: "the builder writes a graph without a key-value cache, which ONNX Runtime refuses to load",
    },
}
"""Precisions that the builder makes without an error and that do not run, and why."""

REFUSED = {
    Precision.FP8: "the builder keeps fp8 weights but does not make them",
    Precision.NVFP4: "the builder keeps nvfp4 weights but does not make them",
}

INT4_OPTIONS = {"int4_block_size": "block_size", "int4_accuracy_level": "accuracy_level"}
"""Field of the spec -> name among the builder's extra options."""

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
    **QUIET,
    **OFFLINE,
    # ONNX Runtime's wheels send usage reports, and write an identifier into HOME, unless this is set.
    "ORT_DISABLE_TELEMETRY": "1",
    # The builder writes into the engine the commit of any Git repository that contains the toolchain.
    "GIT_DIR": "/dev/null",
}


@dataclasses.dataclass(frozen=True)
class OnnxRuntime(Backend):
    """The backend for one kind of hardware, which has toolchains of its own.

    The pin files are read once, so an object is for one plan.

    Attributes:
        provider: ONNX Runtime's execution provider.
        identify: says what a toolchain is.
    """

    provider: Provider
    identify: Identify = dataclasses.field(default=toolchains.identify, compare=False)
    name = BackendName.ONNXRUNTIME

    @classmethod
    def for_gpu(cls, gpu: Gpu, identify: Identify = toolchains.identify) -> "OnnxRuntime":
        """The backend for a GPU, or for the CPU."""
        return cls("cpu" if gpu == gpus.CPU else "cuda", identify)

    @override
    def findings(self, request: Request) -> list[Finding]:
        target, gpu = request.target, request.gpu
        return [*self._release_findings(request), *self._precision_findings(target, gpu), *_other_findings(target)]

    @override
    def notes(self, request: Request) -> list[str]:
        spec, target = request.spec, request.target
        choices = self._choices(request)
        return [*choices, *self._defaults(spec, target), *_ignored(spec, target)]

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
        toolchain = self._toolchain(request.target)
        recipe = Command(argv=self._argv(request.spec, request.target), environment=ENVIRONMENT)
        build = command_step(Stage.BUILD, {"weights": weights}, recipe, toolchain, request.gpu.name)
        inputs = {"engine": build.step.key, "weights": weights}
        validate = command_step(Stage.VALIDATE, inputs, validate_call(request.validation), toolchain, request.gpu.name)
        package = Step(stage=Stage.PACKAGE, inputs=inputs, recipe=self._package(request))
        return Chain((build,), validate, BackendStep(package))

    def _package(self, request: Request) -> Call:
        details: dict[str, JsonValue] = {
            "model": request.spec.name,
            "target": request.target.name,
            "serving": request.serving.model_dump(mode="json", include=set(SERVING), exclude_none=True),
            "provider": self.provider,
            "served_models_sha256": served_models_digest(),
        }
        return Call(function="package", version=1, parameters=details)

    def _argv(self, spec: Spec, target: Target) -> tuple[str, ...]:
        """The builder's command. It makes its cache directory beside the output, and removes it when it is done."""
        builder = ("{python}", "-m", "onnxruntime_genai.models.builder")
        paths = ("-i", "{weights}", "-o", "{output}", "-c", "{output}.cache")
        what = ("-p", BUILDER_NAMES[target.precision], "-e", self.provider)
        options = ("hf_token=false", "hf_remote=false", *_int4_options(spec.build_for(target), target.precision))
        return (*builder, *paths, *what, "--extra_options", *options)

    def _toolchain(self, target: Target) -> ToolchainIdentity:
        return self.identify(self._pinned[self.release(target)], target.toolchain)

    def _usable_releases(self, target: Target) -> list[str]:
        return [release for release in self._pinned if fits(target.release, release)]

    @cached_property  # a plan for a thousand targets needs them thousands of times
    def _pinned(self) -> Mapping[str, str]:
        """The releases that have a toolchain for this hardware, oldest first: release -> toolchain."""
        return _pinned(ONNXRUNTIME_PACKAGES[self.provider])

    def _release_findings(self, request: Request) -> Iterator[Finding]:
        target, gpu = request.target, request.gpu
        if target.toolchain == "container":
            yield Finding("E304", "toolchain", "onnxruntime has no image of its own", "use venv or host")
        if not self._pinned:
            remedy = (
                f"use gpu: cpu, or pin one with {ONNXRUNTIME_PACKAGES[self.provider]} (see infra/toolchains/README.md)"
            )
            yield Finding("E301", "gpu", f"no toolchain runs onnxruntime on {gpu.name}", remedy)
        elif problem := mistake(target.release):
            yield Finding(
                "E101", "release", problem, f"write one that there is a toolchain for: {', '.join(self._pinned)}"
            )
        elif not self._usable_releases(target):
            known = ", ".join(self._pinned)
            why = f": backend auto is {self.name}, since {choose(request).reason}" if _is_auto(target) else ""
            yield Finding("E302", "release", f"no toolchain for {target.release!r}{why}", f"there are {known}")

    def _precision_findings(self, target: Target, gpu: Gpu) -> Iterator[Finding]:
        usable = [precision for precision in SUPPORTED[self.provider] if gpu.supports(precision)]
        if target.precision not in usable:
            yield Finding("E303", "precision", self._refusal(target.precision, gpu), f"use one of {', '.join(usable)}")

    def _refusal(self, precision: Precision, gpu: Gpu) -> str:
        where = f"onnxruntime cannot build {precision} for {gpu.name}"
        if precision in REFUSED_ON[self.provider]:
            return f"{where}: {REFUSED_ON[self.provider][precision]}"
        if precision in SUPPORTED[self.provider]:
            first = ".".join(str(part) for part in gpus.FIRST_CAPABILITY[precision])
            return f"{where}: it needs compute capability {first}, this GPU has {gpu.compute_capability}"
        return f"{where}: {REFUSED.get(precision, 'the builder has no such quantization')}"

    def _choices(self, request: Request) -> Iterator[str]:
        target, gpu = request.target, request.gpu
        if target.gpu == "auto":
            yield f"gpu auto is {gpu.name}" + (" (no NVIDIA GPU in this machine)" if gpu == gpus.CPU else "")
        if _is_auto(target):
            yield f"backend auto is {self.name}: {choose(request).reason}"
        release = self.release(target)
        if target.release != release:
            yield f"release {target.release} is {release}"

    def _defaults(self, spec: Spec, target: Target) -> Iterator[str]:
        if target.precision is Precision.INT4:
            options = spec.build_for(target)
            if options.int4_block_size is None:
                yield "int4_block_size is 32, the builder's default"
            if options.int4_accuracy_level is None:
                yield f"int4_accuracy_level is {4 if self.provider == 'cpu' else 0}, the builder's default"
        if not spec.validation_for(target).prompts:
            yield "no validation prompts: nothing checks what this engine says"


def _pinned(package: str) -> Mapping[str, str]:
    found = {}
    for name in toolchains.names():
        pin_file = toolchains.describe(name)
        packages = {pin.partition("==")[0] for pin in pin_file.pins}
        if pin_file.backend == BackendName.ONNXRUNTIME and package in packages:
            found[pin_file.release] = name
    return {release: found[release] for release in sorted(found, key=Version)}


def _is_auto(target: Target) -> bool:
    return target.backend is BackendName.AUTO


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
    """Settings for all targets of the spec that have no effect for this one."""
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
        if field not in INT4_OPTIONS and getattr(options, field) not in {None, ()}:
            yield field, "it is for trtllm-build and means nothing to onnxruntime"
    if precision is not Precision.INT4:
        for field in INT4_OPTIONS:
            if getattr(options, field) is not None:
                yield field, f"it means nothing in {precision}"


def _int4_options(options: BuildOptions, precision: Precision) -> Iterator[str]:
    if precision is not Precision.INT4:
        return
    for field, name in INT4_OPTIONS.items():
        value = getattr(options, field)
        if value is not None:
            yield f"{name}={value}"
