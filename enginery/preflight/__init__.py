"""What a plan estimates before anything runs: whether GPU, host and disk are large enough.

These are estimates, so each finding is a warning with its figures, which a spec can accept (`force`). The disk is
looked at once it is known which steps are done (`enginery.preflight.disk`).
"""

from collections.abc import Iterator

from enginery.backends.request import Request
from enginery.findings import Finding
from enginery.preflight.gpu_memory import gpu_memory_findings, gpu_memory_note
from enginery.preflight.host_memory import host_memory_findings, host_memory_note

__all__ = ["estimate_findings", "estimate_notes"]


def estimate_findings(request: Request, *, here: bool) -> Iterator[Finding]:
    """What is too small for a target; `here` says whether it is built on this machine."""
    yield from gpu_memory_findings(request)
    yield from host_memory_findings(request, here=here)


def estimate_notes(request: Request, *, here: bool) -> Iterator[str]:
    """What a target will take, as far as it is worth telling."""
    yield from gpu_memory_note(request)
    yield from host_memory_note(request, here=here)
