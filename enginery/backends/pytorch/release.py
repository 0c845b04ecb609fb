"""The release that a target comes to. `latest` is the newest stable one that is known; there is no upper limit."""

from packaging.version import Version

from enginery.backends.common import newest_release
from enginery.core.versions import LATEST, full, is_version, mistake
from enginery.releases import releases, was_never_made
from enginery.spec import Finding

FIRST = "0.17.0"
"""The first release with the PyTorch backend."""


def chosen_release(wanted: str) -> str:
    """The release that `latest`, a range or a version comes to; empty for none.

    There need not be facts of a version: those of the nearest release are used then.
    """
    if refusal(wanted) is not None:
        return ""
    return full(wanted) if is_version(wanted) else _newest(wanted)


def refusal(wanted: str) -> Finding | None:
    """Why there is no such release; None where there is one."""
    if problem := mistake(wanted):
        return Finding("E101", "release", problem, f"write a release, such as {_newest(LATEST)}")
    newest = _newest(LATEST)
    if is_version(wanted):
        if not _has_backend(wanted):
            problem = f"{wanted} has no PyTorch backend: {FIRST} is the first with one"
            return Finding("E401", "release", problem, f"use {newest}, or backend: tensorrt")
        if was_never_made(wanted):
            problem = f"no release {wanted} of TensorRT-LLM is known, though later ones are"
            return Finding("E102", "release", problem, f"use one of {', '.join(_with_backend())}")
        return None
    if _newest(wanted):
        return None
    problem = f"no known release with the PyTorch backend fits {wanted!r}; {FIRST} is the first with one"
    return Finding("E401", "release", problem, f"use one of {', '.join(_with_backend())}")


def instead(release: str) -> str:
    """The remedy that names this backend, for a target that wants `release`."""
    return "backend: pytorch" if _has_backend(release) else f"backend: pytorch with release {FIRST} or a later one"


def _newest(wanted: str) -> str:
    return newest_release(wanted, _with_backend())


def _with_backend() -> list[str]:
    return [one for one in releases() if _has_backend(one)]


def _has_backend(release: str) -> bool:
    return Version(release) >= Version(FIRST)
