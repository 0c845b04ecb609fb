"""The store in a directory: records `steps/<key>.json`, files `blobs/sha256/ab/<digest>`, and `work/` and `locks/`."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from enginery.core.digests import file_digest
from enginery.core.errors import StoreError
from enginery.core.files import link_or_copy, remove_tree, write_atomic, writing
from enginery.core.locks import file_lock
from enginery.core.progress import Log, no_log
from enginery.core.threads import side_by_side
from enginery.store.blobs import Blobs
from enginery.store.layout import (
    STEPS,
    StillLockedError,
    not_in_output,
    parse_record,
    record_bytes,
    record_path,
    safe_path,
)
from enginery.store.machine import working
from enginery.store.shelf import SHELF, LocalShelf
from enginery.store.steps import FileRecord, StepRecord

WORTH_A_LISTING = 64
"""For more keys than this, a listing of all records is read first."""


class LocalStore:
    """A `Store` in a directory. Fetched files are hard links into the store where the file system allows it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)

    def find(self, key: str) -> StepRecord | None:
        record = self._read(key)
        return record if record and all(map(self.blobs.has, record.files)) else None

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        wanted = list(keys)
        if len(wanted) > WORTH_A_LISTING:
            existing = set(self._keys())
            wanted = [key for key in wanted if key in existing]
        found = [record for key in wanted if (record := self._read(key))]
        files = {file.sha256: file for record in found for file in record.files}
        lost = {sha256 for sha256, file in files.items() if not self.blobs.has(file)}
        return {record.key: record for record in found if not lost.intersection(file.sha256 for file in record.files)}

    def _read(self, key: str) -> StepRecord | None:
        path = self.root / record_path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            remedy = "check that the store is a directory you may read"
            raise StoreError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
        return parse_record(data, key, str(path))

    def fetch(self, record: StepRecord, destination: Path) -> None:
        """Link or copy the files of `record` to `destination`."""
        side_by_side(lambda file: self._fetch_file(file, destination / safe_path(file)), record.files)

    def paths(self, record: StepRecord) -> dict[str, Path]:
        """Where the bytes of its files are."""
        return {file.path: self.blobs.path(file) for file in record.files if self.blobs.has(file)}

    def _fetch_file(self, file: FileRecord, target: Path) -> None:
        if not self.blobs.has(file):
            remedy = "run the build again: the step then runs again"
            raise StoreError(f"the store has lost {file.path}", subject=str(self.blobs.path(file)), remedy=remedy)
        blob = self.blobs.verified_path(file)
        if blob is None:
            remedy = "run the build again: the step that made it then runs again"
            problem = f"{file.path} was damaged in the store (its bytes have changed), and is removed"
            raise StoreError(problem, subject=str(self.blobs.path(file)), remedy=remedy)
        with writing(target):
            target.unlink(missing_ok=True)
            link_or_copy(blob, target)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """A file that has other hard links is copied, because another program may change it."""
        with self._locked(f"{record.key}.add"):
            known = None if replace else self.find(record.key)
            if known is None:
                self._keep_files(record, lambda file, part: _link_or_copy(root / safe_path(file), part))
                self._keep_record(record)
            return known or record

    def receive(self, record: StepRecord, write: Callable[[FileRecord, Path], None], *, replace: bool = False) -> None:
        """Keep a record of another store with its files. `write(file, path)` writes a missing file to a new path."""
        if not replace and all(map(self.blobs.has, record.files)) and self.find(record.key):
            return
        with self._locked(f"{record.key}.add"):
            known = None if replace else self.find(record.key)
            self._keep_files(record, write)
            if known is None:
                self._keep_record(record)

    def _keep_files(self, record: StepRecord, write: Callable[[FileRecord, Path], None]) -> None:
        missing = {file.sha256: file for file in record.files if not self.blobs.has(file)}
        with self._emptied(self.root / "work" / f"{record.key}.incoming") as incoming:
            side_by_side(partial(self._place, incoming, write), missing.values())

    def _keep_record(self, record: StepRecord) -> None:
        # Blobs are not synced. After a power failure, the size shows that a blob is truncated.
        write_atomic(self.root / record_path(record.key), record_bytes(record))

    def _place(self, incoming: Path, write: Callable[[FileRecord, Path], None], file: FileRecord) -> None:
        part = incoming / uuid4().hex
        with writing(self.blobs.path(file)):
            write(file, part)
            if part.stat().st_size != file.size:
                remedy = "let nothing write to a step's output after the step has ended"
                raise StoreError("was changed: its size is not that of the record", subject=file.path, remedy=remedy)
            self.blobs.keep(part, file)

    @contextmanager
    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> Iterator[None]:  # noqa: ARG002
        """A lock between the processes of this machine. It is free when its holder has died."""
        with self._locked(key, patience):
            yield

    def working(self, label: str, log: Log, *, alone: bool, gpu: bool) -> AbstractContextManager[tuple[str, ...]]:
        return working(self.root / "locks", label, log, alone=alone, gpu=gpu)

    def watch(self, key: str) -> Callable[[], bool]:
        def held() -> bool:
            try:
                with self._locked(key, 0):
                    return False
            except StillLockedError:
                return True

        return held

    @contextmanager
    def _locked(self, name: str, patience: float | None = None) -> Iterator[None]:
        path = self._lock_file(name)
        with ExitStack() as held:
            with writing(path):
                try:
                    held.enter_context(file_lock(path, patience))
                except TimeoutError as error:
                    raise StillLockedError("another process works on it", subject=name) from error
            yield

    def records(self) -> Iterator[StepRecord]:
        """Every record that can be read, sorted by key."""
        for key in sorted(self._keys()):
            if record := self._read(key):
                yield record

    def _keys(self) -> list[str]:
        try:
            names = os.listdir(self.root / STEPS)  # noqa: PTH208  names alone, thousands of them
        except FileNotFoundError:
            return []
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        record_path(key)  # raises when `key` is not a step key, and so not safe as the name of a directory
        self._sweep(key)
        with self._emptied(self.root / "work" / key) as directory:
            yield directory

    def _sweep(self, mine: str) -> None:
        """Remove the directories of steps that were killed. Their locks are free."""
        work = self.root / "work"
        for directory in work.iterdir() if work.is_dir() else ():
            key, dot, _ = directory.name.partition(".")
            if key == mine:
                continue  # the caller holds its lock
            with suppress(TimeoutError), file_lock(self._lock_file(f"{key}.add" if dot else key), 0):
                remove_tree(directory)

    def _lock_file(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    @contextmanager
    def _emptied(self, directory: Path) -> Iterator[Path]:
        remove_tree(directory)
        with writing(directory):
            directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            remove_tree(directory)

    def shelf(self) -> "LocalShelf":
        return LocalShelf(self.root / SHELF)

    def verify(self, record: StepRecord) -> list[str]:
        return [problem for problem in side_by_side(self._examine, record.files) if problem]

    def _examine(self, file: FileRecord) -> str | None:
        with suppress(FileNotFoundError):
            found = file_digest(self.blobs.path(file))
            return None if found == file.sha256 else f"{file.path}: sha256 is {found}, not {file.sha256}"
        return f"{file.path}: missing, {self.blobs.path(file)} does not exist"


def _link_or_copy(source: Path, part: Path) -> None:
    if not source.is_file():
        raise not_in_output(source)
    if source.stat().st_nlink == 1:
        link_or_copy(source, part)
    else:
        shutil.copyfile(source, part)
