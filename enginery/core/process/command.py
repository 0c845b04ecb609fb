"""`run` runs a command to its end.

Each command runs under its own supervisor process (`supervisor.py`). The supervisor ends the command with all its
descendants at the time limit, when Enginery is interrupted, and also when Enginery is killed.
"""

import logging
import os
import shlex
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

from enginery.core import files
from enginery.core.errors import CommandError
from enginery.core.process.failures import Failure, FailureCause, failure_of, signal_of
from enginery.core.process.supervised import Launch, Outcome, Supervised
from enginery.core.progress import Log
from enginery.core.text import LineReader, masked, secrets_in

LINES_KEPT = 30
LINES_SEARCHED = 300
GRACE_SECONDS = 5.0
WITHHELD_VARIABLES = frozenset({"ENGINERY_SIGNING_KEY_PASSWORD"})
"""Environment variables that no command gets: only Enginery itself signs."""

_to_logger = logging.getLogger(__name__).info


@dataclass(frozen=True)
class Completed:
    """A command that ended well.

    Attributes:
        argv: the command as it was run, with secrets masked.
        seconds: from the start of the command to the end of the last process that it started.
        peak_memory_bytes: the largest resident memory of any one of its processes, as the kernel reports it for ended
            children. Processes that run at the same time are not added up.
        last_lines: the last lines that the command printed, at most 30.
    """

    argv: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int
    last_lines: tuple[str, ...]


def run(  # noqa: PLR0913  options that do not depend on each other
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Log = _to_logger,
    timeout: float | None = None,
    log_file: Path | None = None,
    grace: float = GRACE_SECONDS,
    cleanup: Sequence[str] = (),
) -> Completed:
    """Run a command to its end, without a shell and with empty standard input.

    When this function returns or raises, all processes that the command started have ended. Secrets from environment
    variables are masked in everything that is logged, kept or raised.

    Args:
        argv: the command and its arguments.
        cwd: its working directory; default: that of this process.
        env: its whole environment; default: that of this process.
        log: is called with the command, then with each line of its standard output and standard error.
        timeout: seconds that the command may take.
        log_file: a file to which the lines are appended too.
        grace: seconds that its processes have to end by themselves after SIGTERM.
        cleanup: a command that removes what the processes leave behind elsewhere, such as a container. It runs, without
            output, only when Enginery ended the command: time limit, interrupt, or the death of Enginery.

    Raises:
        CommandError: when the command cannot be started, fails, or takes too long. `cause` names a known failure.
    """
    command = Command(argv, cwd=cwd, env=env)
    with _logging_to_file(log_file, log) as write:
        write(shell_line(command.argv))
        launch = command.launch(timeout=timeout, grace=grace, cleanup=cleanup)
        outcome, lines = _run_supervised(launch, write, command.secrets)
    if outcome["reason"] != "exited" or outcome["code"] != 0 or outcome["survivors"]:
        raise command.error(outcome, lines, timeout)
    return Completed(command.argv, outcome["seconds"], outcome["peak_memory_bytes"], lines[-LINES_KEPT:])


def shell_line(argv: Sequence[str]) -> str:
    """The command as a line that can be pasted into a shell."""
    return shlex.join(argv)


class Command:
    """A command that is ready to run: its executable was found on PATH, and its secrets are known.

    Attributes:
        words: the command and its arguments.
        argv: the same with secrets masked, for people.
        environment: its whole environment, without `WITHHELD_VARIABLES`.
        secrets: the values to mask.

    Raises:
        CommandError: when there is no such command or working directory.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None) -> None:
        inherited = os.environ if env is None else env
        self.environment = {name: value for name, value in inherited.items() if name not in WITHHELD_VARIABLES}
        self.secrets = secrets_in(self.environment, os.environ)
        self.words = [os.fspath(word) for word in argv]
        self.argv = tuple(masked(word, self.secrets) for word in self.words)
        self.cwd = (cwd or Path.cwd()).absolute()
        if not self.cwd.is_dir():
            raise self._not_started(f"its working directory {self.cwd} does not exist")
        if not self.words or any("\0" in word for word in self.words):
            raise self._not_started("it is empty or holds a zero byte")
        self.program = self._path_of(self.words[0])

    def _path_of(self, name: str) -> str:
        if "/" in name:
            return str(self.cwd / name)
        found = shutil.which(name, path=self.environment.get("PATH", os.defpath))
        if found is None:
            raise self._not_started("there is no such command on PATH")
        return str(self.cwd / found)

    def launch(
        self, *, timeout: float | None, grace: float, detached: bool = False, cleanup: Sequence[str] = ()
    ) -> Launch:
        """The `Launch` to send to the supervisor."""
        return Launch(
            program=self.program,
            argv=self.words,
            environment=self.environment,
            cwd=str(self.cwd),
            timeout=timeout,
            grace=grace,
            detached=detached,
            cleanup=[self._path_of(cleanup[0]), *cleanup[1:]] if cleanup else [],
        )

    def _not_started(self, why: str) -> CommandError:
        return CommandError(
            f"{self.argv[0] if self.argv else 'the command'} could not be started: {why}",
            subject=shell_line(self.argv),
            remedy="check the spelling, that it is installed in this toolchain, and that it may be executed",
            cause=FailureCause.NOT_FOUND,
        )

    def error(self, outcome: Outcome, lines: tuple[str, ...], timeout: float | None) -> CommandError:
        """The error for a command that failed."""
        if outcome["reason"] == "not started":
            return self._not_started(os.strerror(outcome["code"]))
        how, failure = _how_it_ended(outcome, lines, timeout)
        meaning = f": {failure.meaning}" if failure.meaning else ""
        survivors = f"; processes {outcome['survivors']} could not be ended" if outcome["survivors"] else ""
        return CommandError(
            f"{Path(self.argv[0]).name} {how}{meaning}{survivors}",
            subject=shell_line(self.argv),
            remedy=failure.remedy,
            cause=failure.cause,
            last_lines=lines[-LINES_KEPT:],
        )


def _how_it_ended(outcome: Outcome, lines: Sequence[str], timeout: float | None) -> tuple[str, Failure]:
    if outcome["reason"] == "timeout":
        remedy = "look at its last lines for where it hangs, or allow it more time"
        return f"was ended after its time limit of {timeout:g} s", Failure(FailureCause.TIMEOUT, "", remedy)
    if outcome["reason"] == "stopped":
        return "was ended from outside", Failure(FailureCause.CANCELLED, "", "run it again")
    number = signal_of(outcome["code"])
    how = f"was killed ({number.name})" if number else f"failed with exit status {outcome['code']}"
    return how, failure_of(outcome["code"], lines)


@contextmanager
def _logging_to_file(path: Path | None, log: Log) -> Iterator[Log]:
    """A log that also appends each line to a file, without a buffer: the lines are there after a crash."""
    if path is None:
        yield log
        return
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)

    def write(line: str) -> None:
        with files.writing(path):
            file.write(f"{line}\n".encode(errors="backslashreplace"))
        log(line)

    with file:
        yield write


def _run_supervised(launch: Launch, log: Log, secrets: tuple[str, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Run the command to its end. Returns the outcome and the last lines that the command printed."""
    tail: deque[str] = deque(maxlen=LINES_SEARCHED)
    supervised = Supervised.start(launch, PIPE)
    try:
        for line in LineReader(secrets).lines(supervised.output()):
            tail.append(line)
            log(line)
        supervised.process.wait()
        outcome = supervised.outcome()
    finally:
        supervised.end()
    # A killed supervisor writes no outcome. The kernel has ended its command too.
    return outcome or Outcome(reason="stopped", code=0, seconds=0.0, peak_memory_bytes=0, survivors=[]), tuple(tail)
