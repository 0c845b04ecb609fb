"""The progress of a transfer, in bytes and files, and simple ways to show it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from pydantic import JsonValue

from enginery.core.text import human_bytes

LOG_EVERY_PERCENT = 10
INTERVAL_SECONDS = 5.0

Log = Callable[[str], None]
"""A function that is called with each line of text for people, while the step runs."""

Facts = Mapping[str, JsonValue]
"""Facts that a stage adds to the step's record."""


def no_log(_line: str) -> None:
    """A `Log` that drops every line."""


class Progress(Protocol):
    """Follows a transfer: its methods are called as bytes arrive. It is thread-safe, so many files may share one.

    Examples are the bar in a terminal, a log and Prefect's progress artifact.
    """

    def begin(self, what: str, *, files: int, size: int) -> None:
        """A transfer begins: `files` files with `size` bytes in all. `what` is for people: `publishing tiny-llama`."""

    def add(self, size: int) -> None:
        """`size` more bytes have arrived, or were there already. It is negative when bytes must be sent again."""

    def end_file(self) -> None:
        """One more file is complete."""


class ProgressGroup:
    """Passes each call on to several `Progress` objects."""

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


class NoProgress(ProgressGroup):
    """Shows nothing."""


NO_PROGRESS = NoProgress()


class LogProgress(NoProgress):
    """Logs one line for each tenth of the bytes."""

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


class SteadyProgress(LogProgress):
    """Logs the progress every few seconds, even when nothing arrives. Use it as a context manager.

    Attributes:
        active: the names of the files that are being transferred.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.active: set[str] = set()
        self._ended = threading.Event()
        self._reporter = threading.Thread(target=self._report, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._found, self._started = self.done, time.monotonic()
        self._reporter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._reporter.join()

    def begin(self, what: str, *, files: int, size: int) -> None:
        """As for all progress; but a size of 0 means here that the size is not known."""
        self.what, self.size = what, size
        self.log(f"{what}: {files} files, {f'{size:,} bytes' if size else 'the server does not say how large'}")

    def add(self, size: int) -> None:
        with self._lock:
            self.done += size

    def summary(self) -> str:
        """One line: bytes, percentage, speed since the context was entered, and the files in transfer."""
        of_all = f" of {human_bytes(self.size)} ({100 * self.done // self.size}%)" if self.size else ""
        speed = human_bytes(max(self.done - self._found, 0) / max(time.monotonic() - self._started, 1e-6))
        underway = f"; under way: {', '.join(sorted(self.active))}" if self.active else ""
        return f"{human_bytes(self.done)}{of_all}, {speed}/s{underway}"

    def _report(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self.log(self.summary())
