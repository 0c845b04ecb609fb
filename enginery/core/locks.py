"""Locks between the processes of one machine, and the name of a process by which its death is noticed."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import Log

if TYPE_CHECKING:
    import filelock
    import psutil
else:
    filelock, psutil = late("filelock"), late("psutil")


@contextmanager
def file_lock(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock at `path`; it is free again when its holder dies. Missing directories are made.

    Args:
        path: the lock's file, which stays there.
        patience: seconds to wait for it; None for as long as it takes.

    Raises:
        TimeoutError: when another process still holds it after that time.
        OSError: when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another thread may release it.
    with filelock.FileLock(path, thread_local=False).acquire(timeout=-1 if patience is None else patience):
        yield


@contextmanager
def waiting_lock(path: Path, why: str, log: Log, *, every: float | None = None) -> Iterator[None]:
    """Hold the lock at `path`; log `why` when another process holds it, and wait.

    Args:
        path: the lock's file.
        why: the line to log.
        log: takes it.
        every: seconds after which it is logged again; None for once.

    Raises:
        OSError: when the file cannot be written.
    """
    with ExitStack() as held:
        patience: float | None = 0
        while True:
            try:
                held.enter_context(file_lock(path, patience))
                break
            except TimeoutError:
                log(why)
                patience = every
        yield


class Worker(Frozen):
    """A process that works on something which others must not touch meanwhile.

    Attributes:
        host: the machine's name; its containers may have the same.
        where: the PID namespace in which `pid` is its number; empty where the system does not tell.
        pid: its process id.
        started: when it began, seconds since 1970; tells it from a later process with the same id.
    """

    host: str
    where: str = ""
    pid: int
    started: float

    @classmethod
    def this(cls) -> "Worker":
        """This process."""
        started = psutil.Process().create_time()
        return cls(host=socket.gethostname(), where=_pid_namespace(), pid=os.getpid(), started=started)

    def is_local(self) -> bool:
        """Whether it is or was a process of this machine, and of this container if this is one."""
        return (self.host, self.where) == (socket.gethostname(), _pid_namespace())

    def is_at_work(self) -> bool:
        """Whether it is another process that still runs on this machine; False for one of another machine."""
        if not self.is_local() or self == Worker.this():
            return False
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False


@cache
def _pid_namespace() -> str:
    """The PID namespace of this process, as Linux names it: each container has its own."""
    namespace = Path("/proc/self/ns/pid")
    return str(namespace.readlink()) if namespace.is_symlink() else ""
