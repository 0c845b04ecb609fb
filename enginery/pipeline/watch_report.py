"""What one run of the release watch found and did: the verdicts, the builds it started, and the promotions.

Verdicts become rows of a table, the same on the terminal and in Prefect. Comparisons become Markdown for artifacts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from enginery.builds import Comparison, Figure
from enginery.core.digests import json_digest
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.pipeline.promotion import Decision, Promotion
from enginery.pipeline.verdict import Kind, Verdict, rebuild_spec
from enginery.spec import Spec

KEY_DIGITS = 24
COLUMNS = ("spec", "target", "backend", "now", "release", "verdict", "why")
LONGEST_ANSWER = 120


class RebuildRun(Frozen):
    """A build that follows from a verdict.

    Attributes:
        spec: the spec's name.
        release: the release.
        targets: the targets that are built.
        key: the key under which it is started once; see `rebuilds`.
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
    """The end of a run of the watch.

    Attributes:
        verdicts: the verdicts on targets and releases.
        rebuilds: the builds that follow from them.
        promotions: what was done about finished builds.
    """

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
    """One build: all targets of a spec that a release is to be built for.

    Attributes:
        spec: what to build; nothing of it is published where something serves from.
        release: the release.
        targets: the names of its targets.
        key: a digest of everything that determines the builds, and of their destination.
    """

    spec: Spec
    release: str
    targets: tuple[str, ...]
    key: str


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


def verdict_rows(verdicts: Iterable[Verdict]) -> list[dict[str, str]]:
    """The rows of a table. Neighbouring releases with the same verdict are one row, with the newest one's reason."""
    alike = groupby(verdicts, key=lambda one: (one.spec, one.target, one.kind))
    return [_row(list(group)) for _, group in alike]


def figures(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """The figures of both builds, each with its name and by how many percent it changed."""
    return [
        _figure("tokens/s", comparison.tokens_per_second, _number),
        _figure("engine", comparison.engine_bytes, human_bytes),
        _figure("whole build", comparison.build_bytes, human_bytes),
        _figure("seconds to make", comparison.making_seconds, _number),
    ]


def answers_sentence(comparison: Comparison) -> str:
    """How many prompts have the same answer in both builds."""
    same = len(comparison.answers) - len(comparison.different_answers)
    return f"{same} of {len(comparison.answers)} answers are the same"


def promotion_markdown(promotion: Promotion) -> str:
    """A page on a finished build: the decision, the gates, and the comparison."""
    return "\n".join(_promotion_lines(promotion)) + "\n"


def _rebuild(spec: Spec, release: str, verdicts: Sequence[Verdict]) -> Rebuild:
    chosen = rebuild_spec(spec, {one.target: release for one in verdicts})
    where = chosen.publish.model_dump(mode="json") if chosen.publish else None
    digest = json_digest([spec.name, where, sorted(one.build_id for one in verdicts)])
    key = f"rebuild {spec.name} {release} {digest[:KEY_DIGITS]}"
    return Rebuild(chosen, release, tuple(one.target for one in verdicts), key)


def _row(alike: list[Verdict]) -> dict[str, str]:
    newest, oldest = alike[0], alike[-1]
    span = f"{newest.release} to {oldest.release}" if len(alike) > 1 else newest.release
    return newest.row | {"release": span}


def _figure(name: str, figure: Figure, write: Callable[[float], str]) -> tuple[str, str, str, str]:
    before, after = ("unknown" if value is None else write(value) for value in (figure.before, figure.after))
    return name, before, after, "" if figure.percent is None else f"{figure.percent:+.1f}%"


def _number(value: float) -> str:
    return f"{value:.1f}"


def _promotion_lines(promotion: Promotion) -> Iterator[str]:
    yield f"# {promotion.spec}/{promotion.build_id}: {promotion.decision.value}"
    yield f"\nChannel **{promotion.channel}**, target **{promotion.target}**: {_cell(promotion.reason)}"
    if promotion.gates:
        yield from _table(
            ("gate", "", "figures"),
            [(gate.name, "passed" if gate.passed else "**worse**", gate.told) for gate in promotion.gates],
        )
    if promotion.comparison is not None:
        yield from _comparison_lines(promotion.comparison)


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    yield f"\n## Compared with {comparison.before}\n\n{answers_sentence(comparison)}."
    yield from _table(("", "before", "after", ""), figures(comparison))
    if comparison.different_answers:
        rows = [(one.prompt, _short(one.before), _short(one.after), one.said) for one in comparison.different_answers]
        yield from _table(("prompt", "before", "after", ""), rows)
    if comparison.changes:
        yield from _table(
            ("what changed", "before", "after"), [(one.name, one.before, one.after) for one in comparison.changes]
        )
    yield from (f"\n- {note}" for note in comparison.notes)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]} …"
