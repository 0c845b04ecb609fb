"""Locks between machines: a lease is an object in S3 that its holder renews, and that another may take when it ends.

A lease saves work; it does not protect files. A process that loses its lease works on, and the store keeps the output
that was finished first. Clocks of machines are never compared: a process that waits measures with its own clock how
long a lease has not been renewed.
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
"""How often a lease is renewed in the time it lasts."""

_logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Frozen)


def lease_seconds() -> float:
    """How long others wait for the lease of a machine that has died: `ENGINERY_LEASE_SECONDS`, else 15.

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
    """The content of the object.

    Attributes:
        worker: the process that holds it, or held it last.
        seconds: how long it is valid after each renewal.
        renewed: how often it was renewed, so that each renewal changes the object.
        free: whether it was released.
    """

    worker: Worker
    seconds: float
    renewed: int = 0
    free: bool = False

    def ended(self) -> bool:
        """Whether it is certainly not held: it was released, or its process was on this machine and has ended."""
        return self.free or (self.worker.is_local() and not self.worker.is_at_work())


class HeldObject(Generic[H]):
    """A JSON object in S3 that names its holder, and that is replaced only if nobody else has changed it meanwhile.

    Leases are such objects. It needs a server that honours conditional writes.

    Attributes:
        held: what was read or written last; None where there was no object, or one that cannot be understood.
        etag: the ETag of that; None where there was no object.
    """

    def __init__(self, prefix: Prefix, path: str, kind: type[H]) -> None:
        self.prefix, self.path, self.kind = prefix, path, kind
        self.held: H | None = None
        self.etag: str | None = None

    def read(self) -> H | None:
        """What the object holds now."""
        found = self.prefix.get(self.path)
        self.etag, self.held = (found.etag if found else None), None
        with suppress(ValidationError):
            self.held = self.kind.model_validate_json(found.data) if found else None
        return self.held

    def replace(self, held: H) -> bool:
        """Write over what was read or written last; False when another has changed it since."""
        written = self.prefix.swap(self.path, held.model_dump_json().encode(), self.etag)
        if written:
            self.etag, self.held = written, held
        return written is not None


class ObservedLease(HeldObject[Lease]):
    """A lease, and for how long it has been seen unchanged."""

    def __init__(self, prefix: Prefix, key: str) -> None:
        super().__init__(prefix, f"{LEASES}/{key}.json", Lease)
        self._changed = time.monotonic()

    def is_held(self) -> bool:
        """Read it, and say whether a process holds it."""
        before = self.etag
        lease = self.read()
        if self.etag != before:
            self._changed = time.monotonic()
        if lease is None or lease.ended():
            return False
        return time.monotonic() - self._changed <= lease.seconds


@contextmanager
def leased(prefix: Prefix, key: str, *, patience: float | None, log: Log) -> Iterator[None]:
    """Hold the lease of `key`, so that no other machine does.

    On this machine only one thread at a time may call it for one key. Where the server does not honour conditional
    writes there are no leases, and nobody is kept out.

    Args:
        prefix: the store.
        key: what is locked.
        patience: seconds to wait for it; None for as long as it takes.
        log: takes one line, with the process that is waited for.

    Raises:
        StillLockedError: when another machine still holds it after that time.
    """
    if not honours_conditional_writes(prefix):
        yield
        return
    lease = ObservedLease(prefix, key)
    _take(lease, patience, log)
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
    """A function that says whether the lease of `key` is held, to be called repeatedly.

    A machine counts as dead when its lease has not been renewed between two calls that are far enough apart. Where the
    server does not honour conditional writes there are no leases, and every holder counts as alive.
    """
    if not honours_conditional_writes(prefix):
        return lambda: True
    return ObservedLease(prefix, key).is_held


def _take(lease: ObservedLease, patience: float | None, log: Log) -> None:
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
    """Renew it until `stop` is set or another process has taken it."""
    while (held := lease.held) is not None and not stop.wait(held.seconds / RENEWALS):
        try:
            kept = lease.replace(held.model_copy(update={"renewed": held.renewed + 1}))
        except EngineryError as error:  # the work matters more than the lease, so it continues
            _logger.warning("the lease %s could not be renewed: %s", lease.path, error)
            continue
        if not kept:
            _logger.warning("another machine has taken the lease %s: it was not renewed in time", lease.path)
            return


def _release(lease: ObservedLease) -> None:
    """Free it at once for others; where that fails it ends by itself."""
    assert lease.held is not None  # noqa: S101  it was taken
    try:
        lease.replace(lease.held.model_copy(update={"free": True}))
    except EngineryError as error:
        _logger.warning("the lease %s could not be given back: %s", lease.path, error)
