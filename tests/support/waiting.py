"""Waiting for a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable

SHORTEST_PAUSE = 0.01


def wait_until(
    condition: Callable[[], object],
    *,
    seconds: float = 60.0,
    longest_pause: float = 0.25,
    otherwise: Callable[[], object] = str,
) -> None:
    """Return as soon as `condition()` is true. The limit is only reached when it never will be, so it is generous.

    Args:
        condition: asked again after a pause, which begins at 10 ms and grows: asking a server costs processor time.
        seconds: the limit.
        longest_pause: seconds.
        otherwise: says what stands in the way.

    Raises:
        AssertionError: when it is still false after `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, SHORTEST_PAUSE
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still not true after {seconds} s: {name}\n{otherwise()}")
        time.sleep(pause)
        pause = min(pause * 1.3, longest_pause)


HEED_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""First in a script that a test interrupts: it would ignore SIGINT where the tests run in the background."""
