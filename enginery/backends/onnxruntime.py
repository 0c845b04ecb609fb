"""The backend `onnxruntime`: engines made by ONNX Runtime GenAI's model builder, for CPUs and NVIDIA GPUs.

What it can build was found out with release 0.18.0: every precision of the builder was built and asked questions, on
a CPU and on an H200 (see docs/where-it-ran.md).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from enginery import gpus, toolchains
from enginery.errors import PlanError
from enginery.gpus import Gpu
from enginery.spec import BackendName, BuildOptions, Precision, Spec, Target
from enginery.steps import Command, Stage, Step
from enginery.toolchains import Identify
from enginery.validation import validate_call

Provider = Literal["cpu", "cuda"]

PACKAGES: dict[Provider, str] = {"cpu": "onnxruntime-genai", "cuda": "onnxruntime-genai-cuda"}
"""What a toolchain must have to be of use for a kind of hardware."""

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
"""What the builder makes without complaint and nothing can run."""

REFUSED = {
    Precision.FP8: "the builder keeps fp8 weights but does not make them",
    Precision.NVFP4: "the builder keeps nvfp4 weights but does not make them",
}

INT4_OPTIONS = {"int4_block_size": "block_size", "int4_accuracy_level": "accuracy_level"}
"""Field of the spec -> name among the builder's extra options."""

ENVIRONMENT = {
    # Weights come from the step's input and from nowhere else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # ONNX Runtime's wheels report their use to their maker, and leave an identifier in HOME, unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
    # The builder stamps the engine with the commit of whatever Git repository the toolchain may lie in.
    "GIT_DIR": "/dev/null",
    # Lines come when they are printed, so the error is the last of them; progress bars are no lines.
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclasses.dataclass(frozen=True)
class OnnxRuntime:
    """The backend for one kind of hardware, which has toolchains of its own.

    The pin files are read once: one of these is for one plan.

    Attributes:
        provider: ONNX Runtime's execution provider.
        identify: says what a toolchain is.
    """

    provider: Provider
    identify: Identify = dataclasses.field(default=toolchains.identity, compare=False)

    @classmethod
    def for_gpu(cls, gpu: Gpu, identify: Identify = toolchains.identity) -> "OnnxRuntime":
        """The backend for a GPU, or for the CPU."""
        return cls("cpu" if gpu == gpus.CPU else "cuda", identify)

    @property
    def name(self) -> BackendName:
        """`onnxruntime`."""
        return BackendName.ONNXRUNTIME

    def problems(self, spec: Spec, target: Target, gpu: Gpu) -> list[str]:  # noqa: ARG002  the protocol's signature
        """Every reason this target cannot be built, each beginning with the path of a field within the target."""
        return [*self._release_problems(target, gpu), *self._precision_problems(target, gpu), *_other_problems(target)]

    def notes(self, spec: Spec, target: Target, gpu: Gpu) -> list[str]:
        """What was decided for the user, and settings that mean nothing here."""
        return [*self._choices(target, gpu), *self._defaults(spec, target), *_without_meaning_here(spec, target)]

    def release(self, target: Target) -> str:
        """The newest release that fits and has a toolchain.

        Raises:
            PlanError: when there is none, or what is asked for is no version, range or `latest`.
        """
        pinned = self._pinned
        fitting = [release for release in pinned if _fits(target.release, release)]
        if not fitting:
            known = ", ".join(pinned)
            raise PlanError([f"release: no toolchain for {target.release!r}; there are {known}"], subject=target.name)
        return fitting[-1]

    def toolchain(self, release: str) -> str:
        """The name of the toolchain in which the release's commands run."""
        return self._pinned[release]

    def build_step(self, spec: Spec, target: Target, gpu: Gpu, weights: str) -> Step:
        """Run the model builder."""
        return Step(
            stage=Stage.BUILD,
            inputs={"weights": weights},
            recipe=Command(argv=self._argv(spec, target), environment=ENVIRONMENT),
            toolchain=self._toolchain_digest(target),
            runs_on=gpu.name,
        )

    def validate_step(self, spec: Spec, target: Target, gpu: Gpu, engine: str, weights: str) -> Step:
        """Ask the engine the target's prompts."""
        return Step(
            stage=Stage.VALIDATE,
            inputs={"engine": engine, "weights": weights},
            recipe=validate_call(spec.validation_for(target)),
            toolchain=self._toolchain_digest(target),
            runs_on=gpu.name,
        )

    def _argv(self, spec: Spec, target: Target) -> tuple[str, ...]:
        """The builder's command. It makes its cache directory beside the output, and removes it when it is done."""
        builder = ("{python}", "-m", "onnxruntime_genai.models.builder")
        places = ("-i", "{weights}", "-o", "{output}", "-c", "{output}.cache")
        what = ("-p", BUILDER_NAMES[target.precision], "-e", self.provider)
        options = ("hf_token=false", "hf_remote=false", *_int4_options(spec.build_for(target), target.precision))
        return (*builder, *places, *what, "--extra_options", *options)

    def _toolchain_digest(self, target: Target) -> str:
        return self.identify(self.toolchain(self.release(target)), target.toolchain).digest()

    @cached_property  # a plan for a thousand targets asks for them thousands of times
    def _pinned(self) -> Mapping[str, str]:
        """The releases that have a toolchain for this hardware, oldest first: release -> toolchain."""
        return _pinned(PACKAGES[self.provider])

    def _release_problems(self, target: Target, gpu: Gpu) -> Iterator[str]:
        if not self._pinned:
            yield (
                f"gpu: no toolchain runs onnxruntime on {gpu.name}; use gpu: cpu, or pin one with "
                f"{PACKAGES[self.provider]} (see infra/toolchains/README.md)"
            )
            return
        try:
            self.release(target)
        except PlanError as error:
            yield from error.mistakes

    def _precision_problems(self, target: Target, gpu: Gpu) -> Iterator[str]:
        usable = [precision for precision in SUPPORTED[self.provider] if gpu.supports(precision)]
        if target.precision in usable:
            return
        yield f"precision: {self._refusal(target.precision, gpu)}; use one of {', '.join(usable)}"

    def _refusal(self, precision: Precision, gpu: Gpu) -> str:
        where = f"onnxruntime cannot build {precision} for {gpu.name}"
        if precision in REFUSED_ON[self.provider]:
            return f"{where}: {REFUSED_ON[self.provider][precision]}"
        if precision in SUPPORTED[self.provider]:
            first = ".".join(str(part) for part in gpus.FIRST_CAPABILITY[precision])
            return f"{where}: it needs compute capability {first}, this GPU has {gpu.compute_capability}"
        return f"{where}: {REFUSED.get(precision, 'the builder has no such quantization')}"

    def _choices(self, target: Target, gpu: Gpu) -> Iterator[str]:
        if target.gpu == "auto":
            yield f"gpu auto is {gpu.name}" + (" (no NVIDIA GPU in this machine)" if gpu == gpus.CPU else "")
        if target.backend is BackendName.AUTO:
            yield f"backend auto is {self.name}"
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


def _fits(wanted: str, release: str) -> bool:
    """Whether `release` is what a spec asks for: `latest`, a version or a range."""
    if wanted == "latest":
        return True
    try:
        return Version(wanted) == Version(release)
    except InvalidVersion:
        pass
    try:
        asked = SpecifierSet(wanted)
    except InvalidSpecifier:
        asked = SpecifierSet()
    if not asked:
        raise PlanError([f"release: {wanted!r} is no version, no range such as '>=0.18,<1' and not 'latest'"])
    return asked.contains(release, prereleases=True)


def _other_problems(target: Target) -> Iterator[str]:
    for field in ("tensor_parallel", "pipeline_parallel"):
        if getattr(target, field) != 1:
            yield f"{field}: an engine of onnxruntime runs on one GPU; use 1"
    if target.build is not None:
        for field, reason in _without_meaning(target.build, target.precision):
            yield f"build.{field}: {reason}; remove it from this target"


def _without_meaning_here(spec: Spec, target: Target) -> Iterator[str]:
    """Settings for every target of the spec that do nothing for this one."""
    own = target.build.model_fields_set if target.build else set()
    for field, reason in _without_meaning(spec.build, target.precision):
        if field not in own:
            yield f"build.{field} is ignored: {reason}"
    if spec.serving_for(target).kv_cache_free_gpu_mem_fraction is not None:
        yield "serving.kv_cache_free_gpu_mem_fraction is ignored: it is TensorRT-LLM's"


def _without_meaning(options: BuildOptions, precision: Precision) -> Iterator[tuple[str, str]]:
    for field in ("gpt_attention_plugin", "gemm_plugin"):
        if getattr(options, field) is not None:
            yield field, "TensorRT-LLM's plugins mean nothing to onnxruntime"
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
