"""Trying again what failed for a reason that can pass, with growing waits.

Only an `EngineryError` that is `transient` is tried again. When it is enough, the caller decides: S3 counts seconds,
downloads count attempts that brought nothing new.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from enginery.core.errors import EngineryError
from enginery.core.late import late
from enginery.core.progress import Log, no_log

if TYPE_CHECKING:
    import tenacity
else:
    tenacity = late("tenacity")

T = TypeVar("T")


class Waits(NamedTuple):
    """Seconds between attempts: the first wait, doubled each time up to the longest, plus a random part."""

    first: float
    longest: float
    random: float


def retry(call: Callable[[], T], *, give_up: Callable[[], bool], waits: Waits, log: Log = no_log) -> T:
    """Call until it works, fails with an error that cannot pass, or `give_up` says so.

    Args:
        call: what to do.
        give_up: called once after each failure that can pass; True ends it.
        waits: how long to wait between attempts.
        log: takes a line for each failure that is followed by another attempt.

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
        reraise=True,
    )(call)
