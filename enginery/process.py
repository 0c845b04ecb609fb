"""The one place that starts a command.

Every command runs under a supervisor process of its own (`supervisor.py`), which ends the command with all its
descendants when the time is over, when Enginery is interrupted, and also when Enginery itself is killed.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from subprocess import PIPE

from enginery import files
from enginery.commands import LINES_KEPT, Command, shown
from enginery.failures import FailureCause
from enginery.orders import Order, Outcome
from enginery.output import LineReader
from enginery.service import Service, stop_pid
from enginery.supervision import Supervised

__all__ = ["Completed", "FailureCause", "Log", "Service", "run", "shown", "stop_pid"]

Log = Callable[[str], None]

LINES_SEARCHED = 300
GRACE_SECONDS = 5.0

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


def run(  # noqa: PLR0913  each is a promise of its own
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
        afterwards: a command that undoes what the ended processes have left elsewhere. It is run, with nothing shown of
            it, when the command had to be ended: for its time, an interrupt, or the death of Enginery itself.

    Raises:
        CommandError: when it cannot be started, fails, or takes too long; `cause` tells the known failures apart.
    """
    command = Command(argv, cwd=cwd, env=env)
    with ExitStack() as stack:
        sink = Sink(log, stack.enter_context(_appending(log_file)) if log_file else None)
        sink.put(shown(command.argv))
        order = command.order(timeout=timeout, grace=grace, afterwards=afterwards)
        outcome = _run_supervised(order, sink, command.secrets)
    lines = tuple(sink.tail)
    if outcome["reason"] != "exited" or outcome["code"] != 0 or outcome["left"]:
        raise command.error(outcome, lines, timeout)
    return Completed(command.argv, outcome["seconds"], outcome["peak_memory_bytes"], lines[-LINES_KEPT:])


class Sink:
    """Where the lines of a command go: to the log, to a file, and the last ones into memory."""

    def __init__(self, log: Log, file: FileIO | None) -> None:
        self.log = log
        self.file = file
        self.tail: deque[str] = deque(maxlen=LINES_SEARCHED)

    def put(self, line: str) -> None:
        """Pass a line on."""
        if self.file is not None:
            try:
                self.file.write(f"{line}\n".encode(errors="backslashreplace"))
            except OSError as error:
                raise files.cannot_write(Path(str(self.file.name)), error) from error
        self.log(line)

    def keep_and_put(self, line: str) -> None:
        """Pass a line of the command's own on, and remember it."""
        self.tail.append(line)
        self.put(line)


@contextmanager
def _appending(path: Path) -> Iterator[FileIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)  # what was printed is there, also after a crash
    except OSError as error:
        raise files.cannot_write(path, error) from error
    with file:
        yield file


def _run_supervised(order: Order, sink: Sink, secrets: tuple[str, ...]) -> Outcome:
    supervised = Supervised.start(order, PIPE)
    try:
        reader = LineReader(secrets)
        for data in supervised.output():
            for line in reader.feed(data):
                sink.keep_and_put(line)
        for line in reader.finish():
            sink.keep_and_put(line)
        supervised.process.wait()
        outcome = supervised.outcome()
    finally:
        supervised.end()
    # A supervisor that was killed itself could not say anything; the kernel has ended its command with it.
    return outcome or Outcome(reason="stopped", code=0, seconds=0.0, peak_memory_bytes=0, left=[])
