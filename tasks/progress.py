"""What a run shows while it works: lines in its log, and how far a publish is.

The progress is an artifact of the task run in the Prefect UI. The work only counts bytes and files; a thread in the
background sends the counts to the server. A server that is slow or away neither delays the work nor breaks it.
"""

import re
import threading
from contextvars import copy_context
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from enginery.core.progress import Log
from enginery.core.text import human_bytes

INTERVAL_SECONDS = 2.0
LAST_SECONDS = 5.0
"""How long to wait at the end until the last counts are sent."""
LOG_MARK = "enginery_line"
"""Marks the log records of Enginery, so that a console can show only these."""


class ArtifactProgress:
    """A `Progress` as an artifact of the current task run. Use it as a context."""

    def __init__(self, name: str, log: Log, interval: float = INTERVAL_SECONDS) -> None:
        self.key, self.log, self.interval = artifact_key(name), log, interval
        self.what, self.size, self.files = name, 0, 0
        self.done = self.files_done = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(LAST_SECONDS if error is None else 0)

    def begin(self, what: str, *, files: int, size: int) -> None:
        """Start the thread that sends the counts."""
        self.what, self.files, self.size = what, files, size
        if self._thread is None:
            context = copy_context()  # it knows the task run
            self._thread = threading.Thread(target=context.run, args=(self._send,), name="artifact", daemon=True)
            self._thread.start()

    def add(self, size: int) -> None:
        """Count bytes."""
        with self._lock:
            self.done += size

    def end_file(self) -> None:
        """Count a file."""
        with self._lock:
            self.files_done += 1

    def _send(self) -> None:
        try:
            sent = self._now()
            artifact = create_progress_artifact(sent[0], key=self.key, description=sent[1])
            assert isinstance(artifact, UUID)  # noqa: S101  there is no event loop in this thread
            ended = False
            while not ended:
                ended = self._ended.wait(self.interval)
                now = self._now()
                if now != sent:
                    update_progress_artifact(artifact, *now)
                    sent = now
        except Exception as error:  # noqa: BLE001  no error of the display may stop the publish
            self.log(f"Prefect does not show the progress any more: {error}")

    def _now(self) -> tuple[float, str]:
        with self._lock:
            percent = 100.0 * self.done / self.size if self.size else 100.0
            text = f"{self.what}: {human_bytes(self.done)} of {human_bytes(self.size)}"
            return round(max(0.0, min(100.0, percent)), 1), f"{text}, {self.files_done} of {self.files} files"


def run_log() -> Log:
    """A function that writes lines into the log of the current run."""
    logger = get_run_logger()

    def log(line: str) -> None:
        logger.info("%s", line, extra={LOG_MARK: True})

    return log


def artifact_key(*parts: str) -> str:
    """A key by Prefect's rule: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
