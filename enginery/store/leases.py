"""Leases: locks between machines. A lease is an object in S3. Its holder renews it; others may take it when it ends.

A lease saves work, but it does not protect files. A process that loses its lease continues its work, and the store
keeps the output that is finished first. The clocks of machines are never compared: a waiting process measures with its
own clock for how long the lease has not changed.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from pydantic import ValidationError

from enginery.core.errors import EngineryError, UsageError
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.s3 import Prefix, honours_conditional_writes
from enginery.store.layout import StillLockedError

LEASES = "leases"
DEFAULT_SECONDS = 15.0
POLL_SECONDS = 0.5
RENEWALS = 3
"""How often a lease is renewed during the time that it is valid."""

_logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Frozen)


def lease_seconds() -> float:
    """Seconds that a lease is valid without renewal: `ENGINERY_LEASE_SECONDS`, or else 15.

    Raises:
        UsageError: when `ENGINERY_LEASE_SECONDS` is not a number above 0.
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
    """The content of a lease's object.

    Attributes:
        worker: the process that holds the lease, or held it last.
        seconds: how long the lease is valid after each renewal.
        renewed: how often the lease was renewed. So each renewal changes the object.
        free: whether the lease was released.
    """

    worker: Worker
    seconds: float
    renewed: int = 0
    free: bool = False

    def ended(self) -> bool:
        """Whether certainly no process holds it: it was released, or its process ran on this machine and has ended."""
        return self.free or (self.worker.is_local() and not self.worker.is_at_work())


class HeldObject(Generic[H]):
    """A JSON object in S3 that names its holder, such as a lease. It is replaced only if nobody else has changed it.

    This needs a server that honours conditional writes.

    Attributes:
        held: the content that was read or written last; None when there was no object, or it was not valid.
        etag: the ETag of that content; None when there was no object.
    """

    def __init__(self, prefix: Prefix, path: str, kind: type[H]) -> None:
        self.prefix, self.path, self.kind = prefix, path, kind
        self.held: H | None = None
        self.etag: str | None = None

    def read(self) -> H | None:
        """Read the object. Returns its content, or None when it does not exist or is not valid."""
        found = self.prefix.get(self.path)
        self.etag, self.held = (found.etag if found else None), None
        with suppress(ValidationError):
            self.held = self.kind.model_validate_json(found.data) if found else None
        return self.held

    def replace(self, held: H) -> bool:
        """Replace the content that was read or written last. False when another process has changed it since."""
        written = self.prefix.swap(self.path, held.model_dump_json().encode(), self.etag)
        if written:
            self.etag, self.held = written, held
        return written is not None


class ObservedLease(HeldObject[Lease]):
    """A lease, with the time at which this process first saw its present content."""

    def __init__(self, prefix: Prefix, key: str) -> None:
        super().__init__(prefix, f"{LEASES}/{key}.json", Lease)
        self._changed = time.monotonic()

    def is_held(self) -> bool:
        """Read the lease. Returns whether a process holds it."""
        before = self.etag
        lease = self.read()
        if self.etag != before:
            self._changed = time.monotonic()
        if lease is None or lease.ended():
            return False
        return time.monotonic() - self._changed <= lease.seconds


@contextmanager
def leased(prefix: Prefix, key: str, *, patience: float | None, log: Log) -> Iterator[None]:
    """Hold the lease of `key`, so that no other machine holds it.

    On this machine, only one thread at a time may hold the lease of a key. If the server does not honour conditional
    writes, there are no leases: other machines do not wait.

    Args:
        prefix: the store.
        key: what is locked, such as a step key.
        patience: seconds to wait for the lease; None for no limit.
        log: is called with one line, which names the process that holds the lease.

    Raises:
        StillLockedError: when another machine still holds the lease after that time.
    """
    if not honours_conditional_writes(prefix):
        yield
        return
    lease = ObservedLease(prefix, key)
    _acquire(lease, patience, log)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, stop), name=f"lease-{key[:12]}", daemon=True)
    try:
        renewing.start()
        yield
    finally:
        stop.set()
        if renewing.is_alive():
            renewing.join()
        _release(lease)


def watched(prefix: Prefix, key: str) -> Callable[[], bool]:
    """A function that returns whether a process holds the lease of `key`. The caller calls it repeatedly.

    A holder counts as dead when the lease has not changed between two calls and its `seconds` have passed. If the
    server does not honour conditional writes, there are no leases, and every holder counts as alive.
    """
    if not honours_conditional_writes(prefix):
        return lambda: True
    return ObservedLease(prefix, key).is_held


def _acquire(lease: ObservedLease, patience: float | None, log: Log) -> None:
    deadline = None if patience is None else time.monotonic() + patience
    logged = False
    while lease.is_held() or not lease.replace(Lease(worker=Worker.this(), seconds=lease_seconds())):
        if deadline is not None and time.monotonic() >= deadline:
            raise StillLockedError("another machine works on it", subject=lease.prefix.where(lease.path))
        if lease.held and not logged:
            worker = lease.held.worker
            log(f"waiting for process {worker.pid} on {worker.host}, which works on it")
            logged = True
        time.sleep(POLL_SECONDS)


def _renew(lease: ObservedLease, stop: threading.Event) -> None:
    """Renew the lease until `stop` is set or another process has taken the lease."""
    while (held := lease.held) is not None and not stop.wait(held.seconds / RENEWALS):
        try:
            kept = lease.replace(held.model_copy(update={"renewed": held.renewed + 1}))
        except EngineryError as error:  # the work continues, as it matters more than the lease
            _logger.warning("the lease %s could not be renewed: %s", lease.path, error)
            continue
        if not kept:
            _logger.warning("another machine has taken the lease %s: it was not renewed in time", lease.path)
            return


def _release(lease: ObservedLease) -> None:
    """Free the lease for others. If that fails, it ends by itself."""
    assert lease.held is not None  # noqa: S101  this process holds it
    try:
        lease.replace(lease.held.model_copy(update={"free": True}))
    except EngineryError as error:
        _logger.warning("the lease %s could not be released: %s", lease.path, error)
