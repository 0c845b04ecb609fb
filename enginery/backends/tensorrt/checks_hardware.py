"""Whether the release runs on the GPU, and computes in the precision there."""

from collections.abc import Iterator
from functools import cache

from enginery import gpus
from enginery.backends.request import Request
from enginery.findings import Finding
from enginery.gpus import Gpu
from enginery.releases.known import builds_engines, releases
from enginery.releases.precisions import capabilities, precisions
from enginery.spec import Precision

OTHER_NAMES = {
    Precision.INT8: "int8_wo (weights only) or int8_sq (SmoothQuant)",
    Precision.INT4: "int4_awq, or int4_wo (weights only, without calibration)",
}
"""Precisions of ONNX Runtime -> what TensorRT-LLM has instead."""


def hardware_findings(request: Request, release: str) -> Iterator[Finding]:
    """What GPU and precision the release cannot do."""
    gpu, precision = request.gpu, request.target.precision
    if gpu == gpus.CPU:
        found = ", and this machine has none" if request.target.gpu == "auto" else ""
        problem = f"TensorRT-LLM needs an NVIDIA GPU{found}"
        yield Finding("E110", "gpu", problem, "name one, or use backend: onnxruntime")
    elif gpu.capability not in _listed(release):
        yield _unknown_gpu(gpu, release)
    if precision in OTHER_NAMES:
        problem = f"{precision} is onnxruntime's; TensorRT-LLM calls its own otherwise"
        yield Finding("E121", "precision", problem, f"use {OTHER_NAMES[precision]}")
    elif precision not in _anywhere(release):
        yield _unknown_precision(precision, release)
    elif gpu.capability in _listed(release):
        yield from _precision_findings(gpu, precision, release)


def _unknown_gpu(gpu: Gpu, release: str) -> Finding:
    listed = ", ".join(f"{major}.{minor}" for major, minor in _listed(release))
    problem = f"{release} does not list compute capability {gpu.compute_capability} of {gpu.name}, only {listed}"
    having = [one for one in _engine_releases() if gpu.capability in _listed(one)]
    if not having:
        return Finding("E110", "gpu", problem, "use another GPU: no known release lists it")
    return Finding("E110", "gpu", problem, f"use {_span(having)}, or another GPU")


def _unknown_precision(precision: Precision, release: str) -> Finding:
    having = [one for one in _engine_releases() if precision in _anywhere(one)]
    remedy = f"use {_span(having)}, or one of {', '.join(sorted(_anywhere(release)))}"
    return Finding("E121", "precision", f"{release} computes in {precision} on no GPU", remedy)


def _precision_findings(gpu: Gpu, precision: Precision, release: str) -> Iterator[Finding]:
    able = _able(release, gpu.capability)
    if precision in able:
        return
    fitting = [one for one in _listed(release) if precision in _able(release, one)]
    listed = ", ".join(f"{major}.{minor}" for major, minor in fitting)
    problem = (
        f"{release} computes in {precision} on compute capability {listed}; {gpu.name} has {gpu.compute_capability}"
    )
    yield Finding("E120", "precision", problem, f"use one of {', '.join(sorted(able))}, or another GPU")


@cache  # every target of a plan asks the same
def _listed(release: str) -> tuple[tuple[int, int], ...]:
    """The compute capabilities that a release lists."""
    return capabilities(release).value


@cache
def _able(release: str, capability: tuple[int, int]) -> frozenset[Precision]:
    """The precisions that a release computes in on a compute capability."""
    return precisions(release, capability).value


@cache
def _anywhere(release: str) -> frozenset[Precision]:
    """The precisions that a release computes in on some GPU."""
    return frozenset[Precision]().union(*(_able(release, one) for one in _listed(release)))


def _engine_releases() -> list[str]:
    return [one for one in releases() if builds_engines(one)]


def _span(having: list[str]) -> str:
    return f"a release from {having[0]} to {having[-1]}" if len(having) > 1 else f"release {having[0]}"
