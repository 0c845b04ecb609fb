"""How far a publish is, as a progress artifact of its task run in the Prefect UI.

What is told is only counted; a thread beside the work tells the server now and then. A server that is slow or away
delays nothing and breaks nothing.
"""

import re
import threading
from contextvars import copy_context
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from enginery.core.progress import Log
from enginery.core.text import human_bytes

# The names of Prefect artifacts.


def artifact_key(*parts: str) -> str:
    """A key by Prefect's rule: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


INTERVAL_SECONDS = 2.0
LAST_SECONDS = 5.0
"""How long the end of the work waits for the last news to be sent."""


class ArtifactProgress:
    """See `enginery.core.progress.Progress`. To be used in a task run, as a context."""

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
        """See `Progress`."""
        self.what, self.files, self.size = what, files, size
        if self._thread is None:
            context = copy_context()  # it knows the task run
            self._thread = threading.Thread(target=context.run, args=(self._tell,), name="artifact", daemon=True)
            self._thread.start()

    def add(self, size: int) -> None:
        """See `Progress`."""
        with self._lock:
            self.done += size

    def end_file(self) -> None:
        """See `Progress`."""
        with self._lock:
            self.files_done += 1

    def _tell(self) -> None:
        try:
            told = self._now()
            artifact = create_progress_artifact(told[0], key=self.key, description=told[1])
            assert isinstance(artifact, UUID)  # noqa: S101  there is no event loop in this thread
            ended = False
            while not ended:
                ended = self._ended.wait(self.interval)
                now = self._now()
                if now != told:
                    update_progress_artifact(artifact, *now)
                    told = now
        except Exception as error:  # noqa: BLE001  whatever it is, it must not reach the publish
            self.log(f"Prefect does not show the progress any more: {error}")

    def _now(self) -> tuple[float, str]:
        with self._lock:
            percent = 100.0 * self.done / self.size if self.size else 100.0
            text = f"{self.what}: {human_bytes(self.done)} of {human_bytes(self.size)}"
            return round(max(0.0, min(100.0, percent)), 1), f"{text}, {self.files_done} of {self.files} files"
