"""Ends a flow run that somebody has cancelled in Prefect, also if no worker runs it.

Prefect's workers end the process of a run that is Cancelling. A run that no worker has started, such as that of
`enginery build`, would go on to its end and stay Cancelling. So a flow here looks at its own run every few seconds.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled

from enginery.pipeline.tasks.interrupt import wait_for_steps
from enginery.pipeline.tasks.progress import run_log

POLL_SECONDS = 2.0
ARRIVAL_SECONDS = 0.01
"""Python raises an exception that another thread has set at its next instruction."""
CANCELLED = "it was cancelled in Prefect"
DELETED = "it was deleted in Prefect"
P = ParamSpec("P")
R = TypeVar("R")


class RunCancelled(BaseException):
    """The run of this thread is to end, because somebody wants that in Prefect."""


def ends_when_cancelled(work: Callable[P, R]) -> Callable[P, R]:
    """Decorates the function of a flow: when its run is cancelled or deleted in Prefect, the flow ends as cancelled.

        @flow
        @ends_when_cancelled
        def build_model(...): ...

    The exception `RunCancelled` is raised in the flow's thread, so `finally` and `with` do their work. Steps are ended
    before the flow is. Whoever has called the flow gets Prefect's `CancelledRun`.
    """

    @wraps(work)
    def watched(*arguments: P.args, **options: P.kwargs) -> R:
        run = flow_run.get_id()
        if run is None or _is_watched_by_prefect(run):
            return work(*arguments, **options)
        watch = Watch(UUID(run))
        try:
            result = _until_the_end(watch, lambda: work(*arguments, **options))
        except RunCancelled:
            wait_for_steps()
            run_log()(f"the run has ended early: {watch.reason}; finished steps are kept")
            # Prefect takes the state that a flow returns as the state of its run.
            return cast("R", Cancelled(message=f"The run has ended early: {watch.reason}."))
        return result

    return watched


def _until_the_end(watch: "Watch", work: Callable[[], R]) -> R:
    """What the work returns. Also at its very end, the run may have been cancelled: then no other end is possible."""
    watch.begin()
    try:
        result = work()
    except Exception as error:
        if watch.end():
            run_log()(f"failed: {error}")
            raise RunCancelled from error
        raise
    except BaseException:
        watch.stop()
        raise
    if watch.end():
        raise RunCancelled
    return result


def _is_watched_by_prefect(run: str) -> bool:
    """Whether a worker has started this process for the run, or nobody can reach the run's server."""
    return os.environ.get("PREFECT__FLOW_RUN_ID") == run or not PREFECT_API_URL.value()


class Watch:
    """Looks at a run in a thread of its own, and raises `RunCancelled` in the thread that works on it.

    Attributes:
        reason: why the run is to end.
    """

    def __init__(self, run: UUID) -> None:
        self.reason = ""
        self._run = run
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def begin(self) -> None:
        """Begin to look at the run."""
        look = copy_context().run  # Prefect's settings, such as the address of its server, are in the context
        threading.Thread(target=look, args=(self._look_until_the_end,), name="cancellation", daemon=True).start()

    def stop(self) -> None:
        """Stop looking. After this, no exception is raised in the thread any more."""
        with self._lock:
            self._ended.set()
        if self.reason:  # an exception that was raised a moment ago arrives here
            time.sleep(ARRIVAL_SECONDS)

    def end(self) -> bool:
        """Stop, with a last look. Whether the run was cancelled at any time."""
        self.stop()
        if not self.reason:
            with get_client(sync_client=True) as client:
                self.reason = self._find_reason(client)
        return bool(self.reason)

    def _look_until_the_end(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._ended.wait(POLL_SECONDS):
                if reason := self._find_reason(client):
                    self._interrupt(reason)
                    return

    def _find_reason(self, client: SyncPrefectClient) -> str:
        """Why the run is to end; empty if it is not."""
        try:
            state = client.read_flow_run(self._run).state
        except ObjectNotFound:
            return DELETED
        except httpx.HTTPError:  # the run goes on without its server, and the next look may succeed
            return ""
        return CANCELLED if state is not None and (state.is_cancelling() or state.is_cancelled()) else ""

    def _interrupt(self, reason: str) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._ended.set()
                self.reason = reason
                thread, raised = ctypes.c_ulong(self._thread), ctypes.py_object(RunCancelled)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, raised)
