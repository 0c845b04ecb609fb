"""Long-running servers: started under a supervisor, ended with everything they started."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from enginery.core import files
from enginery.core.process.command import LINES_KEPT, Command, shown
from enginery.core.process.supervised import Supervised
from enginery.core.text import LineReader

TAIL_BYTES = 65536
SAME_START_SECONDS = 2.0
POLL_SECONDS = 0.02
KILL_SECONDS = 10.0
GRACE_SECONDS = 10.0
LONGEST_GRACE_SECONDS = 30.0

_left_running: list[Supervised] = []
"""Detached services stay referenced: the standard library warns of processes that nobody waits for."""


class Service:
    """A server that runs until it is stopped.

    Attributes:
        argv: the command, secrets masked.
        pid: the process to stop for stopping all of it (its supervisor).
        created: when that process was created, in seconds since the epoch; with `pid` it names the process for
            `stop_pid`, as process ids are used again.
        log_file: what it prints.
    """

    def __init__(self, command: Command, supervised: Supervised, log_file: Path) -> None:
        self.argv = command.argv
        self.pid = supervised.process.pid
        self.created = psutil.Process(self.pid).create_time()
        self.log_file = log_file
        self._secrets = command.secrets
        self._supervised = supervised
        self._stopped = False

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        detach: bool = False,
    ) -> Self:
        """Start a server, without waiting until it is ready: only its own protocol can show that.

        Args:
            argv: the command and its arguments.
            log_file: the server writes directly to it (truncated, readable by its owner only): unlike with `run`,
                secrets are not masked there.
            env: its whole environment; this process's own when left out.
            cwd: its working directory; this process's own when left out.
            detach: let it outlive this process, until `stop` or `stop_pid`; otherwise it ends with this process,
                however that ends.

        Raises:
            CommandError: when there is no such command.
            StoreError: when the log file cannot be written.
        """
        command = Command(argv, cwd=cwd, env=env)
        launch = command.launch(timeout=None, grace=LONGEST_GRACE_SECONDS, detached=detach)
        with files.writing(log_file):
            log_file.parent.mkdir(parents=True, exist_ok=True)
            output = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            os.write(output, f"{shown(command.argv)}\n".encode())
            supervised = Supervised.start(launch, output)
        finally:
            os.close(output)
        if detach:
            supervised.close_input()
            _left_running.append(supervised)
        return cls(command, supervised, log_file)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._supervised.process.poll() is None

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End it and everything it started; does nothing when it has ended already.

        Args:
            grace: seconds its processes have to end by themselves, at most 30.
        """
        if self._stopped:
            return
        stop_pid(self.pid, self.created, grace)
        self._supervised.end()
        self._stopped = True
        if self._supervised in _left_running:
            _left_running.remove(self._supervised)

    def last_lines(self, count: int = LINES_KEPT) -> tuple[str, ...]:
        """The last lines it printed, secrets masked."""
        with self.log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
        return tuple([*LineReader(self._secrets).lines([data])][-count:])


def stop_pid(pid: int, created: float, grace: float = GRACE_SECONDS) -> bool:
    """End a service, and everything it started, that this or an earlier process has started.

    Args:
        pid: its `Service.pid`.
        created: its `Service.created`. Another process that has got the same id since then is left alone.
        grace: seconds its processes have to end by themselves, at most 30.

    Returns:
        Whether it was still running.
    """
    service = running(pid, created)
    if service is None:
        return False
    with suppress(psutil.NoSuchProcess):
        service.send_signal(signal.SIGTERM)
        if not _ends(pid, created, grace):
            service.send_signal(signal.SIGTERM)  # after a second signal a supervisor kills at once
        if not _ends(pid, created, KILL_SECONDS):
            _kill_tree(service)
    return True


def running(pid: int, created: float) -> psutil.Process | None:
    """The process with this id if it was created at that time and has not ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < SAME_START_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _ends(pid: int, created: float, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(pid, created):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _kill_tree(root: psutil.Process) -> None:
    processes = [*root.children(recursive=True), root]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=KILL_SECONDS)
