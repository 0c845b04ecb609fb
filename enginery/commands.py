"""A command to be run: found on its PATH, its secrets known, its failures told in words."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from enginery.errors import CommandError
from enginery.failures import Failure, FailureCause, failure_of, signal_of
from enginery.orders import Order, Outcome
from enginery.output import masked, secrets_in

LINES_KEPT = 30
OURS_ALONE = frozenset({"ENGINERY_SIGNING_KEY_PASSWORD"})
"""Variables of this process that no command is given: none of them signs."""


def shown(argv: Sequence[str]) -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(argv)


class Command:
    """What is to be run.

    Attributes:
        words: the command and its arguments.
        argv: the same with secrets masked, to be shown.
        environment: its whole environment; it is not given what is Enginery's alone.
        secrets: values that must not be shown.
        cwd: its working directory, absolute.
        program: the executable's path.

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
        self.program = self._find()

    def _find(self) -> str:
        if not self.cwd.is_dir():
            raise self.not_started(f"its working directory {self.cwd} does not exist")
        if not self.words or any("\0" in word for word in self.words):
            raise self.not_started("it is empty or holds a zero byte")
        return self._path_of(self.words[0])

    def _path_of(self, name: str) -> str:
        if "/" in name:
            return str(self.cwd / name)
        found = shutil.which(name, path=self.environment.get("PATH", os.defpath))
        if found is None:
            raise self.not_started("there is no such command on PATH")
        return str(self.cwd / found)

    def order(
        self, *, timeout: float | None, grace: float, detached: bool = False, afterwards: Sequence[str] = ()
    ) -> Order:
        """What the supervisor is told."""
        return Order(
            program=self.program,
            argv=self.words,
            environment=self.environment,
            cwd=str(self.cwd),
            timeout=timeout,
            grace=grace,
            detached=detached,
            afterwards=[self._path_of(afterwards[0]), *afterwards[1:]] if afterwards else [],
        )

    def not_started(self, why: str) -> CommandError:
        """The error for a command that never ran."""
        return CommandError(
            f"{self.argv[0] if self.argv else 'the command'} could not be started: {why}",
            subject=shown(self.argv),
            remedy="check the spelling, that it is installed in this toolchain, and that it may be executed",
            cause=FailureCause.NOT_FOUND,
        )

    def error(self, outcome: Outcome, lines: tuple[str, ...], timeout: float | None) -> CommandError:
        """The error for a command that did not end well."""
        if outcome["reason"] == "not started":
            return self.not_started(os.strerror(outcome["code"]))
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
