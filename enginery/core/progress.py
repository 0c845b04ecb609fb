"""How far a transfer is: bytes and files, told to whoever shows it. Thread-safe, so that many files may share one."""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pydantic import JsonValue

Log = Callable[[str], None]
"""Takes one line for people to read while the step runs."""


def no_log(_line: str) -> None:
    """A `Log` that nobody reads."""


Facts = Mapping[str, JsonValue]
"""What a stage wants to be remembered in the step's record."""


LOG_EVERY_PERCENT = 10


class Progress(Protocol):
    """Takes note of a transfer. A terminal's bar, a log and Prefect's progress artifact are three of them."""

    def begin(self, what: str, *, files: int, size: int) -> None:
        """So many files of `size` bytes in all begin; `what` is for people, such as `publishing tiny-llama`."""

    def add(self, size: int) -> None:
        """So many bytes more are there; bytes that were there before count too. Fewer than none: they come again."""

    def end_file(self) -> None:
        """One more file is whole."""


class NoProgress:
    """Tells nobody."""

    def begin(self, what: str, *, files: int, size: int) -> None:
        """See `Progress`."""

    def add(self, size: int) -> None:
        """See `Progress`."""

    def end_file(self) -> None:
        """See `Progress`."""


class LogProgress:
    """Logs how much is done, a line for each tenth."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.what = ""
        self.size = self.done = self.logged = 0
        self._lock = threading.Lock()

    def begin(self, what: str, *, files: int, size: int) -> None:
        """See `Progress`."""
        self.what, self.size = what, size
        self.log(f"{what}: {files} files, {size:,} bytes")

    def add(self, size: int) -> None:
        """See `Progress`."""
        with self._lock:
            self.done += size
            percent = 100 * self.done // max(self.size, 1)
            if percent >= self.logged + LOG_EVERY_PERCENT or (self.done == self.size and percent > self.logged):
                self.logged = percent
                self.log(f"{self.what}: {self.done:,} of {self.size:,} bytes ({percent}%)")

    def end_file(self) -> None:
        """See `Progress`."""


class Several:
    """Tells each of several."""

    def __init__(self, *told: Progress) -> None:
        self.told = told

    def begin(self, what: str, *, files: int, size: int) -> None:
        """See `Progress`."""
        for one in self.told:
            one.begin(what, files=files, size=size)

    def add(self, size: int) -> None:
        """See `Progress`."""
        for one in self.told:
            one.add(size)

    def end_file(self) -> None:
        """See `Progress`."""
        for one in self.told:
            one.end_file()


# Telling how far a transfer is, in bytes.


OnBytes = Callable[[int], object]
"""Takes the number of bytes that have arrived since the last call; fewer than none when a piece has to come again."""


def no_listener(_size: int) -> None:
    """Nobody is told."""
