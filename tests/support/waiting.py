"""Waiting for a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    *,
    seconds: float = 60.0,
    pause: float = 0.01,
    otherwise: Callable[[], object] = str,
) -> None:
    """Return as soon as `condition()` is true. The limit is generous, because only a failing test reaches it.

    Args:
        condition: called again after each pause.
        seconds: the limit.
        pause: seconds between two calls.
        otherwise: returns the reason for the error text.

    Raises:
        AssertionError: when the condition is still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still not true after {seconds} s: {name}\n{otherwise()}")
        time.sleep(pause)


ACCEPT_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""The first line of a script that a test interrupts. Without it, a script of tests in the background ignores SIGINT."""
