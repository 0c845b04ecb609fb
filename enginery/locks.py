"""Locks between processes of one machine, free again when their holder dies, and waited for with a word."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginery.context import Log


@contextmanager
def waiting_lock(path: Path, why: str, log: Log) -> Iterator[None]:
    """Hold the lock at `path`; `why` is logged when another process has it, which is waited for.

    Raises:
        OSError: when the lock cannot be written.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  a plan locks nothing

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(why)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
