"""Decides from a build's manifest whether it runs on a machine and may be promoted; gives the reasons if not.

**TensorRT engines.** An engine runs only with the TensorRT version that built it, and only on the same GPU architecture
(NVIDIA's TensorRT documentation, "Engine Compatibility" and "Support Matrix"). TensorRT has modes that allow more, but
`trtllm-build` has no flag for them. Each release of TensorRT-LLM has its own TensorRT and plugins. So the release must
be equal, and the compute capability too. On another *product* with the same compute capability (an H100 PCIe for an
H100 SXM), TensorRT loads the engine and warns that this "is likely to affect performance or even cause errors": the
kernels were chosen by measuring on the other product. Such a build fits only with `other_product`, with a warning, and
a build for the exact product is preferred.

**Checkpoints of `pytorch`.** They contain nothing specific to a GPU. They run on any NVIDIA GPU that supports the
precision and has memory for the weights. They need the release that they were checked with, or a later one with a
warning.

**`onnxruntime`.** A build for `cpu` runs anywhere. On a machine with a GPU it is the last choice and comes with a
warning, because the GPU stays idle. A build for CUDA runs on any NVIDIA GPU that supports the precision and has memory
for the weights. TensorRT-LLM serves neither.
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
SAME_PRODUCT, OTHER_PRODUCT, CPU_ONLY = range(3)

Gate = Callable[[Manifest], Iterator[str]]
"""Yields one sentence for each failure of a build; nothing for a build that passed."""


def gates_gate(manifest: Manifest) -> Iterator[str]:
    """The gates of the spec: those that block the build, and that nobody has accepted."""
    yield from (result.told for result in manifest.gates.results if result.stops) if manifest.gates else ()


def validation_gate(manifest: Manifest) -> Iterator[str]:
    """The answers of a build that is older than the gates: each must be as expected. Later a gate judges them."""
    report = manifest.validation
    if manifest.gates is None and not report.passed:
        yield f"validation: {len(report.misses)} of {len(report.results)} answers are not as expected"


GATES: tuple[Gate, ...] = (gates_gate, validation_gate)
"""All gates. Add a new gate here."""


def failures(manifest: Manifest) -> tuple[str, ...]:
    """The gates that a build failed, in words; empty for a build that may be promoted."""
    return tuple(failure for gate in GATES for failure in gate(manifest))


@dataclass(frozen=True)
class Host:
    """The machine that a build must run on. An attribute that is None is not known and excludes no build.

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


def fit_warnings(manifest: Manifest, host: Host) -> tuple[str, ...]:
    """Warnings about a build that runs on the host, but was made for another GPU, or checked with another release."""
    target, gpu = manifest.target, host.gpu
    found = []
    if gpu_match(manifest, host) == CPU_ONLY and gpu is not None:
        found.append(f"it runs on the CPU, and leaves the {gpu.name} idle")
    if target.backend == BackendName.TENSORRT and gpu is not None and not _is_for(manifest, gpu):
        what = f"its engine was built for {target.gpu} and not for {gpu.name}"
        found.append(f"{what}: NVIDIA does not support that, it may be slower or fail")
    if target.backend == BackendName.PYTORCH and host.runtime and not same(host.runtime, target.release):
        found.append(f"it was checked with TensorRT-LLM {target.release}, and not with {host.runtime}")
    return tuple(found)


def gpu_match(manifest: Manifest, host: Host) -> int:
    """How well a build suits the host's GPU: `SAME_PRODUCT` (best), `OTHER_PRODUCT` or `CPU_ONLY`."""
    if host.gpu is None or _is_for(manifest, host.gpu):
        return SAME_PRODUCT
    return CPU_ONLY if manifest.target.gpu == CPU.name else OTHER_PRODUCT


def _tensorrt(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _engine_misfits)
    if host.runtime is not None and not same(host.runtime, manifest.target.release):
        yield f"needs TensorRT-LLM {manifest.target.release}, this runtime has {host.runtime}"


def _pytorch(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _precision_misfits)
    minimum = manifest.target.release
    if host.runtime is not None and not _is_at_least(host.runtime, minimum):
        yield f"needs TensorRT-LLM {minimum} or later, this runtime has {host.runtime}"


def _onnxruntime(manifest: Manifest, host: Host) -> Iterator[str]:
    if manifest.target.gpu != CPU.name:
        yield from _nvidia(manifest, host, _precision_misfits)
    if host.runtime is not None:
        yield f"is served by ONNX Runtime, this runtime has TensorRT-LLM {host.runtime}"


_RULES: dict[str, Callable[[Manifest, Host], Iterator[str]]] = {
    BackendName.TENSORRT: _tensorrt,
    BackendName.PYTORCH: _pytorch,
    BackendName.ONNXRUNTIME: _onnxruntime,
}


def _nvidia(manifest: Manifest, host: Host, rule: Callable[[Manifest, Host, Gpu], Iterator[str]]) -> Iterator[str]:
    """The reasons against a build for NVIDIA GPUs: number of GPUs, memory, and those of the backend's own `rule`."""
    if host.gpu == CPU:
        yield f"built for {manifest.target.gpu}, this machine has no NVIDIA GPU"
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


def _engine_misfits(manifest: Manifest, host: Host, gpu: Gpu) -> Iterator[str]:
    if _is_for(manifest, gpu):
        return
    product = manifest.target.gpu
    # The manifest has none when our table did not know the product at that time. The table may know it now.
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


def _precision_misfits(manifest: Manifest, _: Host, gpu: Gpu) -> Iterator[str]:
    name = manifest.target.precision
    if name not in set(Precision):
        yield f"precision {name!r} is not known to this Enginery; upgrade it"
    elif not gpu.supports(Precision(name)):
        first = ".".join(str(part) for part in FIRST_CAPABILITY[Precision(name)])
        yield f"{name} needs compute capability {first}, this GPU is {gpu.compute_capability} ({gpu.name})"


def _is_for(manifest: Manifest, gpu: Gpu) -> bool:
    """Whether the build was made for exactly this product."""
    product = manifest.target.gpu
    with suppress(UsageError):  # nvidia-smi gave this name, and our table does not have it
        product = gpus.find(product).name
    return product == gpu.name


def _is_at_least(runtime: str, minimum: str) -> bool:
    """Whether `runtime` is `minimum` or later by PEP 440; a text that is not a version is only equal to itself."""
    if is_version(runtime) and is_version(minimum):
        return Version(Version(runtime).public) >= Version(Version(minimum).public)
    return runtime == minimum
