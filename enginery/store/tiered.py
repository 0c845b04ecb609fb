"""The local store in front of the one in S3: what has been here once is not downloaded again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from enginery.context import Log, unheard
from enginery.records import StepRecord
from enginery.store.bucket import BucketStore
from enginery.store.local import LocalStore
from enginery.store.shelf import TieredShelf


class TieredStore:
    """See `Store`. `near` is the local store, `far` the one in S3."""

    def __init__(self, near: LocalStore, far: BucketStore) -> None:
        self.near, self.far = near, far

    def find(self, key: str) -> StepRecord | None:
        """See `Store.find`.

        A step that is only here (its upload had failed, or it was made for the local store alone) is uploaded now, so
        that whatever builds on it elsewhere finds it too.
        """
        record = self.near.find(key)
        if record is None:
            return self.far.find(key)
        return record if self.far.has_record(key) else self._send(record)

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """See `Store.find_many`. S3 is only asked for what is not here."""
        wanted = list(keys)
        found = self.near.find_many(wanted)
        return found | self.far.find_many(key for key in wanted if key not in found)

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """See `Store.fetch`. What comes from S3 is digested on its way, and kept here."""
        self.near.receive(record, self.far.bring)
        self.near.fetch(record, destination)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """See `Store.add`. First here, so that a failing upload does not lose the work; then in S3."""
        return self._send(self.near.add(record, root, replace=replace), replace=replace)

    def _send(self, record: StepRecord, *, replace: bool = False) -> StepRecord:
        """Upload; where another machine was first, take what it made: all machines must go on from the same files."""
        sources = {file.sha256: self.near.blob(file) for file in record.files}
        kept = self.far.send(record, sources, replace=replace)
        if kept.files != record.files:
            self.near.receive(kept, self.far.bring, replace=True)
        return kept

    def lock(self, key: str, *, patience: float | None = None, log: Log = unheard) -> AbstractContextManager[None]:
        """See `Store.lock`: first on this machine, then between machines."""
        return self.far.lock(key, patience=patience, log=log)

    def watch(self, key: str) -> Callable[[], bool]:
        """See `Store.watch`."""
        return self.far.watch(key)

    def records(self) -> Iterator[StepRecord]:
        """See `Store.records`: those here and those only in S3."""
        seen = set()
        for record in self.near.records():
            seen.add(record.key)
            yield record
        yield from (record for record in self.far.records() if record.key not in seen)

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """See `Store.workspace`: in the local store."""
        return self.near.workspace(key)

    def shelf(self) -> TieredShelf:
        """See `Store.shelf`."""
        return TieredShelf(self.near.shelf(), self.far.shelf())

    def verify(self, record: StepRecord) -> list[str]:
        """See `Store.verify`: in both, as far as it is there."""
        here = self.near.verify(record) if self.near.find(record.key) else []
        there = self.far.verify(record) if self.far.has_record(record.key) else []
        return [f"here: {problem}" for problem in here] + [f"in S3: {problem}" for problem in there]
