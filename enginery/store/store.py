"""The interface of every store, and `open_store`, which opens the store at an address."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from enginery.core import s3
from enginery.core.errors import StoreError, UsageError
from enginery.core.home import store_dir
from enginery.core.late import late
from enginery.core.progress import Log, no_log
from enginery.store.layout import STEPS
from enginery.store.local import LocalStore
from enginery.store.steps import StepRecord

if TYPE_CHECKING:
    from enginery.store import bucket
    from enginery.store.shelf import Shelf
else:
    bucket = late("enginery.store.bucket")


class Store(Protocol):
    """A store of step outputs. Methods raise StoreError when the store cannot be read or written."""

    def find(self, key: str) -> StepRecord | None:
        """The record of a step, if all its files exist with their sizes. The files are not digested.

        A damaged record counts as missing. A record of a newer Enginery is an error.
        """

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """Key -> record, as `find` returns it, for many keys at once. It never writes."""

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Put the files of `record` under `destination`, read-only. Existing files with these names are replaced."""

    def paths(self, record: StepRecord) -> dict[str, Path]:
        """File of `record` -> where its bytes are on this machine. Others are left out. Nothing is digested."""

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """Keep the files of `record`, which are under `root`, then the record. Returns the record that is kept.

        The files may become read-only links into the store. If the store has the complete step already, that step
        stays, unless `replace` is given: all later steps must get the same output.
        """

    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> AbstractContextManager[None]:
        """A lock that one process at a time holds. With a store in S3, that is one process of all machines.

        Args:
            key: what is locked, such as a step key.
            patience: seconds to wait for the lock; None for no limit.
            log: is called with a line when this process waits for another machine.

        Raises:
            StillLockedError: when the lock is not free in that time.
        """

    def working(self, label: str, log: Log, *, alone: bool, gpu: bool) -> AbstractContextManager[tuple[str, ...]]:
        """Work hard on this machine, side by side with other steps or `alone`: see `enginery/store/machine.py`.

        It concerns all processes that use this store on this machine. The caller may hold locks of steps, and must not
        wait for another one inside.

        Args:
            label: the step's name for people.
            log: is called with a line when this step waits, and for whom.
            alone: whether no other step may work at the same time.
            gpu: whether the step uses the machine's GPUs, and not its CPU only.

        Returns:
            the steps that work on the CPU although this step wants to be alone; nearly always nothing.
        """

    def watch(self, key: str) -> Callable[[], bool]:
        """A function that returns whether a process holds the lock of `key`. The caller calls it repeatedly.

        If the holder's machine dies, the function returns False some seconds later.
        """

    def records(self) -> Iterator[StepRecord]:
        """Every record, even if its files are missing."""

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """A new, empty directory for a step. `add` can link its files into the store. The caller must hold `lock`.

        The directory is removed at the end. First, directories that killed runs of any step have left are removed.
        """

    def verify(self, record: StepRecord) -> list[str]:
        """Digest all files of `record` again. Returns one sentence for each file that is missing or differs."""

    def shelf(self) -> "Shelf":
        """The shelf: files beside the steps that make later steps faster."""


def open_store(address: str | None = None) -> Store:
    """The store at `address`. Nothing is created, and no connection is opened, before the first use.

    Args:
        address: a directory, `s3://bucket/prefix` (with the local store in front of it), or None for the local store.

    Raises:
        UsageError: when `address` is not such an address.
        StoreError: when `address` is a file.
    """
    if address is None:
        return LocalStore(store_dir())
    if s3.is_address(address):
        local = LocalStore(store_dir())
        return bucket.TieredStore(local, bucket.BucketStore(s3.Address.parse(address), scratch=local))
    if not address:
        remedy = "name a directory, or s3://bucket/prefix"
        raise UsageError("is not the address of a store", subject="(nothing)", remedy=remedy)
    root = Path(address).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise StoreError("is not a directory", subject=str(root), remedy="name a directory for the store")
    return LocalStore(root)


def require_usable_store(address: str | None) -> None:
    """Check that a store in S3 can be used: that objects can be listed, written, read and removed there.

    Nothing is checked for a store in a directory.

    Raises:
        UsageError: when `address` is not the address of a store.
        StoreError: when the bucket does not exist, or the credentials do not allow it.
    """
    if address is not None and s3.is_address(address):
        prefix = s3.Prefix(s3.Address.parse(address), StoreError)
        s3.require_listable(prefix, STEPS)
        s3.honours_conditional_writes(prefix)  # a server that ignores them can be used; then there are no leases
