"""Retries after transient errors, with growing waits between the attempts.

Only an `EngineryError` with `transient` set is retried. The caller decides when to give up: S3 counts seconds, and
downloads count attempts that brought no new bytes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from enginery.core.errors import EngineryError
from enginery.core.late import late
from enginery.core.progress import Log, no_log
from enginery.core.threads import sleep_unless_stopped

if TYPE_CHECKING:
    import tenacity
else:
    tenacity = late("tenacity")

T = TypeVar("T")


class Waits(NamedTuple):
    """Seconds between attempts. The first wait is doubled each time, up to the longest. A random part is added."""

    first: float
    longest: float
    random: float


def retry(call: Callable[[], T], *, give_up: Callable[[], bool], waits: Waits, log: Log = no_log) -> T:
    """Call `call` until it succeeds, raises an error that is not transient, or `give_up` returns True.

    Args:
        call: the work.
        give_up: is called once after each transient error.
        waits: how long to wait between attempts.
        log: is called with a line before each new attempt.

    Raises:
        EngineryError: the last failure.
    """

    def log_failure(state: "tenacity.RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, EngineryError):
            log(f"{error.problem}; trying again")

    growing = tenacity.wait_exponential(multiplier=waits.first, max=waits.longest)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, EngineryError) and error.transient),
        stop=lambda _state: give_up(),
        wait=growing + tenacity.wait_random(0, waits.random),
        before_sleep=log_failure,
        sleep=sleep_unless_stopped,
        reraise=True,
    )(call)
