"""Starts a supervisor process, sends it a `Launch`, and reads its `Outcome`."""

import marshal
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, TypedDict, cast

WAKE_SECONDS = 0.2
SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Launch(TypedDict):
    """The options of `command.run`, with the executables as paths. `detached`: run on after the death of Enginery."""

    program: str
    argv: list[str]
    environment: dict[str, str]
    cwd: str
    timeout: float | None
    grace: float
    detached: bool
    cleanup: list[str]


class Outcome(TypedDict):
    """How the command ended.

    Attributes:
        reason: why the command ended: `exited`, `timeout`, `stopped` (from outside) or `not started`.
        code: the exit status, or the negative number of the signal that ended the command; errno if `not started`.
        seconds: from the start of the command to the end of its last descendant.
        peak_memory_bytes: the largest resident memory of any one of its processes.
        survivors: process ids of descendants that could not be ended.
    """

    reason: str
    code: int
    seconds: float
    peak_memory_bytes: int
    survivors: list[int]


class Supervised:
    """A running supervisor process, and the pipe from which its outcome is read."""

    def __init__(self, process: subprocess.Popen[bytes], report: int) -> None:
        self.process = process
        self.report = report

    @classmethod
    def start(cls, launch: Launch, output: int | IO[bytes]) -> Self:
        """Start a supervisor and its command; `output` is where the command prints, as in `subprocess.Popen`."""
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
        control = cast("IO[bytes]", process.stdin)
        try:
            with suppress(BrokenPipeError):  # the supervisor has died: there will be no outcome
                control.write(marshal.dumps(dict(launch)))
                control.flush()
        except BaseException:
            supervised.end()
            raise
        return supervised

    def close_input(self) -> None:
        """Close the supervisor's standard input, which ends the command unless it is detached."""
        with suppress(BrokenPipeError):
            cast("IO[bytes]", self.process.stdin).close()

    def end(self) -> None:
        """End the command and wait until all its descendants have ended."""
        self.close_input()
        try:
            for _ in self.output():  # or else a command that still prints is blocked and cannot end
                pass
            self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            os.close(self.report)

    def output(self) -> Iterator[bytes]:
        """The bytes that the command prints, as they arrive, until it ends."""
        if self.process.stdout is None:
            return
        ready = select.poll()
        ready.register(self.process.stdout, select.POLLIN | select.POLLHUP)
        while True:
            ended = self.process.poll() is not None
            # The wait is short: if another thread cancels this one, the exception arrives between two waits.
            if ready.poll(0 if ended else WAKE_SECONDS * 1000):
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    return
                yield data
            elif ended:  # but a process that is not a descendant still holds the pipe open
                return

    def outcome(self) -> Outcome | None:
        """The outcome. Call it after the supervisor has ended. None when the supervisor was killed."""
        data = os.read(self.report, 65536)
        return cast("Outcome", marshal.loads(data)) if data else None  # noqa: S302  from our own supervisor
