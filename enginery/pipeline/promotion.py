"""What a release watch does after its verdicts, and what it shows.

Builds that can be made are started. Finished builds are compared with the build on their channel, and promoted if they
are not worse. Verdicts become rows of a table, the same on the terminal and in Prefect. Comparisons become Markdown.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple

from packaging.version import Version

from enginery.backends import judge_evaluation
from enginery.builds import (
    Comparison,
    Figure,
    GateResult,
    Manifest,
    Measure,
    SpeedFigures,
    compare_builds,
    judge_channel,
    published_evaluations,
)
from enginery.builds import Verdict as GateVerdict
from enginery.core.digests import json_digest
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.pipeline.verdict import Kind, Verdict, rebuild_spec
from enginery.registry import Registry
from enginery.spec import ChannelGate, GateName, Gates, Mode, Spec

REASON = "release watch"
KEY_DIGITS = 24
LONGEST_ANSWER = 120


class Decision(StrEnum):
    """What a release watch does with a finished build."""

    PROMOTED = "promoted"
    """The channel points to it now."""
    WOULD_PROMOTE = "would be promoted"
    """It is not worse, but the watch only reports."""
    WORSE = "worse"
    """It did not pass a gate; the channel did not move."""
    INCONCLUSIVE = "not promoted: inconclusive"
    """There is too little data to tell whether it is worse; the channel did not move."""
    ON_CHANNEL = "on the channel"
    """The channel pointed to it already."""
    LEFT_ALONE = "left alone"
    """The watch may not move the channel: somebody moved it, or it has a newer release."""
    FAILED = "failed"
    """The registry did not answer, or has something damaged."""


class Promotion(Frozen):
    """The decision on one finished build, the reason, and the comparison with the channel's build if it had one."""

    spec: str
    target: str
    build_id: str
    channel: str
    decision: Decision
    reason: str
    gates: tuple[GateResult, ...] = ()
    comparison: Comparison | None = None


class RebuildRun(Frozen):
    """A build that follows from a verdict.

    Attributes:
        key: has a digest of everything that determines the builds, and of their destination. Prefect starts only one
            run with this key.
        run_id: the flow run that builds; empty if none was started.
        state: the state of that run.
        url: its page.
        started_now: whether this watch started it, and not an earlier one.
        reason: why none was started.
        failed: whether the start failed, or its success is unknown.
    """

    spec: str
    release: str
    targets: tuple[str, ...]
    key: str
    run_id: str = ""
    state: str = ""
    url: str = ""
    started_now: bool = False
    reason: str = ""
    failed: bool = False


class WatchReport(Frozen):
    """The result of one run of the watch: the verdicts, the builds to start, and the decisions on finished builds."""

    verdicts: tuple[Verdict, ...]
    rebuilds: tuple[RebuildRun, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @property
    def sentence(self) -> str:
        """One line for people."""
        started = sum(run.started_now for run in self.rebuilds)
        promoted = sum(one.decision is Decision.PROMOTED for one in self.promotions)
        return f"{len(self.verdicts)} verdicts; {started} builds started; {promoted} builds promoted"

    @property
    def troubles(self) -> tuple[str, ...]:
        """One sentence for each verdict, promotion or start of a build that failed."""
        undecided = (one for one in self.verdicts if one.kind is Kind.UNDECIDED)
        failed = (one for one in self.promotions if one.decision is Decision.FAILED)
        troubles = [f"{one.spec}/{one.target}: {one.why}" for one in undecided]
        troubles += [f"{one.spec}/{one.build_id}: {one.reason}" for one in failed]
        troubles += [f"{run.spec} for {run.release}: {run.reason}" for run in self.rebuilds if run.failed]
        return tuple(troubles)


class Rebuild(NamedTuple):
    """One build to start: all targets of a spec that are to be built for one release.

    Attributes:
        spec: what to build. It changes nothing that serves (`rebuild_spec`).
        run: the run that builds, before it is started.
    """

    spec: Spec
    run: RebuildRun


def promotions(specs: Iterable[Spec], verdicts: Iterable[Verdict], *, report_only: bool = False) -> list[Promotion]:
    """Promote every finished build of a new release that is not worse than the one on its channel.

    A second call changes nothing: a build that is on the channel stays, and a build that somebody has removed from the
    channel is not put back.
    """
    by_name = {spec.name: spec for spec in specs}
    built = [(by_name[verdict.spec], verdict) for verdict in verdicts if verdict.kind is Kind.BUILT]
    return [found for spec, verdict in built for found in _promotion(spec, verdict, report_only=report_only)]


def _promotion(spec: Spec, verdict: Verdict, *, report_only: bool) -> Iterator[Promotion]:
    """Promote the build of a verdict if it is not worse. Nothing is done for a spec without a channel."""
    channel = spec.releases.promote_to
    if spec.publish is None or channel is None:
        return
    registry = Registry(spec.publish.to)
    about = {"spec": spec.name, "target": verdict.target, "build_id": verdict.build_id, "channel": channel}
    try:
        found = Promotion(**about, **_decide(registry, about, _gates(spec, verdict.target)))
        if found.decision is Decision.PROMOTED and report_only:
            found = found.model_copy(update={"decision": Decision.WOULD_PROMOTE})
        elif found.decision is Decision.PROMOTED:
            compared = found.comparison.before if found.comparison else None
            build, reason = f"{spec.name}/{verdict.build_id}", f"{REASON}: {found.reason}"
            registry.promote(build, channel, reason=reason, expected=compared)
        yield found
    except RegistryError as error:
        yield Promotion(**about, decision=Decision.FAILED, reason=str(error))


def _gates(spec: Spec, target: str) -> Gates:
    wanted = next(one for one in spec.targets if one.name == target)
    return spec.validation_for(wanted).gates


def _decide(registry: Registry, about: dict[str, str], gates: Gates) -> dict[str, Any]:
    """The decision on a build, the reason, and the comparison if there was one."""
    model, channel, build_id = about["spec"], about["channel"], about["build_id"]
    pointer = registry.channel(model, channel, about["target"])
    if pointer is not None and pointer.build_id == build_id:
        return {"decision": Decision.ON_CHANNEL, "reason": f"{channel} points to it"}
    new = registry.manifest(model, build_id)
    if pointer is None:
        return {"decision": Decision.PROMOTED, "reason": f"{channel} had no build", "gates": own_results(new)}
    if pointer.was_on(build_id, new.created):
        reason = f"somebody moved {channel} from it to {pointer.build_id}"
        return {"decision": Decision.LEFT_ALONE, "reason": reason}
    old = registry.manifest(model, pointer.build_id)
    if Version(old.target.release) > Version(new.target.release):
        return {"decision": Decision.LEFT_ALONE, "reason": f"{channel} has {old.target.release}, which is newer"}
    results = gate_results(old, new, gates.channel_gate(), _judged(registry, old, new, gates))
    decision, reason = decided_by(results)
    unstopped = f"not worse than {old.build_id} (release {old.target.release})"
    return {
        "decision": decision,
        "reason": reason or unstopped,
        "gates": results,
        "comparison": compare_builds(old, new),
    }


def _judged(registry: Registry, before: Manifest, after: Manifest, gates: Gates) -> tuple[GateResult, ...]:
    """The evaluations of both builds, compared item by item where the evaluators said the scores of their items."""
    old, new = (published_evaluations(one, registry.build_prefix(one.model, one.build_id)) for one in (before, after))
    names = {one.name for one in new}
    both = gates.evaluation.model_copy(update={"run": tuple(one for one in gates.evaluation.run if one.name in names)})
    return (judge_evaluation(new, old, both, Mode.BLOCK),) if old and both.run else ()


def gate_results(
    before: Manifest, after: Manifest, gate: ChannelGate, judged: Sequence[GateResult] = ()
) -> tuple[GateResult, ...]:
    """The gates of a new build, and the one that compares it with the build on the channel.

    That gate blocks unless the spec has another mode for it: nobody looks at a build before the watch promotes it.
    `judged` are results of gates that have compared the two builds themselves.
    """
    mode = gate.mode or Mode.BLOCK
    compared = () if mode is Mode.OFF else (judge_channel(before, after, gate, mode, judged),)
    return (*own_results(after), *compared)


def own_results(manifest: Manifest) -> tuple[GateResult, ...]:
    """The gates of a build, without its comparison with another channel when it was published."""
    if manifest.gates is not None:
        return tuple(one for one in manifest.gates.results if one.gate != GateName.CHANNEL)
    report = manifest.validation
    right = f"{len(report.results) - len(report.misses)} of {len(report.results)} answers are as expected"
    said = GateVerdict.PASS if report.passed else GateVerdict.FAIL
    measure = Measure(name="expected", value=None, verdict=said, told=right)
    reason = "" if report.passed else right
    return (GateResult(gate=GateName.ANSWERS, mode=Mode.BLOCK, verdict=said, measures=(measure,), reason=reason),)


def decided_by(results: Sequence[GateResult]) -> tuple[Decision, str]:
    """What follows from the gates, and why. Verdicts that do not stop the build are told, too."""
    stopping = [one for one in results if one.stops]
    if not stopping:
        return Decision.PROMOTED, "; ".join(one.told for one in results if one.warns)
    failed = any(one.verdict is GateVerdict.FAIL for one in stopping)
    return Decision.WORSE if failed else Decision.INCONCLUSIVE, "; ".join(one.told for one in stopping)


def rebuilds(specs: Iterable[Spec], verdicts: Sequence[Verdict]) -> list[Rebuild]:
    """The builds to start: targets of a spec that go to the same release are built together."""
    found: list[Rebuild] = []
    for spec in specs:
        if not spec.releases.rebuild or spec.publish is None:
            continue
        mine = [one for one in verdicts if one.spec == spec.name and one.kind is Kind.REBUILD]
        by_release = {one.release: [other for other in mine if other.release == one.release] for one in mine}
        found += [_rebuild(spec, release, its) for release, its in by_release.items()]
    return found


def _rebuild(spec: Spec, release: str, verdicts: Sequence[Verdict]) -> Rebuild:
    chosen = rebuild_spec(spec, {one.target: release for one in verdicts})
    where = chosen.publish.model_dump(mode="json") if chosen.publish else None
    digest = json_digest([spec.name, where, sorted(one.build_id for one in verdicts)])
    key = f"rebuild {spec.name} {release} {digest[:KEY_DIGITS]}"
    targets = tuple(one.target for one in verdicts)
    return Rebuild(chosen, RebuildRun(spec=spec.name, release=release, targets=targets, key=key))


def verdict_rows(verdicts: Iterable[Verdict]) -> list[dict[str, str]]:
    """The rows of a table. Neighbouring releases with the same verdict share a row, with the reason of the newest."""
    alike = [list(group) for _, group in groupby(verdicts, key=lambda one: (one.spec, one.target, one.kind))]
    span = [f"{one[0].release} to {one[-1].release}" if len(one) > 1 else one[0].release for one in alike]
    return [one[0].row | {"release": releases} for one, releases in zip(alike, span, strict=True)]


def figures(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """The figures of both builds, each with its name and by how many percent it changed."""
    return [
        *(row for speed in comparison.speed for row in _speed_figures(speed)),
        _figure("engine", comparison.engine_bytes, human_bytes),
        _figure("whole build", comparison.build_bytes, human_bytes),
        _figure("seconds to make", comparison.making_seconds, _number),
    ]


def _speed_figures(speed: SpeedFigures) -> Iterator[tuple[str, str, str, str]]:
    at = f"with {speed.concurrency} at once"
    yield _figure(f"ms to first token {at}", speed.first_ms, _precise)
    yield _figure(f"ms between tokens {at}", speed.gap_ms, _precise)
    yield _figure(f"tokens/s {at}", speed.tokens_per_second, _number)


def _precise(value: float) -> str:
    return f"{value:.4g}"


def _figure(name: str, figure: Figure, write: Callable[[float], str]) -> tuple[str, str, str, str]:
    before, after = ("unknown" if value is None else write(value) for value in (figure.before, figure.after))
    return name, before, after, "" if figure.percent is None else f"{figure.percent:+.1f}%"


def _number(value: float) -> str:
    return f"{value:.1f}"


def answers_sentence(comparison: Comparison) -> str:
    """How many prompts have the same answer in both builds."""
    same = len(comparison.answers) - len(comparison.different_answers)
    return f"{same} of {len(comparison.answers)} answers are the same"


def promotion_markdown(promotion: Promotion) -> str:
    """A page on a finished build: the decision, the gates, and the comparison."""
    return "\n".join(_promotion_lines(promotion)) + "\n"


def _promotion_lines(promotion: Promotion) -> Iterator[str]:
    yield f"# {promotion.spec}/{promotion.build_id}: {promotion.decision.value}"
    yield f"\nChannel **{promotion.channel}**, target **{promotion.target}**: {_cell(promotion.reason)}"
    yield from markdown_table(("gate", "verdict", "mode", "figures"), [_gate_row(one) for one in promotion.gates])
    if promotion.comparison is None:
        return
    comparison = promotion.comparison
    yield f"\n## Compared with {comparison.before}\n\n{answers_sentence(comparison)}."
    yield from markdown_table(("", "before", "after", ""), figures(comparison))
    answers = [(one.prompt, _short(one.before), _short(one.after), one.said) for one in comparison.different_answers]
    yield from markdown_table(("prompt", "before", "after", ""), answers)
    changes = [(one.name, one.before, one.after) for one in comparison.changes]
    yield from markdown_table(("what changed", "before", "after"), changes)
    yield from (f"\n- {note}" for note in comparison.notes)


def _gate_row(result: GateResult) -> tuple[str, str, str, str]:
    passed = result.verdict is GateVerdict.PASS
    accepted = f", accepted by {result.forced.by}: {result.forced.why}" if result.forced else ""
    figures = "; ".join(one.told for one in result.measures) or result.reason
    return result.gate, f"{result.verdict if passed else f'**{result.verdict}**'}{accepted}", result.mode, figures


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table after an empty line; no lines without rows."""
    if rows:
        yield f"\n| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]} …"
