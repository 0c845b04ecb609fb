"""Where step outputs live: records over content-addressed blobs, in a directory, in S3, or in both.

A record is written after all its blobs, so a step with a record is whole. Whatever dies before that leaves nothing
that can be seen.

    store = open_store()                      # or open_store("s3://bucket/prefix")
    record = store.find(step.key())
    if record:
        store.fetch(record, Path("engine"))
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from enginery.core.errors import StoreError, UsageError
from enginery.core.home import store_dir
from enginery.core.progress import Log, no_log
from enginery.core.s3 import Address
from enginery.store.bucket import BucketStore, TieredStore
from enginery.store.context import StepContext
from enginery.store.layout import StillLockedError
from enginery.store.local import READ_ONLY, Blobs, LocalStore, digest_output
from enginery.store.shelf import Shelf
from enginery.store.steps import ANY_GPU, Call, Command, FileRecord, Stage, Step, StepRecord

__all__ = [
    "ANY_GPU",
    "READ_ONLY",
    "Blobs",
    "Call",
    "Command",
    "FileRecord",
    "Shelf",
    "Stage",
    "Step",
    "StepContext",
    "StepRecord",
    "StillLockedError",
    "Store",
    "digest_output",
    "open_store",
]


class Store(Protocol):
    """What runs and plans need of a store. All methods raise StoreError when the store cannot be read or written."""

    def find(self, key: str) -> StepRecord | None:
        """The record of a step, if all its files are there with their sizes (they are not digested).

        A damaged record counts as absent; one from a newer Enginery is an error.
        """

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """What `find` finds, for many keys at once: only looks, never writes."""

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Put the files of `record` under `destination`, read-only; what is there under their names is replaced."""

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """Keep the files of `record`, which are under `root`, then the record; return the record that is there now.

        The files may end up shared with the store and read-only. Where the store has the whole step already, what it
        has stays, unless it is to `replace` that: whatever builds on a step must meet one state of it.
        """

    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> AbstractContextManager[None]:
        """Two at once: one works, the other waits. A store in S3 keeps machines apart too, see `leases`.

        Args:
            key: what is locked, such as a step.
            patience: seconds to wait; None for as long as it takes.
            log: is told when another machine is waited for.

        Raises:
            StillLockedError: when it is not free in that time.
        """

    def watch(self, key: str) -> Callable[[], bool]:
        """A function that says whether somebody holds the lock of `key`, to be called again and again.

        Of another machine that has died this is seen some seconds later.
        """

    def records(self) -> Iterator[StepRecord]:
        """Every record, whether its files are still there or not."""

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """A new, empty directory from which finished files can be linked into the store; to be used under `lock`.

        What earlier runs that were killed have left, of this step or another, is removed first, and all of it at the
        end.
        """

    def verify(self, record: StepRecord) -> list[str]:
        """Digest all files of `record` anew: one sentence for each that is missing or differs."""

    def shelf(self) -> "Shelf":
        """The place for files that are replaced as they get better."""


def open_store(address: str | None = None) -> Store:
    """The store at `address`; nothing is created or connected before it is needed.

    Args:
        address: a directory, `s3://bucket/prefix` (with the local store in front of it), or None for the local store.

    Raises:
        UsageError: when it is no such address.
        StoreError: when there is a file in its place.
    """
    if address is None:
        return LocalStore(store_dir())
    if address.startswith("s3://"):
        return _open_tiered(address)
    if "://" in address or not address:
        remedy = "name a directory, or s3://bucket/prefix"
        raise UsageError("is not the address of a store", subject=address or "(nothing)", remedy=remedy)
    root = Path(address).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise StoreError("is not a directory", subject=str(root), remedy="name a directory for the store")
    return LocalStore(root)


def _open_tiered(address: str) -> Store:

    near = LocalStore(store_dir())
    return TieredStore(near, BucketStore(Address.parse(address), scratch=near))
