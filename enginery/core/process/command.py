"""Running a command to its end: `run`.

Every command runs under a supervisor process of its own (`supervisor.py`). It ends the command with all its descendants
when the time is over, when Enginery is interrupted, and also when Enginery itself is killed.
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
OURS_ALONE = frozenset({"ENGINERY_SIGNING_KEY_PASSWORD"})
"""Variables of this process that no command gets: none of them signs."""

_to_logger = logging.getLogger(__name__).info


@dataclass(frozen=True)
class Completed:
    """A command that ended well.

    Attributes:
        argv: the command as it was run, secrets masked.
        seconds: from its start to the end of the last process it started.
        peak_memory_bytes: the largest resident memory that any single one of its processes reached (what the
            kernel reports for ended children); processes side by side are not added up.
        last_lines: the last lines it printed, at most 30.
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
    afterwards: Sequence[str] = (),
) -> Completed:
    """Run a command to its end, without a shell and with nothing on its standard input.

    When this returns or raises, for whatever reason, no process that the command started is alive. Values of
    environment variables that look secret are masked in all that is logged, kept or raised.

    Args:
        argv: the command and its arguments.
        cwd: its working directory; this process's own when left out.
        env: its whole environment; this process's own when left out.
        log: called with each line as it comes, standard output and error together; first with the command itself.
        timeout: seconds it may take.
        log_file: a file to which the lines are added too.
        grace: seconds its processes have to end by themselves after SIGTERM.
        afterwards: a command that removes what the ended processes have left elsewhere. It is run, without output,
            when the command had to be ended: by its time limit, an interrupt, or the death of Enginery itself.

    Raises:
        CommandError: when it cannot be started, fails, or takes too long; `cause` tells the known failures apart.
    """
    command = Command(argv, cwd=cwd, env=env)
    with _kept_in(log_file, log) as put:
        put(shown(command.argv))
        launch = command.launch(timeout=timeout, grace=grace, afterwards=afterwards)
        outcome, lines = _run_supervised(launch, put, command.secrets)
    if outcome["reason"] != "exited" or outcome["code"] != 0 or outcome["left"]:
        raise command.error(outcome, lines, timeout)
    return Completed(command.argv, outcome["seconds"], outcome["peak_memory_bytes"], lines[-LINES_KEPT:])


def shown(argv: Sequence[str]) -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(argv)


class Command:
    """A command that is ready to be run: found on its PATH, its secrets known.

    Attributes:
        words: the command and its arguments.
        argv: the same with secrets masked, to be shown.
        environment: its whole environment, without the variables in `OURS_ALONE`.
        secrets: values that must not be shown.

    Raises:
        CommandError: when there is no such command or working directory.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None) -> None:
        inherited = os.environ if env is None else env
        self.environment = {name: value for name, value in inherited.items() if name not in OURS_ALONE}
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
        self, *, timeout: float | None, grace: float, detached: bool = False, afterwards: Sequence[str] = ()
    ) -> Launch:
        """What the supervisor needs to know."""
        return Launch(
            program=self.program,
            argv=self.words,
            environment=self.environment,
            cwd=str(self.cwd),
            timeout=timeout,
            grace=grace,
            detached=detached,
            afterwards=[self._path_of(afterwards[0]), *afterwards[1:]] if afterwards else [],
        )

    def _not_started(self, why: str) -> CommandError:
        return CommandError(
            f"{self.argv[0] if self.argv else 'the command'} could not be started: {why}",
            subject=shown(self.argv),
            remedy="check the spelling, that it is installed in this toolchain, and that it may be executed",
            cause=FailureCause.NOT_FOUND,
        )

    def error(self, outcome: Outcome, lines: tuple[str, ...], timeout: float | None) -> CommandError:
        """The error for a command that did not end well."""
        if outcome["reason"] == "not started":
            return self._not_started(os.strerror(outcome["code"]))
        how, failure = _how_it_ended(outcome, lines, timeout)
        meaning = f": {failure.meaning}" if failure.meaning else ""
        left = f"; processes {outcome['left']} could not be ended" if outcome["left"] else ""
        return CommandError(
            f"{Path(self.argv[0]).name} {how}{meaning}{left}",
            subject=shown(self.argv),
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
def _kept_in(path: Path | None, log: Log) -> Iterator[Log]:
    """A log that adds each line to a file too, where it is also after a crash."""
    if path is None:
        yield log
        return
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)

    def put(line: str) -> None:
        with files.writing(path):
            file.write(f"{line}\n".encode(errors="backslashreplace"))
        log(line)

    with file:
        yield put


def _run_supervised(launch: Launch, put: Log, secrets: tuple[str, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Run it to its end; what became of it, and the last lines that it printed."""
    tail: deque[str] = deque(maxlen=LINES_SEARCHED)
    supervised = Supervised.start(launch, PIPE)
    try:
        for line in LineReader(secrets).lines(supervised.output()):
            tail.append(line)
            put(line)
        supervised.process.wait()
        outcome = supervised.outcome()
    finally:
        supervised.end()
    # A supervisor that was killed wrote no outcome; the kernel has ended its command with it.
    return outcome or Outcome(reason="stopped", code=0, seconds=0.0, peak_memory_bytes=0, left=[]), tuple(tail)
