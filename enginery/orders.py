"""What Enginery and its supervisor process say to each other: the order, and the outcome."""

from typing import TypedDict


class Order(TypedDict):
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
