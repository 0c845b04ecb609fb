"""The supervisor: a small process between Enginery and a command. It ends the command with all its descendants.

It runs as a script and imports little, only from the standard library, so that it starts fast. It has its own session:
a signal to Enginery's process group does not reach it. On Linux it is the subreaper of the command's descendants. So
even an orphan with its own session, such as an MPI rank, becomes the supervisor's child and cannot escape.

The supervisor reads a `Launch` from standard input and starts the command. It ends all descendants (SIGTERM, then
SIGKILL after a grace period) when the command ends, at the time limit, when standard input closes (Enginery has died,
or wants the command to end), or when the supervisor gets a signal. At a second signal it kills at once. A killed
command may leave something behind, such as a container; the launch's `cleanup` removes it. The `Outcome` is written to
a pipe.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from enginery.core.process.supervised import Launch, Outcome

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LONGEST_WAIT_SECONDS = 1.0
KILL_ATTEMPT_SECONDS = 30.0
CLEANUP_SECONDS = 60.0
SIGNALS_TO_KILL = 2
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Starts one command, and ends it with all its descendants."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.parent = os.getppid()
        self.command = 0
        self.status: int | None = None
        self.end_signals = 0
        self.alarm, alarm_in = os.pipe()
        os.set_blocking(self.alarm, False)
        os.set_blocking(alarm_in, False)
        signal.set_wakeup_fd(alarm_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in ENDING_SIGNALS:
            signal.signal(number, self._note_end)

    def _note_end(self, *_: object) -> None:
        self.end_signals += 1

    def run(self) -> Outcome:
        """Run the command until it and all its descendants have ended."""
        started = time.monotonic()
        self.command, failure = start(self.launch)
        if failure:
            os.waitpid(self.command, 0)
            return {"reason": "not started", "code": failure, "seconds": 0.0, "peak_memory_bytes": 0, "survivors": []}
        reason = self.watch(started)
        survivors = self.end_all()
        if reason != "exited" and self.launch["cleanup"]:
            self.clean_up(self.launch["cleanup"])
        return {
            "reason": reason,
            "code": os.waitstatus_to_exitcode(self.status) if self.status is not None else -signal.SIGKILL,
            "seconds": time.monotonic() - started,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT,
            "survivors": survivors,
        }

    def watch(self, started: float) -> str:
        """Wait until there is a reason to end the command. Returns the `reason` of an `Outcome`."""
        limit = self.launch["timeout"]
        deadline = float("inf") if limit is None else started + limit
        while True:
            self.reap()
            if self.status is not None:
                return "exited"
            if time.monotonic() >= deadline:
                return "timeout"
            if self.end_signals or self.is_abandoned(deadline - time.monotonic()):
                return "stopped"

    def is_abandoned(self, wait: float) -> bool:
        """Sleep at most `wait` seconds. Returns whether Enginery has died or has closed standard input."""
        control = [] if self.launch["detached"] else [0]
        ready = self.sleep(min(wait, LONGEST_WAIT_SECONDS), control)
        if self.launch["detached"]:
            return False
        return (0 in ready and not os.read(0, 1)) or os.getppid() != self.parent

    def sleep(self, seconds: float, control: list[int]) -> list[int]:
        """Sleep until a signal arrives or a descriptor in `control` is readable, at most `seconds`."""
        ready, _, _ = select.select([self.alarm, *control], [], [], max(seconds, 0.0))
        if self.alarm in ready:
            with suppress(BlockingIOError):
                os.read(self.alarm, 4096)
        return ready

    def reap(self) -> bool:
        """Collect every child that has ended. Returns whether children are left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == self.command:
                self.status = status
            if pid == 0:
                return True

    def end_all(self) -> list[int]:
        """End every descendant, with SIGTERM first. Returns those that could not be ended."""
        if self.reap():
            self.signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self.launch["grace"]
        while self.reap() and time.monotonic() < deadline and self.end_signals < SIGNALS_TO_KILL:
            self.sleep(deadline - time.monotonic(), [])
        deadline = time.monotonic() + KILL_ATTEMPT_SECONDS
        while self.reap() and time.monotonic() < deadline:
            self.signal_all(signal.SIGKILL)
            self.sleep(0.05, [])
        return descendants(os.getpid()) if self.reap() else []

    def clean_up(self, words: list[str]) -> None:
        """Run the cleanup command without output: Enginery may have died, so nobody would read it."""
        files = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        with suppress(OSError):
            os.posix_spawn(words[0], words, self.launch["environment"], file_actions=files)
        deadline = time.monotonic() + CLEANUP_SECONDS
        while self.reap() and time.monotonic() < deadline:
            self.sleep(LONGEST_WAIT_SECONDS, [])
        self.signal_all(signal.SIGKILL)

    def signal_all(self, number: int) -> None:
        """Send a signal to every descendant; to the command's process group where descendants cannot be listed."""
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if sys.platform != "linux":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.command, number)


def descendants(root: int) -> list[int]:
    """All descendants of the process `root`, parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else []:  # noqa: PTH208  names only, and fast
        if name.isdigit():
            children.setdefault(parent_of(name), []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def parent_of(pid: str) -> int:
    """The parent of a process; 0 when the process has just ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  importing pathlib takes 6 ms
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 1 :].split()[1])  # after the command's name, which may have spaces and brackets


def start(launch: Launch) -> tuple[int, int]:
    """Fork and run the command. Returns its process id, and an errno if the command cannot run, else 0."""
    failures, failure_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        exec_command(launch, failure_in)
    os.close(failure_in)
    failure = os.read(failures, 16)
    os.close(failures)
    return pid, int(failure or 0)


def exec_command(launch: Launch, failure_in: int) -> None:
    """Turn this forked process into the command. It never returns; an errno is written to `failure_in`."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; commands expect the default
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(launch["cwd"])
        os.execve(launch["program"], launch["argv"], launch["environment"])  # noqa: S606  no shell is wanted
    except OSError as error:
        os.write(failure_in, str(error.errno).encode())
    finally:
        os._exit(127)


def prctl(option: int, value: int) -> None:
    """Set a process attribute that only Linux has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> None:
    """Read the `Launch`, run it, and write the `Outcome` to the file descriptor whose number is the argument."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)  # noqa: FBT003  the standard library's own signature
    try:
        launch = marshal.load(sys.stdin.buffer)  # noqa: S302  from our own parent, same interpreter
    except EOFError:
        return  # Enginery died before it had sent everything
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    outcome = Supervisor(launch).run()
    with suppress(BrokenPipeError):
        os.write(report, marshal.dumps(dict(outcome)))


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing to clean up, so nothing to wait for
