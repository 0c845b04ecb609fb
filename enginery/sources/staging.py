"""Downloads that continue where they stopped, even when the process was killed.

Files are downloaded to a directory named after the commit, and stay there until they are in the store. The name of a
file ends in `.part` until its size and digest are checked.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from enginery.core.digests import file_digest, git_blob_name
from enginery.core.errors import SourceError
from enginery.core.files import cannot_write, link_or_copy, list_files, remove_tree, write_atomic, writing
from enginery.core.home import home
from enginery.core.locks import file_lock, waiting_lock
from enginery.core.progress import Log, SteadyProgress, no_log
from enginery.core.retry import Waits, retry
from enginery.core.threads import raise_if_stopped, side_by_side
from enginery.sources.model_files import SourceFile
from enginery.sources.rate_limits import AskedToWaitError, Gate, Obedience

WORKERS = 4
ATTEMPTS = 6
"""The download of a file fails after this many attempts in a row without a new byte."""
PLANNING_ATTEMPTS = 4
"""Attempts while a user waits for the plan: they take about five seconds."""
WAITS = Waits(first=0.5, longest=10.0, random=0.5)
STORED_MARK = ".handed-over"
"""A file of this name marks the directory of a finished download."""

Fetch = Callable[[SourceFile, Path, SteadyProgress], None]
"""Downloads a file to the path, which may have the beginning of the file. It adds the new bytes to the progress."""

T = TypeVar("T")


def downloads_dir() -> Path:
    """The directory of all downloads. It is on the store's file system, so that finished files can be linked."""
    return home() / "downloads"


def stage(commit: str, files: Sequence[SourceFile], fetch: Fetch, output: Path, log: Log) -> None:
    """Download the files to `output`, through the commit's directory under `downloads_dir()`.

    Raises:
        SourceError: when a file cannot be downloaded, or differs from the plan.
        StoreError: when the disk is full or cannot be written.
    """
    directory = downloads_dir() / commit
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with waiting_lock(_lock_file(directory), f"waiting: another process is downloading {commit}", log):
        directory.mkdir(parents=True, exist_ok=True)  # the other process may have removed it
        (directory / STORED_MARK).unlink(missing_ok=True)
        _download_all(files, directory, fetch, log)
        for file in files:
            link_or_copy(directory / file.name, output / file.name)
        write_atomic(directory / STORED_MARK, "")
    remove_finished(keep=commit)


def remove_finished(*, keep: str = "") -> int:
    """Remove the directories of finished downloads, except that of the commit `keep`. Returns the bytes removed.

    A download is kept until the next one has finished: the machine may die before the files are in the store.
    """
    removed = 0
    for mark in sorted(downloads_dir().glob(f"*/{STORED_MARK}")):
        directory = mark.parent
        if directory.name == keep:
            continue
        try:
            with file_lock(_lock_file(directory), 0):
                removed += sum((directory / path).stat().st_size for path in list_files(directory))
                remove_tree(directory)
        except TimeoutError:
            continue  # another process uses the directory
    return removed


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _download_all(files: Sequence[SourceFile], directory: Path, fetch: Fetch, log: Log) -> None:
    progress = SteadyProgress(log)
    sizes = [file.size for file in files if file.size is not None]
    progress.begin("downloading", files=len(files), size=sum(sizes) if len(sizes) == len(files) else 0)
    progress.add(sum(size_of(directory / file.name) or size_of(_part(directory, file)) for file in files))
    largest_first = sorted(files, key=lambda file: -math.inf if file.size is None else -file.size)
    with progress:
        side_by_side(lambda file: _download(file, directory, fetch, progress), largest_first, threads=WORKERS)
    log(f"all files are here and checked: {progress.summary()}")


def _download(file: SourceFile, directory: Path, fetch: Fetch, progress: SteadyProgress) -> None:
    raise_if_stopped()
    final, part = directory / file.name, _part(directory, file)
    progress.active.add(file.name)
    try:
        if final.exists():
            if mismatch(final, file) is None:
                return
            progress.add(-size_of(final))
            final.unlink()
        part.parent.mkdir(exist_ok=True)
        _fetch_checked(file, part, fetch, progress)
        part.replace(final)
    except OSError as error:
        raise cannot_write(part, error) from error
    finally:
        progress.active.discard(file.name)


def _part(directory: Path, file: SourceFile) -> Path:
    return directory / f"{file.name}.part"


def _fetch_checked(file: SourceFile, part: Path, fetch: Fetch, progress: SteadyProgress) -> None:
    """Fetch a file. If its bytes are wrong, fetch it once more from the start: the network may have damaged them."""
    for last in (False, True):
        fetch(file, part, progress)
        wrong = mismatch(part, file)
        if wrong is None:
            return
        progress.add(-size_of(part))
        part.unlink()
        if last:
            remedy = "find out whether the source was tampered with; nothing of the file was kept"
            raise SourceError(wrong, subject=file.name, remedy=remedy)
        progress.log(f"{file.name} {wrong}; downloading it anew")


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def mismatch(path: Path, file: SourceFile) -> str | None:
    """How the file at `path` differs from the planned `file`; None if it does not."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has the wrong size: expected {file.size} bytes, got {size}"
    if file.sha256 is not None and (digest := file_digest(path)) != file.sha256:
        return f"has the wrong SHA-256: expected {file.sha256}, got {digest}"
    if file.git_blob is not None and (blob := git_blob_name(path)) != file.git_blob:
        return f"has the wrong content: expected Git blob {file.git_blob}, got {blob}"
    return None


def patiently(
    call: Callable[[], T],
    *,
    gate: Gate | None = None,
    attempts: int = ATTEMPTS,
    log: Log = no_log,
    reached: Callable[[], int] = lambda: 0,
) -> T:
    """Run `call` until it succeeds. After a transient error, wait and try again; each wait is longer.

    When the server says how long to wait (`AskedToWaitError`), wait as long instead, with all others at the gate.

    Args:
        call: what to run.
        gate: the gate of the server that `call` uses.
        attempts: give up after this many failures in a row without progress.
        log: takes a line for each failure that is followed by another attempt.
        reached: a number that grows with progress, such as the bytes that arrived.
    """
    best, failures = reached(), 0
    obedience = Obedience(gate or Gate(), log)

    def attempt() -> T:
        while True:
            obedience.gate.pass_through()
            try:
                return call()
            except AskedToWaitError as error:
                if reached() > best:
                    obedience.forget()
                obedience.obey(error)

    def give_up() -> bool:
        nonlocal best, failures
        now = reached()
        best, failures = (now, 1) if now > best else (best, failures + 1)
        return failures >= attempts

    return retry(attempt, give_up=give_up, waits=WAITS, log=log)
