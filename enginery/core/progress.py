"""How far a transfer is, in bytes and files: what takes note of it, and two simple ways to show it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

LOG_EVERY_PERCENT = 10

Log = Callable[[str], None]
"""Takes one line for people to read while the step runs."""

Facts = Mapping[str, JsonValue]
"""What a stage wants to be remembered in the step's record."""


def no_log(_line: str) -> None:
    """A `Log` that drops every line."""


class Progress(Protocol):
    """Takes note of a transfer; thread-safe, so that many files may share one.

    A terminal's bar, a log and Prefect's progress artifact are three of them.
    """

    def begin(self, what: str, *, files: int, size: int) -> None:
        """A transfer of so many files begins, of `size` bytes in all; `what` is for people: `publishing tiny-llama`."""

    def add(self, size: int) -> None:
        """So many more bytes have arrived, or were there already. A negative number: bytes have to come again."""

    def end_file(self) -> None:
        """One more file is complete."""


class Several:
    """Passes everything on to several."""

    parts: Sequence[Progress] = ()

    def __init__(self, *parts: Progress) -> None:
        self.parts = parts

    def begin(self, what: str, *, files: int, size: int) -> None:
        for part in self.parts:
            part.begin(what, files=files, size=size)

    def add(self, size: int) -> None:
        for part in self.parts:
            part.add(size)

    def end_file(self) -> None:
        for part in self.parts:
            part.end_file()


class NoProgress(Several):
    """Shows nothing: it passes everything on to nobody."""


NO_PROGRESS = NoProgress()


class LogProgress(NoProgress):
    """Logs how much is done, a line for each tenth."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.what = ""
        self.size = self.done = self.logged = 0
        self._lock = threading.Lock()

    def begin(self, what: str, *, files: int, size: int) -> None:
        self.what, self.size = what, size
        self.log(f"{what}: {files} files, {size:,} bytes")

    def add(self, size: int) -> None:
        with self._lock:
            self.done += size
            percent = 100 * self.done // max(self.size, 1)
            if percent >= self.logged + LOG_EVERY_PERCENT or (self.done == self.size and percent > self.logged):
                self.logged = percent
                self.log(f"{self.what}: {self.done:,} of {self.size:,} bytes ({percent}%)")
