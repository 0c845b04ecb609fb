"""Downloads that outlive the process: files arrive in a directory named for the commit, and stay until they are stored.

A killed download goes on where it stopped. A file gets its name only once its size and digest are right.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from enginery.core.digests import file_digest, git_blob_name
from enginery.core.errors import EngineryError, SourceError
from enginery.core.files import cannot_write, link_or_copy, list_files, remove_tree, write_atomic
from enginery.core.home import home
from enginery.core.late import late
from enginery.core.progress import Log
from enginery.core.text import human_bytes
from enginery.sources.progress import Cancelled, DownloadProgress
from enginery.sources.resolved import SourceFile

if TYPE_CHECKING:
    import tenacity
else:
    tenacity = late("tenacity")


WORKERS = 4
ATTEMPTS = 6
"""Tries without a single new byte before a file is given up."""
PLANNING_ATTEMPTS = 4
"""Tries while a user waits for the plan: some five seconds."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0
STORED_MARK = ".handed-over"

Fetch = Callable[[SourceFile, Path, DownloadProgress], None]
"""Brings a file to the path; what is there already is its beginning. It reports to the progress."""

T = TypeVar("T")


def downloads_dir() -> Path:
    """Where files arrive; on the store's file system, so that finished files can be linked."""
    return home() / "downloads"


def stage(commit: str, files: Sequence[SourceFile], fetch: Fetch, output: Path, log: Log) -> None:
    """Bring the files to `output`, through the commit's directory under `downloads_dir()`.

    Raises:
        SourceError: when a file cannot be had, or is not what it should be.
        StoreError: when the disk is full or cannot be written.
    """
    directory = downloads_dir() / commit
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory, error) from error
    with _locked(directory, log):
        (directory / STORED_MARK).unlink(missing_ok=True)
        with DownloadProgress(files, log) as progress:
            log(f"downloading {len(files)} files, {human_bytes(progress.total)}")
            _side_by_side(lambda file: _bring(file, directory, fetch, progress), files, progress)
            log(f"all files are here and checked: {progress.summary()}")
        for file in files:
            link_or_copy(directory / file.name, output / file.name)
        write_atomic(directory / STORED_MARK, "")
    remove_finished(keep=commit)


def remove_finished(*, keep: str = "") -> int:
    """Remove the directories of downloads that were handed over, except that of `keep`, and return the bytes in them.

    A download stays until the next one begins: if the machine dies before its files are in the store, they are
    still here.
    """
    removed = 0
    for mark in sorted(downloads_dir().glob(f"*/{STORED_MARK}")):
        directory = mark.parent
        if directory.name == keep:
            continue
        try:
            with FileLock(_lock_file(directory), timeout=0):
                removed += sum((directory / path).stat().st_size for path in list_files(directory))
                remove_tree(directory)
        except Timeout:
            continue  # it is being used again
    return removed


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


@contextmanager
def _locked(directory: Path, log: Log) -> Iterator[None]:
    lock = FileLock(_lock_file(directory))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"waiting: another process is downloading {directory.name}")
        lock.acquire()
    try:
        directory.mkdir(parents=True, exist_ok=True)  # the other one may have removed it
        yield
    finally:
        lock.release()


def _side_by_side(work: Callable[[SourceFile], None], files: Sequence[SourceFile], progress: DownloadProgress) -> None:
    """Work on several files at once, largest first; the first failure, or an interrupt, calls the others off."""

    def guarded(file: SourceFile) -> None:
        try:
            work(file)
        except BaseException:
            progress.cancel()
            raise

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="download") as pool:
        pending = [pool.submit(guarded, file) for file in sorted(files, key=lambda file: -file.size)]
        try:
            wait(pending)
        except BaseException:
            progress.cancel()
            raise
    failures = [error for each in pending if (error := each.exception()) is not None]
    for error in sorted(failures, key=lambda error: isinstance(error, Cancelled)):
        raise error


def _bring(file: SourceFile, directory: Path, fetch: Fetch, progress: DownloadProgress) -> None:
    final, part = directory / file.name, directory / f"{file.name}.part"
    progress.begin(file.name, _size(final) or _size(part))
    try:
        if final.exists() and mismatch(final, file) is None:
            return
        final.unlink(missing_ok=True)
        _fetch_checked(file, part, fetch, progress)
        part.replace(final)
    except OSError as error:
        raise cannot_write(part, error) from error
    finally:
        progress.end(file.name)


def _fetch_checked(file: SourceFile, part: Path, fetch: Fetch, progress: DownloadProgress) -> None:
    """Fetch, and once more from the start when the bytes are wrong: a line may have spoilt them."""
    for last in (False, True):
        fetch(file, part, progress)
        wrong = mismatch(part, file)
        if wrong is None:
            return
        part.unlink()
        progress.at(file.name, 0)
        if last:
            remedy = "find out whether the source was tampered with; nothing of the file was kept"
            raise SourceError(wrong, subject=file.name, remedy=remedy)
        progress.say(f"{file.name} {wrong}; downloading it anew")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def mismatch(path: Path, file: SourceFile) -> str | None:
    """How the file at `path` differs from what it should be; None when it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"has the wrong size: expected {file.size} bytes, got {size}"
    if file.sha256 is not None and (digest := file_digest(path)) != file.sha256:
        return f"has the wrong SHA-256: expected {file.sha256}, got {digest}"
    if file.git_blob is not None and (blob := git_blob_name(path)) != file.git_blob:
        return f"has the wrong content: expected Git blob {file.git_blob}, got {blob}"
    return None


def patiently(
    call: Callable[[], T],
    *,
    attempts: int = ATTEMPTS,
    say: Log | None = None,
    reached: Callable[[], int] = lambda: 0,
) -> T:
    """Call until it works, with growing waits, as long as failures can pass.

    Args:
        call: what to do.
        attempts: how many tries without getting anywhere are enough.
        say: is told about each failure that is followed by another try.
        reached: a number that grows while the call gets somewhere; then the tries are counted anew.
    """
    best, since = reached(), 0

    def enough(state: tenacity.RetryCallState) -> bool:
        nonlocal best, since
        if reached() > best:
            best, since = reached(), state.attempt_number - 1
        return state.attempt_number - since >= attempts

    def tell(state: tenacity.RetryCallState) -> None:
        if (
            say is not None
            and state.outcome is not None
            and isinstance(error := state.outcome.exception(), EngineryError)
        ):
            say(f"{error.problem}; trying again")

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, EngineryError) and error.transient),
        stop=enough,
        wait=tenacity.wait_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        + tenacity.wait_random(0, FIRST_WAIT_SECONDS),
        before_sleep=tell,
        reraise=True,
    )(call)
