"""Work of one kind on many things, side by side in threads: for waiting on a network and for digesting."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
