"""Waiting for a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as `condition()` is true.

    Raises:
        AssertionError: when it is still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still not true after {seconds} s: {name}")
        time.sleep(0.01)
