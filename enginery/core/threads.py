"""Work of one kind on many things, side by side in threads: for waiting on a network and for digesting."""

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
"""An exception that another thread raises in one that waits is met when it wakes up."""

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

    The first failure is raised as it is; what has not begun by then does not begin, nor does it in work of this kind
    that an item has begun.

    Args:
        call: the work on one item.
        items: what is worked on.
        threads: how many at once, at most.
        at_first: how many begin; all of them, when it is left out. Few are the fastest where each item is done quickly.
        slow: every so many seconds one more joins them, as long as there is an item that has taken longer than that.
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
        self.left = iter(enumerate(items))  # taken from by one thread at a time, as Python sees to
        self.results: dict[int, R] = {}
        self.failures: list[BaseException] = []
        self.begun: dict[int, float] = {}
        self.stopped = False
        self.outer = _own_work()

    def is_stopped(self) -> bool:
        """Whether nothing more of it is wanted, for its own sake or for that of the work it is a part of."""
        return self.stopped or (self.outer is not None and self.outer.is_stopped())

    def join(self) -> None:
        """Work until nothing is left, something has failed, or nothing more is wanted."""
        _own.work = self
        thread = threading.get_ident()
        try:
            while not self.is_stopped() and (taken := next(self.left, None)):  # in this order: what is taken is done
                index, item = taken
                self.begun[thread] = time.monotonic()
                self.results[index] = self.call(item)
        except BaseException as error:  # noqa: BLE001  raised where the work was asked for
            self.failures.append(error)
            self.stopped = True

    def takes_longer(self, seconds: float) -> bool:
        """Whether an item that is worked on began that long ago."""
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

    Items are only taken as results are: what waits in memory is no more than one item a thread, and one more. The first
    failure is raised as it is; what has not begun by then does not begin. To be closed by who may leave early: then
    nothing runs any more.
    """
    outer = _own_work()
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[R]] = deque()
        try:
            for item in items:
                if outer and outer.is_stopped():
                    raise Stopped  # noqa: TRY301  what has begun is given up below
                begun.append(pool.submit(call, item))
                if len(begun) > threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
