"""Work of one kind on many things, side by side in threads: for waiting on a network and for digesting."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8


def side_by_side(call: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> list[R]:
    """`call` of each item, in the order of the items.

    The first failure is raised as it is; what has not begun by then does not begin.
    """
    waiting = list(items)
    if len(waiting) < 2:  # noqa: PLR2004  nothing to do side by side
        return [call(item) for item in waiting]
    with ThreadPoolExecutor(min(threads, len(waiting))) as pool:
        futures = [pool.submit(call, item) for item in waiting]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
