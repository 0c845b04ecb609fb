"""The store in S3, laid out like the one in a directory."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from enginery.core.errors import StoreError
from enginery.core.progress import Log, no_log
from enginery.core.s3 import Address, Content, Prefix, download_file, upload_file
from enginery.core.threads import side_by_side
from enginery.store.blobs import READ_ONLY
from enginery.store.layout import STEPS, blob_path, not_in_output, parse_record, record_bytes, record_path, safe_path
from enginery.store.leases import leased, watched
from enginery.store.local import WORTH_A_LISTING, LocalStore
from enginery.store.shelf import BucketShelf, TieredShelf
from enginery.store.steps import FileRecord, StepRecord

REQUESTS = 16


class BucketStore:
    """A `Store` in S3.

    Workspaces are those of `scratch`, on this machine. Locks are those of `scratch` and a lease in S3. Should two
    machines do one step at once all the same, the first to finish is kept.
    """

    def __init__(self, address: Address, scratch: LocalStore) -> None:
        self.prefix = Prefix(address, StoreError)
        self.scratch = scratch

    def find(self, key: str) -> StepRecord | None:
        return self._whole([self._read(key)]).get(key)

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        wanted = list(keys)
        if len(wanted) > WORTH_A_LISTING:  # one request for each thousand records
            there = set(self._keys())
            wanted = [key for key in wanted if key in there]
        return self._whole(side_by_side(self._read, wanted, threads=REQUESTS))

    def has(self, file: FileRecord) -> bool:
        """Whether the file is there, with its size; it is not digested."""
        found = self.prefix.head(blob_path(file))
        return found is not None and found.size == file.size

    def has_record(self, key: str) -> bool:
        """Whether there is a record; its files are not looked for."""
        return self.prefix.head(record_path(key)) is not None

    def _read(self, key: str) -> StepRecord | None:
        return self._parse(key, self.prefix.get(record_path(key)))

    def _parse(self, key: str, content: Content | None) -> StepRecord | None:
        return parse_record(content.data, key, self.prefix.where(record_path(key))) if content else None

    def _whole(self, records: Iterable[StepRecord | None]) -> dict[str, StepRecord]:
        found = [record for record in records if record]
        files = {file.sha256: file for record in found for file in record.files}
        present = dict(zip(files, side_by_side(self.has, files.values(), threads=REQUESTS), strict=True))
        return {record.key: record for record in found if all(present[file.sha256] for file in record.files)}

    def _keys(self) -> Iterator[str]:
        for entry in self.prefix.list(STEPS):
            yield entry.path.removeprefix(f"{STEPS}/").removesuffix(".json")

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Every file is digested on the way."""
        side_by_side(lambda file: self.bring(file, destination / safe_path(file)), record.files)

    def bring(self, file: FileRecord, target: Path) -> None:
        """Download one file, checked and read-only."""
        download_file(self.prefix, blob_path(file), target, size=file.size, sha256=file.sha256)
        target.chmod(READ_ONLY)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        return self.send(record, {file.sha256: root / safe_path(file) for file in record.files}, replace=replace)

    def send(self, record: StepRecord, sources: dict[str, Path], *, replace: bool = False) -> StepRecord:
        """Like `add`, with the files found by their digests."""
        path = record_path(record.key)
        before = self.prefix.get(path)
        if not replace and (known := self._whole([self._parse(record.key, before)])):
            return known[record.key]
        files = {file.sha256: file for file in record.files}
        side_by_side(lambda file: self._send_file(file, sources[file.sha256]), files.values())
        if self.prefix.swap(path, record_bytes(record), before.etag if before else None):
            return record
        return self.find(record.key) or record  # another machine was first; its record is as good

    def _send_file(self, file: FileRecord, source: Path) -> None:
        if self.has(file):
            return
        if not source.is_file():
            raise not_in_output(source)
        upload_file(self.prefix, blob_path(file), source, file.sha256)

    @contextmanager
    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> Iterator[None]:
        """First on this machine, then between machines."""
        with self.scratch.lock(key, patience=patience), leased(self.prefix, key, patience=patience, log=log):
            yield

    def watch(self, key: str) -> Callable[[], bool]:
        return watched(self.prefix, key)

    def records(self) -> Iterator[StepRecord]:
        """Sorted by key."""
        for record in side_by_side(self._read, self._keys(), threads=REQUESTS):
            if record:
                yield record

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """In the local store."""
        return self.scratch.workspace(key)

    def shelf(self) -> BucketShelf:
        return BucketShelf(self.prefix)

    def verify(self, record: StepRecord) -> list[str]:
        """Every file is downloaded."""
        name = f"verify-{record.key}"
        with self.scratch.lock(name), self.scratch.workspace(name) as directory:
            examine = partial(self._examine, directory)
            return [problem for problem in side_by_side(examine, record.files) if problem]

    def _examine(self, directory: Path, file: FileRecord) -> str | None:
        blob = blob_path(file)
        found = self.prefix.head(blob)
        if found is None:
            return f"{file.path}: missing, {self.prefix.where(blob)} does not exist"
        with tempfile.NamedTemporaryFile(dir=directory) as part:
            digest = download_file(self.prefix, blob, Path(part.name), size=found.size)
        return None if digest == file.sha256 else f"{file.path}: sha256 is {digest}, not {file.sha256}"


class TieredStore:
    """The local store, `near`, in front of the one in S3, `far`: what was downloaded once is kept on this machine."""

    def __init__(self, near: LocalStore, far: BucketStore) -> None:
        self.near, self.far = near, far

    def find(self, key: str) -> StepRecord | None:
        """Uploads a step that only this machine has, so that other machines find it too.

        Its upload may have failed, or it was made for the local store alone.
        """
        record = self.near.find(key)
        if record is None:
            return self.far.find(key)
        return record if self.far.has_record(key) else self._send(record)

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """Only what this machine does not have is looked up in S3."""
        wanted = list(keys)
        found = self.near.find_many(wanted)
        return found | self.far.find_many(key for key in wanted if key not in found)

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """What is downloaded is digested on the way, and kept on this machine."""
        self.near.receive(record, self.far.bring)
        self.near.fetch(record, destination)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """First on this machine, so that a failing upload does not lose the work; then in S3."""
        return self._send(self.near.add(record, root, replace=replace), replace=replace)

    def _send(self, record: StepRecord, *, replace: bool = False) -> StepRecord:
        """Upload; where another machine was first, take its files: all machines must continue from the same ones."""
        sources = {file.sha256: self.near.blobs.path(file) for file in record.files}
        kept = self.far.send(record, sources, replace=replace)
        if kept.files != record.files:
            self.near.receive(kept, self.far.bring, replace=True)
        return kept

    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> AbstractContextManager[None]:
        """First on this machine, then between machines."""
        return self.far.lock(key, patience=patience, log=log)

    def watch(self, key: str) -> Callable[[], bool]:
        return self.far.watch(key)

    def records(self) -> Iterator[StepRecord]:
        """Those on this machine, then those that are only in S3."""
        seen = set()
        for record in self.near.records():
            seen.add(record.key)
            yield record
        yield from (record for record in self.far.records() if record.key not in seen)

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """In the local store."""
        return self.near.workspace(key)

    def shelf(self) -> TieredShelf:
        return TieredShelf(self.near.shelf(), self.far.shelf())

    def verify(self, record: StepRecord) -> list[str]:
        """In each of the two that has it."""
        near = self.near.verify(record) if self.near.find(record.key) else []
        far = self.far.verify(record) if self.far.has_record(record.key) else []
        return [f"here: {problem}" for problem in near] + [f"in S3: {problem}" for problem in far]
