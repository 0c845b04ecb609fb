"""The store in a directory: `steps/<key>.json` over `blobs/sha256/ab/<digest>`; `work/` and `locks/` beside them."""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from enginery.core.digests import file_digest, quick_digest
from enginery.core.errors import StoreError
from enginery.core.files import cannot_write, link_or_copy, list_files, remove_tree, write_atomic
from enginery.core.progress import Log, no_log
from enginery.core.threads import side_by_side
from enginery.store.layout import (
    STEPS,
    StillLockedError,
    blob_path,
    not_in_output,
    parse_record,
    record_bytes,
    record_path,
    safe_path,
)
from enginery.store.shelf import SHELF, LocalShelf
from enginery.store.steps import FileRecord, StepRecord

# Files kept by their SHA-256, `blobs/sha256/ab/<digest>` in a directory: read-only, and linked rather than copied.


READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class Blobs:
    """The files in a directory.

    Attributes:
        root: the directory.
        memory: where digests are remembered; None for Enginery's home.
    """

    def __init__(self, root: Path, memory: Path | None = None) -> None:
        self.root, self.memory = root, memory

    def path(self, file: FileRecord) -> Path:
        """Where the file's bytes are, or would be."""
        return self.root / blob_path(file)

    def has(self, file: FileRecord) -> bool:
        """Whether the file's bytes are here, judged by their number."""
        try:
            return self.path(file).stat().st_size == file.size
        except FileNotFoundError:
            return False

    def take_sound(self, file: FileRecord) -> Path | None:
        """The file's bytes, digested unless they are known unchanged; None when they are not here.

        Those that are damaged are removed, so that whoever needs them has them made or fetched anew.

        Raises:
            StoreError: when the digest cannot be taken.
        """
        blob = self.path(file)
        if not self.has(file):
            return None
        if quick_digest(blob, memory=self.memory) == file.sha256:
            return blob
        blob.unlink(missing_ok=True)  # another one may have found that, too
        return None

    def keep(self, part: Path, file: FileRecord) -> None:
        """Take a finished file in here, which is on the same file system.

        Raises:
            StoreError: when it cannot be written.
        """
        blob = self.path(file)
        try:
            part.chmod(READ_ONLY)
            blob.parent.mkdir(parents=True, exist_ok=True)
            part.replace(blob)
        except OSError as error:
            raise cannot_write(blob, error) from error


WORTH_A_LISTING = 64
"""So many keys are first looked for in a listing of all records."""


class LocalStore:
    """See `Store`. Files come and go as hard links where the file system allows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)

    def find(self, key: str) -> StepRecord | None:
        """See `Store.find`."""
        record = self._read(key)
        return record if record and all(map(self.has, record.files)) else None

    def find_many(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """See `Store.find_many`."""
        wanted = list(keys)
        if len(wanted) > WORTH_A_LISTING:
            there = set(self._keys())
            wanted = [key for key in wanted if key in there]
        found = [record for key in wanted if (record := self._read(key))]
        files = {file.sha256: file for record in found for file in record.files}
        lost = {sha256 for sha256, file in files.items() if not self.has(file)}
        return {record.key: record for record in found if not lost.intersection(file.sha256 for file in record.files)}

    def has(self, file: FileRecord) -> bool:
        """Whether the file's bytes are here, judged by their number."""
        return self.blobs.has(file)

    def blob(self, file: FileRecord) -> Path:
        """Where the file's bytes are, or would be."""
        return self.blobs.path(file)

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
        """See `Store.fetch`. The files are shared with the store where possible."""
        side_by_side(lambda file: self._fetch_file(file, destination / safe_path(file)), record.files)

    def _fetch_file(self, file: FileRecord, target: Path) -> None:
        if not self.has(file):
            remedy = "run the build again: the step is done anew"
            raise StoreError(f"the store has lost {file.path}", subject=str(self.blob(file)), remedy=remedy)
        blob = self.blobs.take_sound(file)
        if blob is None:
            remedy = "run the build again: the step that made it is done anew"
            problem = f"{file.path} was damaged in the store (its bytes are not those that were made), and is removed"
            raise StoreError(problem, subject=str(self.blob(file)), remedy=remedy)
        with _writing(target):
            target.unlink(missing_ok=True)
            link_or_copy(blob, target)

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        """See `Store.add`. A file with other links than its own is copied: someone else may change it."""
        with self._locked(f"{record.key}.add"):
            known = None if replace else self.find(record.key)
            if known is None:
                self._keep_files(record, lambda file, part: _take(root / safe_path(file), part))
                self._keep_record(record)
            return known or record

    def receive(self, record: StepRecord, bring: Callable[[FileRecord, Path], None], *, replace: bool = False) -> None:
        """Have the files of a record from another store, each missing one put at a new path by `bring(file, path)`."""
        if not replace and all(map(self.has, record.files)) and self.find(record.key):
            return
        with self._locked(f"{record.key}.add"):
            known = None if replace else self.find(record.key)
            self._keep_files(record, bring)
            if known is None:
                self._keep_record(record)

    def _keep_files(self, record: StepRecord, bring: Callable[[FileRecord, Path], None]) -> None:
        missing = {file.sha256: file for file in record.files if not self.has(file)}
        with self._emptied(self.root / "work" / f"{record.key}.incoming") as incoming:
            side_by_side(partial(self._place, incoming, bring), missing.values())

    def _keep_record(self, record: StepRecord) -> None:
        # Blobs are not synced: one that a power failure cut short has not the size its record says.
        write_atomic(self.root / record_path(record.key), record_bytes(record))

    def _place(self, incoming: Path, bring: Callable[[FileRecord, Path], None], file: FileRecord) -> None:
        part = incoming / uuid4().hex
        with _writing(self.blob(file)):
            bring(file, part)
            if part.stat().st_size != file.size:
                remedy = "let nothing write to a step's output after it has ended"
                raise StoreError("is not what the record says: it was changed", subject=file.path, remedy=remedy)
            self.blobs.keep(part, file)

    @contextmanager
    def lock(self, key: str, *, patience: float | None = None, log: Log = no_log) -> Iterator[None]:  # noqa: ARG002
        """See `Store.lock`. The lock of a process that died is free."""
        with self._locked(key, patience):
            yield

    def watch(self, key: str) -> Callable[[], bool]:
        """See `Store.watch`."""

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
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, thread_local=False)  # it may be given back by another thread
            try:
                lock.acquire(timeout=-1 if patience is None else patience)
            except Timeout as error:
                raise StillLockedError("another process works on it", subject=name) from error
        try:
            yield
        finally:
            lock.release()

    def records(self) -> Iterator[StepRecord]:
        """See `Store.records`. Sorted by key."""
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
        """See `Store.workspace`."""
        record_path(key)  # refuses what is no key, and so no name of a directory either
        self._sweep(key)
        with self._emptied(self.root / "work" / key) as directory:
            yield directory

    def _sweep(self, mine: str) -> None:
        """Remove what steps that were killed have left: directories whose lock nobody holds."""
        work = self.root / "work"
        for directory in work.iterdir() if work.is_dir() else ():
            key, dot, _ = directory.name.partition(".")
            lock = FileLock(self._lock_file(f"{key}.add" if dot else key))
            if key == mine:
                continue  # under this caller's own lock
            with suppress(Timeout), lock.acquire(timeout=0):
                remove_tree(directory)

    def _lock_file(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    @contextmanager
    def _emptied(self, directory: Path) -> Iterator[Path]:
        remove_tree(directory)
        with _writing(directory):
            directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            remove_tree(directory)

    def shelf(self) -> "LocalShelf":
        """See `Store.shelf`."""
        return LocalShelf(self.root / SHELF)

    def verify(self, record: StepRecord) -> list[str]:
        """See `Store.verify`."""
        return [problem for problem in side_by_side(self._examine, record.files) if problem]

    def _examine(self, file: FileRecord) -> str | None:
        with suppress(FileNotFoundError):
            found = file_digest(self.blob(file))
            return None if found == file.sha256 else f"{file.path}: sha256 is {found}, not {file.sha256}"
        return f"{file.path}: missing, {self.blob(file)} does not exist"


def _take(source: Path, part: Path) -> None:
    if not source.is_file():
        raise not_in_output(source)
    if source.stat().st_nlink == 1:
        link_or_copy(source, part)
    else:
        shutil.copyfile(source, part)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


# A step's output, described file by file.


def digest_output(root: Path) -> tuple[FileRecord, ...]:
    """Every file under `root` with its SHA-256 and size, sorted by path; directories without files do not count.

    Raises:
        StoreError: for symbolic links and special files, and for names that are not UTF-8.
        FileNotFoundError: when there is no `root`.
    """
    files = side_by_side(lambda path: _describe(root, path), list_files(root))
    return tuple(sorted(files, key=lambda file: file.path))


def _describe(root: Path, path: Path) -> FileRecord:
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        remedy = "rename it: stores and records keep names as UTF-8"
        raise StoreError("has a name that is not UTF-8", subject=repr(path.as_posix()), remedy=remedy) from error
    whole = root / path
    return FileRecord(path=path.as_posix(), sha256=file_digest(whole), size=whole.stat().st_size)
