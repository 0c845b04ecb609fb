"""Finished builds of a new release: each is compared with the build on its channel, and promoted if not worse."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from packaging.version import Version

from enginery.builds import Comparison, Figure, Manifest, compare_builds
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.pipeline.verdict import Kind, Verdict
from enginery.registry import Registry
from enginery.spec import Gates, Spec

REASON = "release watch"


class GateResult(Frozen):
    """The result of one gate, which a build must pass to be promoted.

    Attributes:
        name: what was compared.
        passed: whether it is not worse than allowed.
        told: the figures.
    """

    name: str
    passed: bool
    told: str


class Decision(StrEnum):
    """What was done about a finished build."""

    PROMOTED = "promoted"
    """The channel points to it now."""
    WOULD_PROMOTE = "would be promoted"
    """It is not worse, but the watch only reports."""
    WORSE = "worse"
    """It did not pass a gate; the channel did not move."""
    THERE = "on the channel"
    """The channel pointed to it already."""
    LEFT = "left alone"
    """The watch may not move the channel: somebody moved it, or it has a newer release."""
    FAILED = "failed"
    """The registry did not answer, or has something damaged."""


class Promotion(Frozen):
    """What was done about one finished build, and why.

    Attributes:
        spec: the spec's name.
        target: the target.
        build_id: the build.
        channel: the channel that it is for.
        decision: what was done.
        reason: why.
        gates: the gates; none when nothing was compared.
        comparison: the comparison with the build on the channel; None when there was none.
    """

    spec: str
    target: str
    build_id: str
    channel: str
    decision: Decision
    reason: str
    gates: tuple[GateResult, ...] = ()
    comparison: Comparison | None = None


class Finished(NamedTuple):
    """A finished build and the channel it is for."""

    registry: Registry
    spec: Spec
    verdict: Verdict
    channel: str


def promotions(specs: Iterable[Spec], verdicts: Iterable[Verdict], *, report_only: bool = False) -> list[Promotion]:
    """Promote every finished build of a new release that is not worse than the one on its channel.

    Calling it twice changes nothing more: a build that is on the channel stays, and a build that somebody has removed
    from the channel is not put back.
    """
    by_name = {spec.name: spec for spec in specs}
    built = (verdict for verdict in verdicts if verdict.kind is Kind.BUILT)
    return [_promotion(one, report_only=report_only) for verdict in built for one in _finished(by_name, verdict)]


def gate_results(comparison: Comparison, after: Manifest, gates: Gates) -> tuple[GateResult, ...]:
    """Every gate between the two builds of a comparison, passed or not.

    When one of the builds does not record a figure, it is unknown and the gate is passed.

    Args:
        comparison: the two builds.
        after: the manifest of the second build, which is to replace the first.
        gates: what counts as worse.
    """
    return tuple(_results(comparison, after, gates))


def _results(comparison: Comparison, after: Manifest, gates: Gates) -> Iterator[GateResult]:
    prompts, misses = len(after.validation.results), len(after.validation.misses)
    yield GateResult(
        name="validation",
        passed=after.validation.passed,
        told=f"{prompts - misses} of {prompts} answers are as expected",
    )
    worse = comparison.worse_answers
    listed = "; ".join(f"{answer.prompt!r} was right and is not: {answer.after!r}" for answer in worse)
    yield GateResult(name="answers", passed=not worse, told=listed or "none that was right is wrong")
    yield _speed(comparison.tokens_per_second, gates.slower_percent)
    yield _size(comparison.engine_bytes, gates.larger_percent)


def _speed(speed: Figure, allowed: float) -> GateResult:
    if speed.percent is None:
        return GateResult(name="speed", passed=True, told="unknown: not recorded of both")
    figures = f"{speed.before:.1f} -> {speed.after:.1f} tokens/s ({speed.percent:+.1f}%, at worst -{allowed:g}%)"
    return GateResult(name="speed", passed=-speed.percent <= allowed, told=figures)


def _size(size: Figure, allowed: float) -> GateResult:
    if size.percent is None:
        return GateResult(name="size", passed=True, told="unknown: not recorded of both")
    sizes = f"{human_bytes(int(size.before or 0))} -> {human_bytes(int(size.after or 0))}"
    return GateResult(
        name="size", passed=size.percent <= allowed, told=f"{sizes} ({size.percent:+.1f}%, at most +{allowed:g}%)"
    )


def _finished(specs: dict[str, Spec], verdict: Verdict) -> Iterator[Finished]:
    spec = specs[verdict.spec]
    if spec.publish is not None and spec.releases.promote_to is not None:
        yield Finished(Registry(spec.publish.to), spec, verdict, spec.releases.promote_to)


def _promotion(one: Finished, *, report_only: bool) -> Promotion:
    try:
        return _decided(one, report_only=report_only)
    except RegistryError as error:
        return _outcome(one, Decision.FAILED, str(error))


def _decided(one: Finished, *, report_only: bool) -> Promotion:
    pointer = one.registry.channel(one.spec.name, one.channel, one.verdict.target)
    build_id = one.verdict.build_id
    if pointer is not None and pointer.build_id == build_id:
        return _outcome(one, Decision.THERE, f"{one.channel} points to it")
    new = one.registry.manifest(one.spec.name, build_id)
    if pointer is not None and pointer.was_on(build_id, new.created):
        return _outcome(one, Decision.LEFT, f"{one.channel} was moved from it to {pointer.build_id} by somebody")
    if pointer is None:
        return _promoted(one, _outcome(one, Decision.PROMOTED, f"{one.channel} had no build"), report_only=report_only)
    old = one.registry.manifest(one.spec.name, pointer.build_id)
    if Version(old.target.release) > Version(new.target.release):
        return _outcome(one, Decision.LEFT, f"{one.channel} has {old.target.release}, which is newer")
    return _judged(one, old, new, report_only=report_only)


def _judged(one: Finished, old: Manifest, new: Manifest, *, report_only: bool) -> Promotion:
    comparison = compare_builds(old, new)
    gates = gate_results(comparison, new, one.spec.releases.gates)
    stopped = [f"{gate.name}: {gate.told}" for gate in gates if not gate.passed]
    more = {"gates": gates, "comparison": comparison}
    if stopped:
        return _outcome(one, Decision.WORSE, "; ".join(stopped)).model_copy(update=more)
    reason = f"not worse than {old.build_id} (release {old.target.release})"
    better = _outcome(one, Decision.PROMOTED, reason).model_copy(update=more)
    return _promoted(one, better, report_only=report_only)


def _promoted(one: Finished, promotion: Promotion, *, report_only: bool) -> Promotion:
    if report_only:
        return promotion.model_copy(update={"decision": Decision.WOULD_PROMOTE})
    compared = promotion.comparison.before if promotion.comparison else None
    build, reason = f"{one.spec.name}/{one.verdict.build_id}", f"{REASON}: {promotion.reason}"
    one.registry.promote(build, one.channel, reason=reason, expected=compared)
    return promotion


def _outcome(one: Finished, decision: Decision, reason: str) -> Promotion:
    return Promotion(
        spec=one.spec.name,
        target=one.verdict.target,
        build_id=one.verdict.build_id,
        channel=one.channel,
        decision=decision,
        reason=reason,
    )
