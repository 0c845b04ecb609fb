"""Calls a function for many items in several threads: for work that waits for a network, and for digests."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
WAKE_SECONDS = 0.5
"""A waiting thread wakes up so often. An exception that another thread raises in it can only arrive then."""

_thread = threading.local()
"""Its `work` is the `_Work` that this thread takes part in."""


class Stopped(BaseException):
    """The result is no longer needed: another item of the same work has failed, or the work was interrupted."""


def raise_if_stopped() -> None:
    """Leave the work on this item if its result is no longer needed. Long work calls this from time to time.

    Raises:
        Stopped: when another item has failed, or the work was interrupted.
    """
    work = _current_work()
    if work and work.is_stopped():
        raise Stopped


def sleep_unless_stopped(seconds: float) -> None:
    """Sleep, but wake up now and then, so that Ctrl-C or another item's failure ends the wait.

    Raises:
        Stopped: when the result of the current item is no longer needed.
    """
    end = time.monotonic() + seconds
    raise_if_stopped()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, WAKE_SECONDS))
        raise_if_stopped()


def side_by_side(
    call: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = THREADS,
    at_first: int | None = None,
    slow: float | None = None,
) -> list[R]:
    """Call `call` with each item in several threads, and return the results in the order of the items.

    The first failure is raised unchanged. After it no further item starts. This also holds for the items of a nested
    `side_by_side` that an item has called.

    Args:
        call: the work on one item.
        items: the items.
        threads: how many threads work at the same time, at most.
        at_first: how many threads start; default: all of them. Few threads are faster when each item takes little time.
        slow: seconds. When an item takes longer than this, one more thread joins, and again after as many seconds.
    """
    waiting = list(items)
    if len(waiting) < 2:  # noqa: PLR2004  nothing to do side by side
        return [call(item) for item in waiting]
    threads = min(threads, len(waiting))
    work = _Work(call, waiting)
    with ThreadPoolExecutor(threads) as pool:
        try:
            joined = [pool.submit(work.join) for _ in range(min(at_first or threads, threads))]
            while wait(joined, timeout=slow or WAKE_SECONDS).not_done:
                if slow and len(joined) < threads and work.takes_longer(slow):
                    joined.append(pool.submit(work.join))
        except BaseException:
            work.stopped = True
            raise
    return work.outcome()


class _Work(Generic[T, R]):
    """Items that several threads work on."""

    def __init__(self, call: Callable[[T], R], items: list[T]) -> None:
        self.call = call
        self.count = len(items)
        self.remaining = iter(enumerate(items))  # thread-safe: its `next` is atomic
        self.results: dict[int, R] = {}
        self.failures: list[BaseException] = []
        self.started_at: dict[int, float] = {}
        self.stopped = False
        self.outer = _current_work()

    def is_stopped(self) -> bool:
        """Whether this work, or the work that it is part of, has failed or was interrupted."""
        return self.stopped or (self.outer is not None and self.outer.is_stopped())

    def join(self) -> None:
        """Work until no item is left or the work is stopped."""
        _thread.work = self
        thread = threading.get_ident()
        try:
            # `is_stopped` comes first: an item that was taken must also be worked on.
            while not self.is_stopped() and (taken := next(self.remaining, None)):
                index, item = taken
                self.started_at[thread] = time.monotonic()
                self.results[index] = self.call(item)
        except BaseException as error:  # noqa: BLE001  raised by `side_by_side`
            self.failures.append(error)
            self.stopped = True

    def takes_longer(self, seconds: float) -> bool:
        """Whether a thread has worked on its item for longer than `seconds`."""
        return min(list(self.started_at.values()), default=time.monotonic()) < time.monotonic() - seconds

    def outcome(self) -> list[R]:
        """The results in the order of the items. If an item failed, the first failure is raised."""
        if self.failures:
            raise self.failures[0]
        if len(self.results) < self.count:
            raise Stopped
        return [self.results[index] for index in range(self.count)]


def _current_work() -> _Work[Any, Any] | None:
    return getattr(_thread, "work", None)


def in_order(call: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> Generator[R, None, None]:
    """Call `call` with each item in several threads, and yield the results in the order of the items.

    An item is taken only when the caller takes a result: at most `threads` + 1 items are in memory. The first failure
    is raised unchanged, and no further item starts. A caller that stops early closes the generator. Closing it waits
    for the calls that still run.
    """
    with ThreadPoolExecutor(threads) as pool:
        submitted: deque[Future[R]] = deque()
        try:
            for item in items:
                raise_if_stopped()
                submitted.append(pool.submit(call, item))
                if len(submitted) > threads:
                    yield submitted.popleft().result()
            while submitted:
                yield submitted.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
