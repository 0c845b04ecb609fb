"""Whether this machine has the memory for converting the weights.

A plan may be made elsewhere than it runs: it warns only for targets that are this machine's own, and notes the need of
the others.
"""

import os
from collections.abc import Iterator

from enginery.backends.request import Request
from enginery.findings import Finding, warning
from enginery.model_facts import ModelFacts
from enginery.preflight.sizes import FLOATS, weight_bytes
from enginery.spec import BackendName, Precision
from enginery.units import human_bytes

WORTH_TELLING = 10**9
"""Bytes below which nobody needs to be told."""


def host_bytes(request: Request, model: ModelFacts) -> float:
    """Host memory that a conversion takes at its height: the model as it is loaded, and one rank of the result."""
    loaded = weight_bytes(model, _loaded_as(model, request.target.precision))
    return loaded + weight_bytes(model, request.target.precision) / request.world_size


def _serves_as_it_is(request: Request) -> bool:
    """Whether nothing is converted: backend `pytorch` serves plain weights as they are."""
    return request.target.backend is BackendName.PYTORCH and request.target.precision in FLOATS


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _loaded_as(model: ModelFacts, precision: Precision) -> Precision:
    """Converters load a model in the format of the result, and in its own one to quantize it."""
    if precision in FLOATS:
        return precision
    return Precision(model.dtype) if model.dtype in set(FLOATS) else Precision.BFLOAT16


def host_memory_findings(request: Request, *, here: bool) -> Iterator[Finding]:
    """Warn when this machine would run out of memory; `here` says whether the target is built on it."""
    if request.model is None or not here or _serves_as_it_is(request):
        return
    need, total = host_bytes(request, request.model), memory_bytes()
    if need > total:
        problem = f"converting takes about {human_bytes(need)} of host memory; this machine has {human_bytes(total)}"
        yield warning("W202", "precision", problem, "run it on a machine with more memory")


def host_memory_note(request: Request, *, here: bool) -> Iterator[str]:
    """What the machine that converts must have, where that is another one."""
    if request.model is None or here or _serves_as_it_is(request):
        return
    need = host_bytes(request, request.model)
    if need > WORTH_TELLING:
        yield f"converting takes about {human_bytes(need)} of host memory"
