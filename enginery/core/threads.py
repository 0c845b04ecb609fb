"""One call for many items, side by side in threads: for work that waits for a network, and for digesting."""

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
"""A waiting thread wakes up so often, so that an exception that another thread raises in it can reach it."""

_own = threading.local()
"""`work`: the `_Work` that this thread takes part in."""


class Stopped(BaseException):
    """Another item of the same work has failed, or the work was interrupted: its result is no longer needed."""


def raise_if_stopped() -> None:
    """To be called now and then by work that takes long on one item.

    Raises:
        Stopped: when another item has failed, or the work was interrupted.
    """
    work = _own_work()
    if work and work.is_stopped():
        raise Stopped


def side_by_side(
    call: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = THREADS,
    at_first: int | None = None,
    slow: float | None = None,
) -> list[R]:
    """`call` of each item, in the order of the items.

    The first failure is raised as it is. Items that have not begun by then do not begin, also in calls of this function
    that an item has made.

    Args:
        call: the work on one item.
        items: the items.
        threads: how many at once, at most.
        at_first: how many threads begin; all of them when left out. Few are faster where each item is done quickly.
        slow: every so many seconds one more thread joins, as long as an item has taken longer than that.
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
        self.left = iter(enumerate(items))  # safe for several threads, as `next` of it is atomic
        self.results: dict[int, R] = {}
        self.failures: list[BaseException] = []
        self.begun: dict[int, float] = {}
        self.stopped = False
        self.outer = _own_work()

    def is_stopped(self) -> bool:
        """Whether it has failed or was interrupted, or the work that it is a part of."""
        return self.stopped or (self.outer is not None and self.outer.is_stopped())

    def join(self) -> None:
        """Work until no item is left or the work is stopped."""
        _own.work = self
        thread = threading.get_ident()
        try:
            # In this order, so that an item that is taken is also done.
            while not self.is_stopped() and (taken := next(self.left, None)):
                index, item = taken
                self.begun[thread] = time.monotonic()
                self.results[index] = self.call(item)
        except BaseException as error:  # noqa: BLE001  raised by `side_by_side`
            self.failures.append(error)
            self.stopped = True

    def takes_longer(self, seconds: float) -> bool:
        """Whether some item has been worked on for that long."""
        return min(list(self.begun.values()), default=time.monotonic()) < time.monotonic() - seconds

    def outcome(self) -> list[R]:
        """The results in the order of the items; or the first failure."""
        if self.failures:
            raise self.failures[0]
        if len(self.results) < self.count:
            raise Stopped
        return [self.results[index] for index in range(self.count)]


def _own_work() -> _Work[Any, Any] | None:
    return getattr(_own, "work", None)


def in_order(call: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> Generator[R, None, None]:
    """`call` of each item, side by side, each result given when its turn has come.

    Items are taken only as results are: in memory is never more than one item per thread, and one more. The first
    failure is raised as it is; items that have not begun by then do not begin. A caller that may leave early closes the
    generator, which waits until nothing runs any more.
    """
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[R]] = deque()
        try:
            for item in items:
                raise_if_stopped()
                begun.append(pool.submit(call, item))
                if len(begun) > threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
