"""What a server says about its limits when it refuses a request, and the waits that follow from it.

A server says with `Retry-After` or `RateLimit` how long to wait. Enginery waits as long, up to `LONGEST_SECONDS` in all
for one request that gets nowhere. All requests to one Hub wait together: four downloads do not each find out that the
limit is reached.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.progress import Log
from enginery.core.threads import sleep_unless_stopped

huggingface_hub_utils: Any = late("huggingface_hub.utils")
"""Not typed: the library does not export all the names that this file uses."""

LONGEST_SECONDS = 600.0
"""The Hub counts requests in windows of five minutes, so this is enough for one window that another program used up."""
SHORTEST_SECONDS = 1.0
"""A shorter wait, such as `Retry-After: 0`, is no wait: such an answer counts as an ordinary failure."""
MOST_REFUSALS = 10
"""Enginery gives up after so many refusals in a row, even if each of them asks for a short wait only."""
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
LIMITS = {"api": "requests to its API", "resolvers": "requests for files", "pages": "requests for pages"}
"""The Hub's name for a limit -> what it counts."""
MINUTE, HOUR, DAY = 60, 3600, 86_400
YEAR = 365 * DAY


class AskedToWaitError(SourceError):
    """The server refuses a request for now, and says how long.

    Attributes:
        seconds: how long the server asks to wait.
        waiting: the line that says so when the wait begins.
    """

    def __init__(self, problem: str, *, subject: str, remedy: str, seconds: float, waiting: str) -> None:
        super().__init__(problem, subject=subject, remedy=remedy, transient=True)
        self.seconds = seconds
        self.waiting = waiting

    def final(self, waited: float, refusals: int) -> SourceError:
        """The error when Enginery does not wait, or no longer. A run must not try again soon: it is not transient."""
        at = datetime.now(UTC).astimezone() + timedelta(seconds=min(self.seconds, YEAR))
        limit = f"Enginery waits {duration(LONGEST_SECONDS)} at most"
        if waited:
            limit = f"Enginery has waited {duration(waited)} for {refusals} such answers, and gives up ({limit})"
        remedy = f"run it again after {at:%Y-%m-%d %H:%M:%S}; {self.remedy}"
        return SourceError(f"{self.problem}; {limit}", subject=self.subject, remedy=remedy)


def asked_seconds(headers: Mapping[str, str]) -> float | None:
    """How many seconds a server asks to wait; None if it does not say. A time in the past is 0."""
    asked = headers.get("Retry-After", "").strip()
    if SECONDS.fullmatch(asked):
        return float(asked)
    if (moment := _date(asked)) is not None:
        # The server's own clock, if it is known: this machine's clock may be wrong.
        now = _date(headers.get("Date", "")) or datetime.now(UTC)
        return max(0.0, (moment - now).total_seconds())
    used_up = _used_up(headers)
    return float(min(used_up.reset_in_seconds, YEAR)) if used_up else None


def limit_in(headers: Mapping[str, str]) -> str:
    """What the limit that was reached counts, such as `requests to its API: 500 in 5 min`; empty if it is not said."""
    info = _used_up(headers)
    if info is None:
        return ""
    what = LIMITS.get(info.resource_type, f'"{info.resource_type}"')
    quota = f": {info.limit} in {duration(info.window_seconds)}" if info.limit and info.window_seconds else ""
    return f"{what}{quota}"


def duration(seconds: float) -> str:
    """Seconds for people, such as `40 s`, `10 min` or `24 h`."""
    if seconds >= YEAR:
        return "more than a year"
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.3g} days"
    if seconds >= 2 * HOUR:
        return f"{seconds / HOUR:.3g} h"
    minutes, rest = divmod(math.ceil(seconds), MINUTE)
    return " ".join([f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest or not minutes))


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _used_up(headers: Mapping[str, str]) -> Any:
    """What `RateLimit` says, if its limit is reached. The Hub sends this header with every answer."""
    try:
        info = huggingface_hub_utils.parse_ratelimit_headers(headers)
    except ValueError:  # a number with too many digits
        return None
    return info if info is not None and info.remaining == 0 else None


@dataclass
class Gate:
    """Holds back all requests to a server while it asks to wait.

    Attributes:
        clock: gives the time in seconds.
        sleep: waits for so many seconds.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = sleep_unless_stopped
    _opens: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_through(self) -> float:
        """Wait until the gate is open. Returns the seconds that this took."""
        begin = self.clock()
        while (left := self._opens - self.clock()) > 0:
            self.sleep(left)
        return self.clock() - begin

    def close(self, seconds: float) -> bool:
        """Close the gate for so long. False if it was closed already, about as long."""
        with self._lock:
            now, before = self.clock(), self._opens
            self._opens = max(before, now + seconds)
            return before <= now or self._opens - before >= max(SHORTEST_SECONDS, seconds / 2)


_gates: dict[str, Gate] = {}
_gates_lock = threading.Lock()


def gate_of(server: str) -> Gate:
    """The gate of a server: the same one for all threads of this process."""
    with _gates_lock:
        return _gates.setdefault(server, Gate())


class Obedience:
    """Obeys a server's requests to wait, for one request of ours until it succeeds.

    Args:
        gate: the gate of the server.
        log: takes a line when a wait begins.
    """

    def __init__(self, gate: Gate, log: Log) -> None:
        self.gate, self.log = gate, log
        self.waited, self.refusals = 0.0, 0

    def forget(self) -> None:
        """Count from the start again: the request has brought something."""
        self.waited, self.refusals = 0.0, 0

    def obey(self, error: AskedToWaitError) -> None:
        """Wait as long as the server asks.

        Raises:
            SourceError: when that is longer than Enginery waits.
            AskedToWaitError: when no wait was asked for.
        """
        self.refusals += 1
        if self.waited + error.seconds > LONGEST_SECONDS or self.refusals >= MOST_REFUSALS:
            raise error.final(self.waited, self.refusals) from error
        if error.seconds < SHORTEST_SECONDS:
            raise error
        if self.gate.close(error.seconds):
            self.log(error.waiting)
        self.waited += self.gate.pass_through()
