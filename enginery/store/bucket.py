"""The store in S3, and the local store in front of it. The layout is that of the store in a directory."""

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

    Workspaces are directories of `scratch`, a local store. A lock is a lock of `scratch` and a lease in S3. If two
    machines do the same step at the same time anyway, the output that is finished first is kept.
    """

    def __init__(self, address: Address, scratch: LocalStore) -> None:
        self.prefix = Prefix(address, StoreError)
        self.scratch = scratch

    def find(self, key: str) -> StepRecord | None:
        return self._complete([self._read(key)]).get(key)

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        wanted = list(keys)
        if len(wanted) > WORTH_A_LISTING:  # a listing takes one request per thousand records
            existing = set(self._keys())
            wanted = [key for key in wanted if key in existing]
        return self._complete(side_by_side(self._read, wanted, threads=REQUESTS))

    def has(self, file: FileRecord) -> bool:
        """Whether the file exists and has its size. It is not digested."""
        found = self.prefix.head(blob_path(file))
        return found is not None and found.size == file.size

    def has_record(self, key: str) -> bool:
        """Whether the record exists. Its files are not checked."""
        return self.prefix.head(record_path(key)) is not None

    def _read(self, key: str) -> StepRecord | None:
        return self._parse(key, self.prefix.get(record_path(key)))

    def _parse(self, key: str, content: Content | None) -> StepRecord | None:
        return parse_record(content.data, key, self.prefix.where(record_path(key))) if content else None

    def _complete(self, records: Iterable[StepRecord | None]) -> dict[str, StepRecord]:
        found = [record for record in records if record]
        files = {file.sha256: file for record in found for file in record.files}
        present = dict(zip(files, side_by_side(self.has, files.values(), threads=REQUESTS), strict=True))
        return {record.key: record for record in found if all(present[file.sha256] for file in record.files)}

    def _keys(self) -> Iterator[str]:
        for entry in self.prefix.list(STEPS):
            yield entry.path.removeprefix(f"{STEPS}/").removesuffix(".json")

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Download the files of `record`. Every file is digested during the download."""
        side_by_side(lambda file: self.download(file, destination / safe_path(file)), record.files)

    def download(self, file: FileRecord, target: Path) -> None:
        """Download one file to `target`, checked and read-only."""
        download_file(self.prefix, blob_path(file), target, size=file.size, sha256=file.sha256)
        target.chmod(READ_ONLY)

    def paths(self, _record: StepRecord) -> dict[str, Path]:
        """Nothing: the files are in S3."""
        return {}

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        return self.send(record, {file.sha256: root / safe_path(file) for file in record.files}, replace=replace)

    def send(self, record: StepRecord, sources: dict[str, Path], *, replace: bool = False) -> StepRecord:
        """Like `add`, but `sources` gives the files: digest -> path."""
        path = record_path(record.key)
        before = self.prefix.get(path)
        if not replace and (known := self._complete([self._parse(record.key, before)])):
            return known[record.key]
        files = {file.sha256: file for file in record.files}
        side_by_side(lambda file: self._send_file(file, sources[file.sha256]), files.values())
        if self.prefix.swap(path, record_bytes(record), before.etag if before else None):
            return record
        return self.find(record.key) or record  # another machine was first: its record counts

    def _send_file(self, file: FileRecord, source: Path) -> None:
        if self.has(file):
            return
        if not source.is_file():
            raise not_in_output(source)
        upload_file(self.prefix, blob_path(file), source, file.sha256)

    @contextmanager
    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> Iterator[None]:
        """Lock on this machine, then take the lease between machines."""
        with self.scratch.lock(key, patience=patience), leased(self.prefix, key, patience=patience, log=log):
            yield

    def working(self, label: str, log: Log, *, alone: bool, gpu: bool) -> AbstractContextManager[tuple[str, ...]]:
        """The lock of this machine is in the local store: other machines do not matter."""
        return self.scratch.working(label, log, alone=alone, gpu=gpu)

    def watch(self, key: str) -> Callable[[], bool]:
        return watched(self.prefix, key)

    def records(self) -> Iterator[StepRecord]:
        """Every record that can be read, sorted by key."""
        for record in side_by_side(self._read, self._keys(), threads=REQUESTS):
            if record:
                yield record

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """A workspace of the local store `scratch`."""
        return self.scratch.workspace(key)

    def shelf(self) -> BucketShelf:
        return BucketShelf(self.prefix)

    def verify(self, record: StepRecord) -> list[str]:
        """Download every file and digest it."""
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
    """A local store in front of a store in S3, `remote`. Files that were downloaded once stay on this machine."""

    def __init__(self, local: LocalStore, remote: BucketStore) -> None:
        self.local, self.remote = local, remote

    def find(self, key: str) -> StepRecord | None:
        """The record of a step. A step that only this machine has is uploaded, so that other machines find it too.

        Such a step was made for the local store alone, or its upload has failed.
        """
        record = self.local.find(key)
        if record is None:
            return self.remote.find(key)
        return record if self.remote.has_record(key) else self._send(record)

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """The records of many steps. Only records that this machine does not have are looked up in S3."""
        wanted = list(keys)
        found = self.local.find_many(wanted)
        return found | self.remote.find_many(key for key in wanted if key not in found)

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Download missing files, digest them during the download, and keep them on this machine."""
        self.local.receive(record, self.remote.download)
        self.local.fetch(record, destination)

    def paths(self, record: StepRecord) -> dict[str, Path]:
        """Where the bytes of those files are that this machine has."""
        return self.local.paths(record)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """Add to the local store first, so that a failed upload does not lose the work, then to S3."""
        return self._send(self.local.add(record, root, replace=replace), replace=replace)

    def _send(self, record: StepRecord, *, replace: bool = False) -> StepRecord:
        """Upload. If another machine was first, take its files: all machines must continue from the same files."""
        sources = {file.sha256: self.local.blobs.path(file) for file in record.files}
        kept = self.remote.send(record, sources, replace=replace)
        if kept.files != record.files:
            self.local.receive(kept, self.remote.download, replace=True)
        return kept

    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> AbstractContextManager[None]:
        """Lock on this machine, then take the lease between machines."""
        return self.remote.lock(key, patience=patience, log=log)

    def working(self, label: str, log: Log, *, alone: bool, gpu: bool) -> AbstractContextManager[tuple[str, ...]]:
        return self.local.working(label, log, alone=alone, gpu=gpu)

    def watch(self, key: str) -> Callable[[], bool]:
        return self.remote.watch(key)

    def records(self) -> Iterator[StepRecord]:
        """The records of this machine, then the records that are only in S3."""
        seen = set()
        for record in self.local.records():
            seen.add(record.key)
            yield record
        yield from (record for record in self.remote.records() if record.key not in seen)

    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """A workspace of the local store."""
        return self.local.workspace(key)

    def shelf(self) -> TieredShelf:
        return TieredShelf(self.local.shelf(), self.remote.shelf())

    def verify(self, record: StepRecord) -> list[str]:
        """Check the files in each of the two stores that has the record."""
        local = self.local.verify(record) if self.local.find(record.key) else []
        remote = self.remote.verify(record) if self.remote.has_record(record.key) else []
        return [f"here: {problem}" for problem in local] + [f"in S3: {problem}" for problem in remote]
