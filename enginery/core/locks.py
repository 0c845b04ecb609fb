"""Locks between the processes of one machine, and a description of a process that shows when it has died."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
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

POLL_SECONDS = 0.1


@contextmanager
def file_lock(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock at `path`. The lock is free again when its holder dies. Missing directories are made.

    Args:
        path: the lock's file. It is never removed.
        patience: seconds to wait for the lock; None for no limit.

    Raises:
        TimeoutError: when another process still holds the lock after that time.
        OSError: when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not thread-local: another thread may release the lock.
    with filelock.FileLock(path, thread_local=False).acquire(timeout=-1 if patience is None else patience):
        yield


@contextmanager
def waiting_lock(path: Path, why: str, log: Log, *, every: float | None = None) -> Iterator[None]:
    """Hold the lock at `path`. While another process holds it, log `why` and wait.

    Args:
        path: the lock's file.
        why: the line to log.
        log: is called with that line.
        every: seconds after which the line is logged again; None to log it once.

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


@contextmanager
def shared_lock(
    path: Path, *, alone: bool, patience: float | None = None, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock at `path`, together with others or alone. The lock is free again when its holder dies.

    Args:
        path: the lock's file. It is never removed. Its directory must exist.
        alone: whether nobody else may hold the lock at the same time.
        patience: seconds to wait for the lock; None for no limit.
        waiting: is called again and again while others hold the lock.

    Raises:
        TimeoutError: when the lock is not free in that time.
        OSError: when the file cannot be written.
    """
    deadline = None if patience is None else time.monotonic() + patience
    # Each call opens the file anew, so that the threads of one process exclude each other, too.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(str(path)) from error
                waiting()
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(handle)


class Worker(Frozen):
    """A process that works on something that other processes must not touch at the same time.

    Attributes:
        host: the machine's name. A container may have the same name as its machine.
        where: the PID namespace of `pid`; empty where the system has none.
        pid: the process id.
        started: when the process started, in seconds since 1970. A later process with the same id has another value.
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
        """Whether the process is or was one of this machine and of this PID namespace (a container has its own)."""
        return (self.host, self.where) == (socket.gethostname(), _pid_namespace())

    def is_at_work(self) -> bool:
        """Whether this is another process, on this machine, that still runs. False for a process of another machine."""
        if not self.is_local() or self == Worker.this():
            return False
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False


@cache
def _pid_namespace() -> str:
    """The PID namespace of this process, as Linux names it."""
    namespace = Path("/proc/self/ns/pid")
    return str(namespace.readlink()) if namespace.is_symlink() else ""
