"""What was measured, what was hoped for, and the table that shows both."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

Measure = Literal["times", "seconds more", "seconds"]


@dataclass(frozen=True)
class Goal:
    """What a figure should be.

    Attributes:
        limit: the most it may be.
        of: what is limited: how many times theirs, how many seconds more than theirs, or our own seconds.
    """

    limit: float
    of: Measure

    def met(self, ours: float, theirs: float | None) -> bool:
        """Whether `ours` seconds reach the goal.

        Raises:
            ValueError: when the goal compares and there is nothing to compare with.
        """
        if self.of == "seconds":
            return ours <= self.limit
        if theirs is None:
            raise ValueError(f"a goal of {self} needs something to compare with")
        return (ours / theirs if self.of == "times" else ours - theirs) <= self.limit

    def __str__(self) -> str:
        if self.of == "times":
            return f"{self.limit:g} x"
        return f"{shown(self.limit)} more" if self.of == "seconds more" else shown(self.limit)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what was done.
        ours: the seconds Enginery takes, a median where it was done often.
        theirs: the seconds of what people use instead; None where there is no such thing.
        goal: None for what is only good to know.
        runs: how often each was done.
        load: the machine's load average over the last minute, when it was done.
    """

    what: str
    ours: float
    theirs: float | None = None
    goal: Goal | None = None
    runs: int = 1
    load: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours in theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return self.goal.met(self.ours, self.theirs) if self.goal else None

    def plain(self) -> dict[str, Any]:
        """The row as plain data."""
        return {**asdict(self), "goal": str(self.goal) if self.goal else None, "ratio": self.ratio, "met": self.met}


def median(samples: Sequence[float]) -> float:
    """The middle of the samples, or the mean of the two in the middle."""
    return statistics.median(samples)


def shown(seconds: float) -> str:
    """Seconds for people: `12.3 ms`, `1.23 s`, `123 s`."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.3g} ms" if abs(seconds) < 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def table(rows: Iterable[Row]) -> Table:
    """The comparisons, a line each."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("what", "ours", "theirs", "ratio", "goal", "met?", "runs", "load"):
        made.add_column(column, justify="left" if column in {"what", "goal", "met?"} else "right", overflow="fold")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        shown(row.ours),
        shown(row.theirs) if row.theirs is not None else "",
        f"{row.ratio:.2f}" if row.ratio is not None else "",
        str(row.goal) if row.goal else "",
        {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met],
        str(row.runs),
        f"{row.load:.1f}" if row.load is not None else "",
    )
