"""A transfer's progress in a terminal: a bar with bytes, speed, files and the time that is left."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from enginery.context import Log
from enginery.progress import LogProgress, Progress


@contextmanager
def shown_progress(log: Log, console: Console | None = None) -> Iterator[Progress]:
    """For as long as the block lasts, a bar below what is printed; lines of the log where there is no terminal.

    Args:
        log: takes the lines.
        console: where the bar is drawn; standard error when left out.
    """
    terminal = console or Console(file=sys.stderr)
    if not terminal.is_terminal:
        yield LogProgress(log)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[done]}/{task.fields[files]} files"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=terminal) as bars:
        yield BarProgress(bars)


class BarProgress:
    """Draws one bar for each transfer that begins."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self._task: TaskID | None = None
        self._done = 0
        self._lock = threading.Lock()

    def begin(self, what: str, *, files: int, size: int) -> None:
        """See `Progress`."""
        self._done = 0
        self._task = self.bars.add_task(what, total=size, files=files, done=0)

    def add(self, size: int) -> None:
        """See `Progress`."""
        if self._task is not None:
            self.bars.advance(self._task, size)

    def end_file(self) -> None:
        """See `Progress`."""
        with self._lock:
            self._done += 1
            if self._task is not None:
                self.bars.update(self._task, done=self._done)
