"""Waiting for a condition instead of sleeping for a guess, and a clock for code that sleeps."""

import threading
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
    """Return as soon as `condition()` is true. The limit is generous, because only a failing test reaches it.

    Args:
        condition: called again after each pause. The pauses begin at 10 ms and grow, because a call may ask a server.
        seconds: the limit.
        longest_pause: seconds between two calls.
        otherwise: returns the reason for the error text.

    Raises:
        AssertionError: when the condition is still false after `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, SHORTEST_PAUSE
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still not true after {seconds} s: {name}\n{otherwise()}")
        time.sleep(pause)
        pause = min(pause * 1.3, longest_pause)


ACCEPT_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""The first line of a script that a test interrupts. Without it, a script of tests in the background ignores SIGINT."""


class Clock:
    """A clock that only moves when somebody sleeps by it: `Gate(clock, clock.sleep)`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on by so many seconds."""
        with self._lock:
            self.now += seconds
