"""Whether a build runs on a machine and may be promoted, decided by its manifest alone, and in words why not.

**TensorRT engines.** An engine runs only with the TensorRT version that built it, and not on another GPU architecture
(NVIDIA's TensorRT documentation, "Engine Compatibility" and "Support Matrix"). `trtllm-build` has no flag for the modes
that widen this, and each release of TensorRT-LLM comes with its own TensorRT and plugins. So the release must be equal,
and so must the compute capability, without which TensorRT does not load the engine. On another *product* with the same
compute capability (an H100 PCIe for an H100 SXM), TensorRT loads the engine and warns that this "is likely to affect
performance or even cause errors": its kernels were chosen by measuring on the other product. Such a build is a near
miss. With `other_product` it fits, with a warning, and a build for the exact product is preferred.

**Checkpoints of `pytorch`.** They contain nothing specific to a GPU: any NVIDIA GPU will do that computes in the
precision and holds the weights. The release they were checked with is the minimum; for a later one there is a warning.

**`onnxruntime`.** A build for `cpu` runs anywhere. On a machine with a GPU, which it leaves idle, it is the last choice
and comes with a warning. A build for CUDA runs on any NVIDIA GPU that computes in the precision and holds the weights.
TensorRT-LLM serves neither.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from packaging.version import Version

from enginery.builds import Manifest, engine_facts
from enginery.core.errors import UsageError
from enginery.core.text import human_bytes
from enginery.core.versions import is_version, same
from enginery.spec import CPU, FIRST_CAPABILITY, BackendName, Gpu, Precision, gpus

GB = 10**9
THIS_PRODUCT, ANOTHER_PRODUCT, NOT_THE_GPU = range(3)

Gate = Callable[[Manifest], Iterator[str]]
"""Yields what a build did not pass, each in one sentence; nothing for a build that passed."""


def validation_gate(manifest: Manifest) -> Iterator[str]:
    """The build must have passed the validation of its answers."""
    report = manifest.validation
    if not report.passed:
        yield f"validation: {len(report.misses)} of {len(report.results)} answers are not as expected"


GATES: tuple[Gate, ...] = (validation_gate,)
"""All gates; new ones are added here."""


def failures(manifest: Manifest) -> tuple[str, ...]:
    """The gates that a build failed, in words; empty for a build that may be promoted."""
    return tuple(failure for gate in GATES for failure in gate(manifest))


@dataclass(frozen=True)
class Host:
    """The machine that a build is to run on. An attribute that is None is not known and excludes no build.

    Attributes:
        gpu: the GPU, or `CPU` for a machine without one.
        gpus: how many GPUs it has.
        runtime: the version of TensorRT-LLM in the serving container.
        other_product: accept a TensorRT engine built for another product with the same compute capability.
    """

    gpu: Gpu | None = None
    gpus: int | None = None
    runtime: str | None = None
    other_product: bool = False


def misfits(manifest: Manifest, host: Host) -> tuple[str, ...]:
    """Every reason why a build does not run on the host; empty when it runs."""
    rule = _RULES.get(manifest.target.backend)
    if rule is None:
        return (f"backend {manifest.target.backend!r} is not known to this Enginery; upgrade it",)
    return tuple(rule(manifest, host))


def remarks(manifest: Manifest, host: Host) -> tuple[str, ...]:
    """Warnings about a build that runs on the host, but was not made for exactly this host."""
    target, gpu = manifest.target, host.gpu
    found = []
    if distance(manifest, host) == NOT_THE_GPU and gpu is not None:
        found.append(f"it runs on the CPU, and leaves the {gpu.name} idle")
    if target.backend == BackendName.TENSORRT and gpu is not None and not _is_for(manifest, gpu):
        what = f"its engine was built for {target.gpu} and not for {gpu.name}"
        found.append(f"{what}: NVIDIA does not support that, it may be slower or fail")
    if target.backend == BackendName.PYTORCH and host.runtime and not same(host.runtime, target.release):
        found.append(f"it was checked with TensorRT-LLM {target.release}, and not with {host.runtime}")
    return tuple(found)


def distance(manifest: Manifest, host: Host) -> int:
    """How well a build that runs on the host suits its GPU; the lowest number is the best."""
    if host.gpu is None or _is_for(manifest, host.gpu):
        return THIS_PRODUCT
    return NOT_THE_GPU if manifest.target.gpu == CPU.name else ANOTHER_PRODUCT


def _tensorrt(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _engine_on)
    if host.runtime is not None and not same(host.runtime, manifest.target.release):
        yield f"needs TensorRT-LLM {manifest.target.release}, this runtime has {host.runtime}"


def _pytorch(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _precision_on)
    minimum = manifest.target.release
    if host.runtime is not None and not _is_at_least(host.runtime, minimum):
        yield f"needs TensorRT-LLM {minimum} or later, this runtime has {host.runtime}"


def _onnxruntime(manifest: Manifest, host: Host) -> Iterator[str]:
    if manifest.target.gpu != CPU.name:
        yield from _nvidia(manifest, host, _precision_on)
    if host.runtime is not None:
        yield f"is served by ONNX Runtime, this runtime has TensorRT-LLM {host.runtime}"


_RULES: dict[str, Callable[[Manifest, Host], Iterator[str]]] = {
    BackendName.TENSORRT: _tensorrt,
    BackendName.PYTORCH: _pytorch,
    BackendName.ONNXRUNTIME: _onnxruntime,
}


def _nvidia(manifest: Manifest, host: Host, rule: Callable[[Manifest, Host, Gpu], Iterator[str]]) -> Iterator[str]:
    """What every build for NVIDIA GPUs needs, and `rule`, the backend's own condition on the GPU."""
    if host.gpu == CPU:
        yield f"built for {manifest.target.gpu}, here is no NVIDIA GPU"
        return
    world_size = manifest.target.world_size
    if host.gpus is not None and world_size > host.gpus:
        there = "there is 1" if host.gpus == 1 else f"there are {host.gpus}"
        yield f"needs {world_size} GPUs, {there}"
    if host.gpu is not None:
        yield from rule(manifest, host, host.gpu)
        needed, memory_gb = manifest.bytes_per_gpu, host.gpu.memory_gb
        if memory_gb and needed >= memory_gb * GB:
            yield f"takes {human_bytes(needed)} on each GPU, {host.gpu.name} has {memory_gb} GB"


def _engine_on(manifest: Manifest, host: Host, gpu: Gpu) -> Iterator[str]:
    if _is_for(manifest, gpu):
        return
    product = manifest.target.gpu
    # As the manifest records it, else from our table, which may have learned the product since.
    built = manifest.engine.compute_capability or engine_facts(product, ()).compute_capability
    if not built:
        yield f"built for {product}, of which the compute capability is not known; this GPU is {gpu.name}"
    elif built != gpu.compute_capability:
        yield f"built for compute capability {built} ({product}), this GPU is {gpu.compute_capability} ({gpu.name})"
    elif not host.other_product:
        yield (
            f"built for {product}, this GPU is {gpu.name}: of the same compute capability {built}, but NVIDIA does not"
            " support an engine on another product (--other-product accepts it)"
        )


def _precision_on(manifest: Manifest, _: Host, gpu: Gpu) -> Iterator[str]:
    name = manifest.target.precision
    if name not in set(Precision):
        yield f"precision {name!r} is not known to this Enginery; upgrade it"
    elif not gpu.supports(Precision(name)):
        first = ".".join(str(part) for part in FIRST_CAPABILITY[Precision(name)])
        yield f"{name} needs compute capability {first}, this GPU is {gpu.compute_capability} ({gpu.name})"


def _is_for(manifest: Manifest, gpu: Gpu) -> bool:
    """Whether it was built for exactly this product."""
    product = manifest.target.gpu
    with suppress(UsageError):  # nvidia-smi named it, and our table does not have it
        product = gpus.find(product).name
    return product == gpu.name


def _is_at_least(runtime: str, minimum: str) -> bool:
    """Compares versions as PEP 440 does; a text that is no version is equal only to itself."""
    if is_version(runtime) and is_version(minimum):
        return Version(Version(runtime).public) >= Version(Version(minimum).public)
    return runtime == minimum
