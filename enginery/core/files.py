"""Files: atomic writes, hard links or copies, lists in a fixed order, removal."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enginery.core.errors import StoreError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}

SYNC_FILE_RANGE_WRITE = 2
"""A constant of Linux, from linux/fs.h."""


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write `data` (text as UTF-8) to `path`. Readers see the old file or the new one, also after a crash.

    Missing parent directories are made. `mode` is the file's permissions; the umask is applied.

    Raises:
        StoreError: when the file cannot be written. A full disk has its own message.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data.encode() if isinstance(data, str) else data, mode)
        sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError from a write to `path` into a `StoreError`, which a user understands."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error that a user sees when a write to `path` fails."""
    if error.errno in DISK_FULL:
        remedy = f"free some space on the disk that holds {path.parent}, or set ENGINERY_HOME to another one"
        return StoreError("the disk is full", subject=str(path), remedy=remedy)
    remedy = "check that the directory exists and that you may write to it"
    return StoreError(f"cannot be written: {error.strerror or error}", subject=str(path), remedy=remedy)


def _replace(path: Path, content: bytes, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode & ~_umask())
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _umask() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # os.umask would change the umask of the other threads too
        line = next(line for line in status.read_text().splitlines() if line.startswith("Umask:"))
        return int(line.split()[1], 8)
    current = os.umask(0o022)
    os.umask(current)
    return current


def sync_tree(root: Path) -> None:
    """Write `root` and everything under it to the disk, so that it survives a power failure.

    One call syncs the whole file system. With thousands of files, one call for each would take too long.

    Raises:
        OSError: when something cannot be written to the disk.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(root))
    finally:
        os.close(descriptor)


def begin_to_sync(descriptor: int, start: int, size: int) -> None:
    """Make the disk begin to write `size` bytes of an open file, from position `start`. Do not wait for the disk.

    A later `sync` then takes less time. A file system that does not support this ignores the call.
    """
    first, count = ctypes.c_int64(start), ctypes.c_int64(size)
    ctypes.CDLL(None).sync_file_range(descriptor, first, count, SYNC_FILE_RANGE_WRITE)


def sync(path: Path) -> None:
    """Write a file, or the entries of a directory, to the disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, destination: Path) -> None:
    """Make `destination` a hard link to `source`, or a copy where a hard link is not possible.

    A missing parent directory of `destination` is made. `destination` itself must not exist. If `source` is a symbolic
    link, the file that it points to is linked or copied.

    Raises:
        FileNotFoundError: when `source` does not exist.
        FileExistsError: when `destination` exists.
        StoreError: when the copy cannot be written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(strict=True), destination)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        copy_file(source, destination)


def copy_file(source: Path, destination: Path) -> None:
    """Copy `source` with its permissions to `destination`, which must not exist. Its directory must exist.

    Raises:
        FileExistsError: when `destination` exists.
        StoreError: when the copy cannot be written. Then no partial copy remains.
    """
    try:
        destination.touch(0o600, exist_ok=False)
        shutil.copyfile(source, destination)
        shutil.copymode(source, destination)
    except FileExistsError:
        raise
    except OSError as error:
        with suppress(OSError):
            destination.unlink()
        raise cannot_write(destination, error) from error


def list_files(root: Path) -> list[Path]:
    """Every regular file under `root`, as paths relative to it, sorted by their parts.

    Raises:
        StoreError: for a symbolic link, which may point to another file in another place, or for a special file.
        FileNotFoundError: when `root` does not exist.
    """
    found: list[str] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = below + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                elif entry.is_file(follow_symlinks=False):
                    found.append(path)
                else:
                    raise _not_a_file(root / path, is_link=entry.is_symlink())
    return [Path(path) for path in sorted(found, key=lambda path: path.split("/"))]


def _not_a_file(path: Path, *, is_link: bool) -> StoreError:
    kind = f"a symbolic link to {path.readlink()}" if is_link else "neither a file nor a directory"
    return StoreError(
        f"is {kind}; only plain files can be kept",
        subject=str(path),
        remedy="replace it by the file itself, or remove it",
    )


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a whole directory, if it exists. Links are not followed.

    Raises:
        StoreError: when something cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        remedy = "check that you own it and that nothing else is using it"
        raise StoreError(f"cannot be removed: {error}", subject=str(path), remedy=remedy) from error
