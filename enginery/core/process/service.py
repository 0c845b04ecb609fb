"""Long-running servers. Each runs under a supervisor, which ends it with all its descendants."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from enginery.core import files
from enginery.core.process.command import LINES_KEPT, Command, shell_line
from enginery.core.process.supervised import Supervised
from enginery.core.text import LineReader

TAIL_BYTES = 65536
SAME_START_SECONDS = 2.0
POLL_SECONDS = 0.02
KILL_SECONDS = 10.0
GRACE_SECONDS = 10.0
LONGEST_GRACE_SECONDS = 30.0

_left_running: list[Supervised] = []
"""References to the supervisors of detached services. Without them, Python warns about processes that still run."""


class Service:
    """A server that runs until it is stopped.

    Attributes:
        argv: the command, with secrets masked.
        pid: the process id of the supervisor. To stop the supervisor stops the server.
        created: when the supervisor was created, in seconds since the epoch. `stop_pid` needs it together with `pid`,
            as the system reuses process ids.
        log_file: the file to which the server prints.
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
        """Start a server. This does not wait until the server is ready, which only the server's protocol can show.

        Args:
            argv: the command and its arguments.
            log_file: the file to which the server prints. It is emptied first, and only its owner can read it. Secrets
                in it are not masked.
            env: its whole environment; default: that of this process.
            cwd: its working directory; default: that of this process.
            detach: let the server run on after this process, until `stop` or `stop_pid`. Otherwise the server ends
                with this process, even when this process is killed.

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
            os.write(output, f"{shell_line(command.argv)}\n".encode())
            supervised = Supervised.start(launch, output)
        finally:
            os.close(output)
        if detach:
            supervised.close_input()
            _left_running.append(supervised)
        return cls(command, supervised, log_file)

    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._supervised.process.poll() is None

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End the server and all its descendants. If it has ended already, nothing happens.

        Args:
            grace: seconds that its processes have to end by themselves, at most 30.
        """
        if self._stopped:
            return
        stop_pid(self.pid, self.created, grace)
        self._supervised.end()
        self._stopped = True
        if self._supervised in _left_running:
            _left_running.remove(self._supervised)

    def last_lines(self, count: int = LINES_KEPT) -> tuple[str, ...]:
        """The last lines that the server printed, with secrets masked."""
        with self.log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
        return tuple([*LineReader(self._secrets).lines([data])][-count:])


def stop_pid(pid: int, created: float, grace: float = GRACE_SECONDS) -> bool:
    """End a service and all its descendants. This process or an earlier one may have started it.

    Args:
        pid: the service's `Service.pid`.
        created: the service's `Service.created`. A later process with the same id is not touched.
        grace: seconds that its processes have to end by themselves, at most 30.

    Returns:
        Whether the service was still running.
    """
    service = running(pid, created)
    if service is None:
        return False
    with suppress(psutil.NoSuchProcess):
        service.send_signal(signal.SIGTERM)
        if not _ends(pid, created, grace):
            service.send_signal(signal.SIGTERM)  # at a second signal, a supervisor kills at once
        if not _ends(pid, created, KILL_SECONDS):
            _kill_tree(service)
    return True


def running(pid: int, created: float) -> psutil.Process | None:
    """The process with this id, if it was created at that time and still runs; else None."""
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
