"""How verdicts and comparisons look: tables for the terminal, Markdown for artifacts, rows for scripts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from enginery.comparing import Comparison, Figure
from enginery.units import human_bytes
from enginery.watch.promoting import Promotion
from enginery.watch.verdicts import Verdict

COLUMNS = ("spec", "target", "backend", "now", "release", "verdict", "why")
LONGEST_ANSWER = 120


def verdict_rows(verdicts: Iterable[Verdict]) -> list[dict[str, str]]:
    """The rows of a table, the same on the terminal and in Prefect: releases that fare alike are one row.

    The reason is that of the newest of them.
    """
    alike = groupby(verdicts, key=lambda one: (one.spec, one.target, one.kind))
    return [_row(list(group)) for _, group in alike]


def _row(alike: list[Verdict]) -> dict[str, str]:
    newest, oldest = alike[0], alike[-1]
    span = f"{newest.release} to {oldest.release}" if len(alike) > 1 else newest.release
    return newest.row | {"release": span}


def figures(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """The figures of both builds, each with its name and by how many percent it changed."""
    return [
        _figure("tokens/s", comparison.tokens_per_second, _number),
        _figure("engine", comparison.engine_bytes, human_bytes),
        _figure("whole build", comparison.build_bytes, human_bytes),
        _figure("seconds to make", comparison.making_seconds, _number),
    ]


def _figure(name: str, figure: Figure, write: Callable[[float], str]) -> tuple[str, str, str, str]:
    before, after = ("unknown" if value is None else write(value) for value in (figure.before, figure.after))
    return name, before, after, "" if figure.percent is None else f"{figure.percent:+.1f}%"


def _number(value: float) -> str:
    return f"{value:.1f}"


def answers_sentence(comparison: Comparison) -> str:
    """How many prompts are answered alike."""
    same = len(comparison.answers) - len(comparison.different_answers)
    return f"{same} of {len(comparison.answers)} answers are the same"


def promotion_markdown(promotion: Promotion) -> str:
    """A finished build on a page: what was done, the gates, and the comparison."""
    return "\n".join(_promotion_lines(promotion)) + "\n"


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
