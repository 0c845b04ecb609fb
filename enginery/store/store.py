"""What a store is to runs and plans, and the store at an address."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from enginery.core import s3
from enginery.core.errors import StoreError, UsageError
from enginery.core.home import store_dir
from enginery.core.late import late
from enginery.core.progress import Log, no_log
from enginery.store.local import LocalStore
from enginery.store.steps import StepRecord

if TYPE_CHECKING:
    from enginery.store import bucket
    from enginery.store.shelf import Shelf
else:
    bucket = late("enginery.store.bucket")


class Store(Protocol):
    """A store, as runs and plans need it. Methods raise StoreError when it cannot be read or written."""

    def find(self, key: str) -> StepRecord | None:
        """The record of a step, if all its files are there with their sizes (they are not digested).

        A damaged record counts as absent; one from a newer Enginery is an error.
        """

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """What `find` finds, for many keys at once. It never writes."""

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Put the files of `record` under `destination`, read-only; existing files of these names are replaced."""

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """Keep the files of `record`, which are under `root`, then the record; return the record that is kept.

        The files may become read-only links to the store. A complete step that the store has already stays, unless
        `replace` is given: everything that builds on a step must see the same output.
        """

    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> AbstractContextManager[None]:
        """A lock that one process at a time holds; with a store in S3, one process of all machines.

        Args:
            key: what is locked, such as a step.
            patience: seconds to wait; None for as long as it takes.
            log: takes a line when another machine is waited for.

        Raises:
            StillLockedError: when it is not free in that time.
        """

    def watch(self, key: str) -> Callable[[], bool]:
        """A function that says whether the lock of `key` is held, to be called repeatedly.

        That another machine has died is noticed some seconds later.
        """

    def records(self) -> Iterator[StepRecord]:
        """Every record, whether its files are still there or not."""

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """A new, empty directory from which finished files can be linked into the store; `lock` must be held.

        It is removed at the end. Directories that killed runs have left, of any step, are removed first.
        """

    def verify(self, record: StepRecord) -> list[str]:
        """Digest all files of `record` anew: one sentence for each that is missing or differs."""

    def shelf(self) -> "Shelf":
        """Files beside the steps that are replaced as they get better."""


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
        near = LocalStore(store_dir())
        return bucket.TieredStore(near, bucket.BucketStore(s3.Address.parse(address), scratch=near))
    if "://" in address or not address:
        remedy = "name a directory, or s3://bucket/prefix"
        raise UsageError("is not the address of a store", subject=address or "(nothing)", remedy=remedy)
    root = Path(address).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise StoreError("is not a directory", subject=str(root), remedy="name a directory for the store")
    return LocalStore(root)
