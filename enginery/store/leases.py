"""Locks between machines: a lease is an object in S3 that its holder renews, and that another may take once it ends.

A lease saves work, it does not guard files: whoever loses one works on, and the store keeps what was finished first.
Clocks are not compared. Whoever waits measures by its own clock for how long a lease has not been renewed.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from enginery.core.errors import EngineryError, UsageError
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.s3 import PreconditionFailed, Prefix, honours_conditional_writes
from enginery.store.layout import StillLockedError

LEASES = "leases"
DEFAULT_SECONDS = 15.0
POLL_SECONDS = 0.5
RENEWALS = 3
"""How often a lease is renewed in the time it lasts."""

_logger = logging.getLogger(__name__)


def lease_seconds() -> float:
    """How long the lease of a machine that has died keeps others waiting: `ENGINERY_LEASE_SECONDS`, else 15.

    Raises:
        UsageError: when it is not a number above 0.
    """
    chosen = os.environ.get("ENGINERY_LEASE_SECONDS") or str(DEFAULT_SECONDS)
    try:
        seconds = float(chosen)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError("is not a number above 0", subject="ENGINERY_LEASE_SECONDS", remedy="set it to seconds")
    return seconds


class Lease(Frozen):
    """What the object holds.

    Attributes:
        worker: the process that has it, or had it last.
        seconds: how long it is good for after each renewal.
        renewed: how often it was renewed, so that each renewal changes the object.
        free: whether it was given back.
    """

    worker: Worker
    seconds: float
    renewed: int = 0
    free: bool = False

    def ended(self) -> bool:
        """Whether nobody has it, as far as can be told at once: given back, or its process was here and is gone."""
        return self.free or (self.worker.is_here() and not self.worker.is_at_work())


class Observed:
    """A lease as one who waits sees it."""

    def __init__(self, prefix: Prefix, key: str) -> None:
        self.prefix, self.path = prefix, f"{LEASES}/{key}.json"
        self.lease: Lease | None = None
        self.etag: str | None = None
        self._changed = time.monotonic()

    def look(self) -> bool:
        """Read it; says whether somebody has it."""
        found = self.prefix.get(self.path)
        etag = found.etag if found else None
        if etag != self.etag:
            self.etag, self._changed = etag, time.monotonic()
            self.lease = _parsed(found.data) if found else None
        if self.lease is None or self.lease.ended():
            return False
        return time.monotonic() - self._changed <= self.lease.seconds

    def replace(self, lease: Lease) -> bool:
        """Write over what was read last; False when it has changed since."""
        data = lease.model_dump_json().encode()
        try:
            self.etag = self.prefix.put_bytes(
                self.path, data, if_none_match=self.etag is None, if_match=self.etag, content_type="application/json"
            )
        except PreconditionFailed:
            return False
        self.lease = lease
        return True


@contextmanager
def leased(prefix: Prefix, key: str, *, patience: float | None, log: Log) -> Iterator[None]:
    """Inside, no other machine has the lease of `key`.

    Of the threads and processes of this machine only one at a time may ask for it. Where the server does not honour
    conditional writes there are no leases, and nobody is kept out.

    Args:
        prefix: the store.
        key: what is locked.
        patience: seconds to wait for it; None for as long as it takes.
        log: is told once whom we wait for.

    Raises:
        StillLockedError: when another machine has it for longer than that.
    """
    if not honours_conditional_writes(prefix):
        yield
        return
    observed = Observed(prefix, key)
    _take(observed, patience, log)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(observed, stop), name=f"lease-{key[:12]}", daemon=True)
    try:
        renewing.start()
        yield
    finally:
        stop.set()
        if renewing.is_alive():
            renewing.join()
        _give_back(observed)


def watched(prefix: Prefix, key: str) -> Callable[[], bool]:
    """A function that says whether somebody has the lease of `key`, to be called again and again.

    That a machine has died is seen when its lease has not been renewed from one call to a later one. Where the server
    does not honour conditional writes there are no leases, and nobody is ever taken for dead.
    """
    if not honours_conditional_writes(prefix):
        return lambda: True
    return Observed(prefix, key).look


def _take(observed: Observed, patience: float | None, log: Log) -> None:
    deadline = None if patience is None else time.monotonic() + patience
    told = False
    while observed.look() or not observed.replace(Lease(worker=Worker.this(), seconds=lease_seconds())):
        if deadline is not None and time.monotonic() >= deadline:
            raise StillLockedError("another machine works on it", subject=observed.prefix.where(observed.path))
        if observed.lease and not told:
            worker = observed.lease.worker
            log(f"waiting for process {worker.pid} on {worker.host}, which works on it")
            told = True
        time.sleep(POLL_SECONDS)


def _renew(observed: Observed, stop: threading.Event) -> None:
    """Renew it until told to stop, or until another has it."""
    while (lease := observed.lease) is not None and not stop.wait(lease.seconds / RENEWALS):
        try:
            kept = observed.replace(lease.model_copy(update={"renewed": lease.renewed + 1}))
        except EngineryError as error:  # the work matters more than the lease: it goes on
            _logger.warning("the lease %s could not be renewed: %s", observed.path, error)
            continue
        if not kept:
            _logger.warning("another machine has taken the lease %s: it was not renewed in time", observed.path)
            return


def _give_back(observed: Observed) -> None:
    """Let the next one have it at once; where that fails it ends by itself."""
    assert observed.lease is not None  # noqa: S101  it was taken
    try:
        observed.replace(observed.lease.model_copy(update={"free": True}))
    except EngineryError as error:
        _logger.warning("the lease %s could not be given back: %s", observed.path, error)


def _parsed(data: bytes) -> Lease | None:
    try:
        return Lease.model_validate_json(data)
    except ValidationError:
        return None  # of nobody that could be waited for
