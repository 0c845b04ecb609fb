"""Work of one kind on many things, side by side in threads: for waiting on a network and for digesting."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8


def side_by_side(
    call: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = THREADS,
    at_first: int | None = None,
    slow: float | None = None,
) -> list[R]:
    """`call` of each item, in the order of the items.

    The first failure is raised as it is; what has not begun by then does not begin.

    Args:
        call: the work on one item.
        items: what is worked on.
        threads: how many at once, at most.
        at_first: how many begin; all of them, when it is left out. Few are the fastest where each item is done quickly.
        slow: one more joins them each time that an item takes longer than so many seconds.
    """
    waiting = list(items)
    if len(waiting) < 2:  # noqa: PLR2004  nothing to do side by side
        return [call(item) for item in waiting]
    threads = min(threads, len(waiting))
    work = _Work(call, waiting)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in range(min(at_first or threads, threads)):
                pool.submit(work.join)
            while not work.over.wait(slow):
                if slow and len(work.begun) < threads and work.takes_longer(slow):
                    pool.submit(work.join)
        finally:
            work.over.set()
    return work.outcome()


class _Work(Generic[T, R]):
    """Items that several threads work on."""

    def __init__(self, call: Callable[[T], R], items: list[T]) -> None:
        self.call = call
        self.left = iter(enumerate(items))  # taken from by one thread at a time, as Python sees to
        self.results: dict[int, R] = {}
        self.failures: list[BaseException] = []
        self.begun: dict[int, float] = {}
        self.over = threading.Event()

    def join(self) -> None:
        """Work until nothing is left or something has failed."""
        thread = threading.get_ident()
        try:
            for index, item in self.left:
                if self.over.is_set():
                    return
                self.begun[thread] = time.monotonic()
                self.results[index] = self.call(item)
        except BaseException as error:  # noqa: BLE001  raised where the work was asked for
            self.failures.append(error)
        self.over.set()

    def takes_longer(self, seconds: float) -> bool:
        """Whether an item that is worked on began that long ago."""
        return min(list(self.begun.values()), default=time.monotonic()) < time.monotonic() - seconds

    def outcome(self) -> list[R]:
        """The results in the order of the items; or the first failure."""
        if self.failures:
            raise self.failures[0]
        return [self.results[index] for index in range(len(self.results))]


def in_order(call: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> Generator[R, None, None]:
    """`call` of each item, side by side, each result given when its turn has come.

    Items are only taken as results are: what waits in memory is no more than one item a thread, and one more. The first
    failure is raised as it is; what has not begun by then does not begin. To be closed by who may leave early: then
    nothing runs any more.
    """
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[R]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(call, item))
                if len(begun) > threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
