"""Measurements, their goals, and the table that shows both."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

Measure = Literal["times", "seconds more", "seconds"]


@dataclass(frozen=True)
class Goal:
    """The goal of a figure.

    Attributes:
        limit: the largest value that meets the goal.
        of: the value: our seconds divided by theirs, our seconds minus theirs, or our seconds.
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
        ours: Enginery's seconds; the median when there were several runs.
        theirs: the seconds of the other tool; None without a comparison.
        goal: None for a figure that has none.
        runs: how often each was measured.
        load: the machine's load average over the last minute, after the measurement.
    """

    what: str
    ours: float
    theirs: float | None = None
    goal: Goal | None = None
    runs: int = 1
    load: float | None = None

    @property
    def ratio(self) -> float | None:
        """Our seconds divided by theirs; None without a comparison."""
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
    """A table with one line for each comparison."""
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
