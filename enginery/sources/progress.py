"""How far a download is, logged every few seconds, so that a user sees that it still runs."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from enginery.core.progress import Log
from enginery.core.text import human_bytes
from enginery.core.threads import raise_if_stopped
from enginery.sources.resolved import SourceFile

INTERVAL_SECONDS = 5.0


class DownloadProgress:
    """Counts the bytes of several files that arrive side by side, each by its position. Thread-safe."""

    def __init__(self, files: Sequence[SourceFile], log: Log, interval: float | None = None) -> None:
        self.total = sum(file.size for file in files)
        self._log = log
        self._interval = INTERVAL_SECONDS if interval is None else interval
        self._lock = threading.Lock()
        self._positions: dict[str, int] = {}
        self._found: dict[str, int] = {}
        self._active: set[str] = set()
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._reporter = threading.Thread(target=self._report, name="download-progress", daemon=True)

    def __enter__(self) -> Self:
        self._reporter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._reporter.join()

    def begin(self, name: str, position: int) -> None:
        """A file begins; `position` bytes of it had arrived before.

        Raises:
            Stopped: when another file has failed.
        """
        raise_if_stopped()
        with self._lock:
            self._active.add(name)
            self._found.setdefault(name, position)
            self._positions[name] = position

    def at(self, name: str, position: int) -> None:
        """So many bytes of a file have arrived.

        Raises:
            Stopped: when another file has failed.
        """
        raise_if_stopped()
        with self._lock:
            self._positions[name] = position

    def end(self, name: str) -> None:
        """A file is finished, or given up."""
        with self._lock:
            self._active.discard(name)

    def log(self, line: str) -> None:
        """Pass a line on to the log, one at a time."""
        with self._lock:
            self._log(line)

    def summary(self) -> str:
        """One line: bytes, percentage, speed and the files under way."""
        with self._lock:
            done, found = sum(self._positions.values()), sum(self._found.values())
            active = ", ".join(sorted(self._active))
        seconds = max(time.monotonic() - self._started, 1e-6)
        percent = 100 * done // self.total if self.total else 100
        speed = human_bytes(max(done - found, 0) / seconds)
        underway = f"; under way: {active}" if active else ""
        return f"{human_bytes(done)} of {human_bytes(self.total)} ({percent}%), {speed}/s{underway}"

    def _report(self) -> None:
        while not self._ended.wait(self._interval):
            self.log(self.summary())
