"""Which release of TensorRT-LLM a target comes to, and what is wrong with one that it cannot be."""

from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.findings import Finding
from enginery.releases.known import ENGINES_UNTIL, builds_engines, releases, stable_releases, was_never_made
from enginery.versions import LATEST, fits, full, is_range, is_version, mistake

FAR = "9999"
"""A release later than any there will be: a range that holds it asks for new releases."""


@cache  # every target of a plan asks the same
def chosen_release(wanted: str) -> str:
    """The release that `latest`, a range or a version comes to; empty for none.

    A version need not be one that there are facts of: those of the nearest one are used then.
    """
    if refusal(wanted) is not None:
        return ""
    return full(wanted) if is_version(wanted) else _newest(wanted)


@cache
def refusal(wanted: str) -> Finding | None:
    """Why there is no such release to build engines with; None where there is one."""
    if problem := mistake(wanted):
        return _finding("E101", problem, f"write a release, such as {_newest(LATEST)}")
    if is_version(wanted):
        return _version_refusal(wanted)
    if _newest(wanted):
        return None
    if is_range(wanted) and SpecifierSet(wanted).contains(FAR):
        return _no_engines(wanted)
    return _finding("E102", f"no known release fits {wanted!r}", _known_ones())


def is_known(release: str) -> bool:
    """Whether there are facts of exactly this release."""
    return Version(release) in {Version(one) for one in releases()}


def _version_refusal(wanted: str) -> Finding | None:
    asked, first = Version(wanted), releases()[0]
    if asked < Version(first):
        return _finding("E101", f"{wanted} is older than {first}, the first one known", _known_ones())
    if not builds_engines(wanted):
        return _no_engines(wanted)
    if was_never_made(wanted):
        return _finding("E102", f"no release {wanted} of TensorRT-LLM is known, though later ones are", _known_ones())
    return None


def _no_engines(wanted: str) -> Finding:
    problem = f"{wanted} builds no TensorRT engines: {ENGINES_UNTIL} is the last release with an engine builder"
    pytorch = "backend: pytorch" if is_version(wanted) else "backend: pytorch with one release"
    return _finding("E103", problem, f"use {pytorch}, or release {_newest(LATEST)} or {ENGINES_UNTIL}")


def _finding(code: str, problem: str, remedy: str) -> Finding:
    return Finding(code, "release", problem, remedy)


def _known_ones() -> str:
    return f"use one of {', '.join(stable_releases())}"


@cache
def _newest(wanted: str) -> str:
    """The newest known one that fits, a preview only where nothing else does; empty for none."""
    fitting = [one for one in releases() if builds_engines(one) and fits(wanted, one)]
    stable = [one for one in fitting if not Version(one).is_prerelease]
    return (stable or fitting or [""])[-1]
