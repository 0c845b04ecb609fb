"""Stopping the steps that run in other threads of this process when their flow run is cancelled.

Prefect does not interrupt the thread of a task when its flow is cancelled, and then waits for it. So the flow raises
an exception in each thread that works on a step. `process.run` wakes up often, so it meets the exception soon and ends
its command. A step that has not begun by then never begins.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run


class StepInterrupted(BaseException):
    """The run this step belongs to has been cancelled."""


_lock = threading.Condition()
_at_work: dict[int, str | None] = {}
_interrupted: set[str | None] = set()


@contextmanager
def at_work() -> Iterator[None]:
    """A context in which this thread can be interrupted when its flow run is cancelled.

    Raises:
        StepInterrupted: when the run has been cancelled already.
    """
    thread, run = threading.get_ident(), flow_run.get_id()
    with _lock:
        if run in _interrupted:
            raise StepInterrupted
        _at_work[thread] = run
    try:
        yield
    finally:
        with _lock:
            del _at_work[thread]
            _lock.notify_all()


@contextmanager
def interrupting_steps() -> Iterator[None]:
    """A context in which steps of the current flow run may work. An exception that leaves it interrupts them.

    It raises `StepInterrupted` in every thread that works for the run. Later steps of the run do not begin, until a new
    attempt of the run enters this context.
    """
    run = flow_run.get_id()
    with _lock:
        _interrupted.discard(run)
    try:
        yield
    except BaseException:
        with _lock:
            if run is not None:
                _interrupted.add(run)
            for thread in (thread for thread, works_for in _at_work.items() if works_for == run):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(StepInterrupted))
        raise


def wait_for_steps() -> None:
    """Wait until no thread works for the current flow run. A step that is interrupted ends its commands first."""
    run = flow_run.get_id()
    with _lock:
        _lock.wait_for(lambda: run not in _at_work.values())
