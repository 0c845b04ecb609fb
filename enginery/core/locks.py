"""Locks between processes of one machine, free again when their holder dies, and waited for with a word."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from enginery.core.model import Frozen
from enginery.core.progress import Log


@contextmanager
def waiting_lock(path: Path, why: str, log: Log) -> Iterator[None]:
    """Hold the lock at `path`; `why` is logged when another process has it, which is waited for.

    Raises:
        OSError: when the lock cannot be written.
    """
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


# A process that is at work on something others must not touch meanwhile, named so that its death can be noticed.


class Worker(Frozen):
    """A process; `started` tells it from a later one with the same number.

    Attributes:
        host: the machine's name, which containers may share with it.
        where: within what the number of a process has one meaning; empty where that cannot be told.
        pid: its number there.
        started: when it began, seconds since 1970.
    """

    host: str
    where: str = ""
    pid: int
    started: float

    @classmethod
    def this(cls) -> "Worker":
        """This process."""
        return cls(host=socket.gethostname(), where=_here(), pid=os.getpid(), started=psutil.Process().create_time())

    def is_here(self) -> bool:
        """Whether it is or was a process of this machine and, if this is a container, of this one."""
        return (self.host, self.where) == (socket.gethostname(), _here())

    def is_at_work(self) -> bool:
        """Whether it is another process that still runs on this machine.

        Of one on another machine nothing is known, so it does not.
        """
        if not self.is_here() or self == Worker.this():
            return False
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False


@cache
def _here() -> str:
    """This process's namespace of process numbers, as Linux names it: each container has one of its own."""
    namespace = Path("/proc/self/ns/pid")
    return str(namespace.readlink()) if namespace.is_symlink() else ""
