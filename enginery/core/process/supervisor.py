"""The small process between Enginery and a command, which ends the command together with all its descendants.

It is run as a script, with the standard library only, and imports little so that it starts fast. It has a session of
its own: a signal to Enginery's process group does not reach it. On Linux it is the subreaper of all descendants of the
command: also an orphan with a session of its own, such as an MPI rank, becomes its child and cannot escape.

It reads a `Launch` from standard input, starts the command, and ends all descendants (SIGTERM, then SIGKILL after a
grace period) as soon as one of these happens: the command has ended; its time is over; standard input is closed,
as Enginery has died or wants the command to end; or it receives a signal itself (after a second one it kills at once).
A command that was ended may have left something with a daemon; a `Launch` can have a command to run afterwards.
The `Outcome` is written to a pipe.
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
AFTERWARDS_SECONDS = 60.0
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
        """Run the command to its end and the end of all its descendants."""
        started = time.monotonic()
        self.command, failure = start(self.launch)
        if failure:
            os.waitpid(self.command, 0)
            return {"reason": "not started", "code": failure, "seconds": 0.0, "peak_memory_bytes": 0, "left": []}
        reason = self.watch(started)
        left = self.end_all()
        if reason != "exited" and self.launch["afterwards"]:
            self.run_afterwards(self.launch["afterwards"])
        return {
            "reason": reason,
            "code": os.waitstatus_to_exitcode(self.status) if self.status is not None else -signal.SIGKILL,
            "seconds": time.monotonic() - started,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_UNIT,
            "left": left,
        }

    def watch(self, started: float) -> str:
        """Wait until there is a reason to end, and say which."""
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
        """Sleep until something happens, and say whether Enginery is gone or has closed standard input."""
        control = [] if self.launch["detached"] else [0]
        ready = self.sleep(min(wait, LONGEST_WAIT_SECONDS), control)
        if self.launch["detached"]:
            return False
        return (0 in ready and not os.read(0, 1)) or os.getppid() != self.parent

    def sleep(self, seconds: float, control: list[int]) -> list[int]:
        """Wait for a signal, for `control` to be readable, or for the time to pass."""
        ready, _, _ = select.select([self.alarm, *control], [], [], max(seconds, 0.0))
        if self.alarm in ready:
            with suppress(BlockingIOError):
                os.read(self.alarm, 4096)
        return ready

    def reap(self) -> bool:
        """Collect every child that has ended, and say whether any child is left."""
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
        """End every descendant, with SIGTERM first; return those that could not be ended."""
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

    def run_afterwards(self, words: list[str]) -> None:
        """Run the command for afterwards, without output: Enginery may have died, and nobody would read it."""
        files = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        with suppress(OSError):
            os.posix_spawn(words[0], words, self.launch["environment"], file_actions=files)
        deadline = time.monotonic() + AFTERWARDS_SECONDS
        while self.reap() and time.monotonic() < deadline:
            self.sleep(LONGEST_WAIT_SECONDS, [])
        self.signal_all(signal.SIGKILL)

    def signal_all(self, number: int) -> None:
        """Send a signal to every descendant, and to the command's process group where they cannot be listed."""
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if sys.platform != "linux":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.command, number)


def descendants(root: int) -> list[int]:
    """Processes below `root`, parents before children."""
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
    """The parent of a process; 0 when it has just gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  importing pathlib takes 6 ms
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 1 :].split()[1])  # the name before it may contain spaces and brackets


def start(launch: Launch) -> tuple[int, int]:
    """Fork and run the command; return its process id and, when it could not be run, the errno."""
    failures, failure_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(launch, failure_in)
    os.close(failure_in)
    failure = os.read(failures, 16)
    os.close(failures)
    return pid, int(failure or 0)


def become(launch: Launch, failure_in: int) -> None:
    """Turn this process, just forked, into the command; never returns."""
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
    """Read the `Launch`, run it, write the `Outcome` to the file descriptor named on the command line."""
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
