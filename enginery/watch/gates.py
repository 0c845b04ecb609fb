"""Whether a build may take another one's place: nothing that counts may be worse."""

from collections.abc import Iterator

from enginery.comparing import Comparison, Figure
from enginery.manifest import Manifest
from enginery.spec_releases import Gates
from enginery.steps import Frozen
from enginery.units import human_bytes


class GateResult(Frozen):
    """One gate.

    Attributes:
        name: what was looked at.
        passed: whether it is not worse than allowed.
        told: the figures.
    """

    name: str
    passed: bool
    told: str


def gate_results(comparison: Comparison, after: Manifest, gates: Gates) -> tuple[GateResult, ...]:
    """Every gate between the two builds of a comparison, passed or not.

    A figure that one of the builds does not record stops nothing, and is said to be unknown.

    Args:
        comparison: the two builds.
        after: the manifest of the second, which is to take the place of the first.
        gates: what counts as worse.
    """
    return tuple(_results(comparison, after, gates))


def _results(comparison: Comparison, after: Manifest, gates: Gates) -> Iterator[GateResult]:
    asked, misses = len(after.validation.results), len(after.validation.misses)
    yield GateResult(
        name="validation", passed=after.validation.passed, told=f"{asked - misses} of {asked} answers are as expected"
    )
    worse = comparison.worse_answers
    told = "; ".join(f"{answer.prompt!r} was right and is not: {answer.after!r}" for answer in worse)
    yield GateResult(name="answers", passed=not worse, told=told or "none that was right is wrong")
    yield _speed(comparison.tokens_per_second, gates.slower_percent)
    yield _size(comparison.engine_bytes, gates.larger_percent)


def _speed(speed: Figure, allowed: float) -> GateResult:
    if speed.percent is None:
        return GateResult(name="speed", passed=True, told="unknown: not recorded of both")
    told = f"{speed.before:.1f} -> {speed.after:.1f} tokens/s ({speed.percent:+.1f}%, at worst -{allowed:g}%)"
    return GateResult(name="speed", passed=-speed.percent <= allowed, told=told)


def _size(size: Figure, allowed: float) -> GateResult:
    if size.percent is None:
        return GateResult(name="size", passed=True, told="unknown: not recorded of both")
    sizes = f"{human_bytes(int(size.before or 0))} -> {human_bytes(int(size.after or 0))}"
    return GateResult(
        name="size", passed=size.percent <= allowed, told=f"{sizes} ({size.percent:+.1f}%, at most +{allowed:g}%)"
    )
