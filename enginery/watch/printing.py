"""Verdicts, listings and comparisons on the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enginery.comparing import Comparison
from enginery.releases.listing import Listing
from enginery.watch.shown import COLUMNS, answers_sentence, figures, verdict_rows
from enginery.watch.verdicts import Verdict


def print_verdicts(out: Console, verdicts: Iterable[Verdict]) -> None:
    """A line for each verdict."""
    rows = verdict_rows(verdicts)
    _print(out, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def print_listing(out: Console, found: Listing, *, prereleases: bool) -> None:
    """A line for each release, newest first, and what was passed over."""
    usable = found.usable(prereleases=prereleases)
    rows = [[one.release, f"{len(one.wheels)} wheels" if one.wheels else "source only"] for one in reversed(usable)]
    _print(out, ("release", "files"), rows)
    if withdrawn := [one.release for one in found.releases if one.yanked]:
        out.print(f"withdrawn: {', '.join(withdrawn)}", markup=False)
    if found.not_numbers:
        out.print(f"passed over, as their release is no version number: {', '.join(found.not_numbers)}", markup=False)


def print_comparison(out: Console, found: Comparison) -> None:
    """Two builds beside each other."""
    out.print(f"[bold]{escape(found.before)} -> {escape(found.after)}[/]")
    _print(out, ("", "before", "after", ""), figures(found))
    out.print(answers_sentence(found), markup=False)
    differing = [(one.prompt, one.before, one.after, one.said) for one in found.different_answers]
    _print(out, ("prompt", "before", "after", ""), differing)
    _print(out, ("changed", "before", "after"), [(one.name, one.before, one.after) for one in found.changes])
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


def _print(out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)
