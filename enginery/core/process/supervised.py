"""Starting a supervisor process, telling it what to run, and hearing from it how that went."""

import marshal
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, TypedDict, cast

# What Enginery and its supervisor process say to each other: the order, and the outcome.


class Launch(TypedDict):
    """What to run.

    Attributes:
        program: path of the executable.
        argv: the command, its first word as the user wrote it.
        environment: the whole environment of the command.
        cwd: its working directory.
        timeout: seconds it may take; None for no limit.
        grace: seconds between SIGTERM and SIGKILL.
        detached: go on when standard input is closed.
        afterwards: what to run, quietly, after a command that was ended; its first word is the path of an executable.
    """

    program: str
    argv: list[str]
    environment: dict[str, str]
    cwd: str
    timeout: float | None
    grace: float
    detached: bool
    afterwards: list[str]


class Outcome(TypedDict):
    """What became of the command.

    Attributes:
        reason: why it ended: `exited`, `timeout`, `stopped` (told to) or `not started`.
        code: exit status, or the negative number of the signal that ended it; errno when not started.
        seconds: from start to the end of the last descendant.
        peak_memory_bytes: the largest resident memory of any one of its processes.
        left: descendants that could not be ended.
    """

    reason: str
    code: int
    seconds: float
    peak_memory_bytes: int
    left: list[int]


WAKE_SECONDS = 0.2
SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Supervised:
    """A running supervisor process.

    Attributes:
        process: the supervisor.
        report: where it will write the outcome.
    """

    def __init__(self, process: subprocess.Popen[bytes], report: int) -> None:
        self.process = process
        self.report = report

    @classmethod
    def start(cls, order: Launch, output: int | IO[bytes]) -> Self:
        """Start a supervisor and tell it what to do.

        Args:
            order: what it is to do.
            output: where the command's output goes, as in `subprocess.Popen`.
        """
        report, report_in = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR), str(report_in)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(report_in,),
                start_new_session=True,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_in)
        supervised = cls(process, report)
        try:
            supervised._tell(order)
        except BaseException:
            supervised.end()
            raise
        return supervised

    def _tell(self, order: Launch) -> None:
        data = marshal.dumps(dict(order))
        control = cast("IO[bytes]", self.process.stdin)
        with suppress(BrokenPipeError):  # it has died; what it printed and its missing outcome will tell
            control.write(len(data).to_bytes(8, "big") + data)
            control.flush()

    def let_go(self) -> None:
        """Close the supervisor's standard input, which ends the command unless it is detached."""
        with suppress(BrokenPipeError):
            cast("IO[bytes]", self.process.stdin).close()

    def end(self) -> None:
        """End the command and wait until its whole family is gone."""
        self.let_go()
        try:
            for _ in self.output():  # read on, or a command that still prints could not end
                pass
            self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            os.close(self.report)

    def output(self) -> Iterator[bytes]:
        """What the command prints, as it comes, until it ends."""
        if self.process.stdout is None:
            return
        ready = select.poll()
        ready.register(self.process.stdout, select.POLLIN | select.POLLHUP)
        while True:
            ended = self.process.poll() is not None
            # Waking up now and then lets an exception reach a thread that another one cancels.
            if ready.poll(0 if ended else WAKE_SECONDS * 1000):
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    return
                yield data
            elif ended:  # something outside the family still holds the pipe
                return

    def outcome(self) -> Outcome | None:
        """What became of the command, once the supervisor has ended; None when it was killed itself."""
        data = os.read(self.report, 65536)
        return cast("Outcome", marshal.loads(data)) if data else None  # noqa: S302  from our own supervisor
