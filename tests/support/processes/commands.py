"""Commands that tests run with `process.run`."""

import sys

import pytest

from enginery.core import process
from enginery.core.errors import CommandError


def ignore(_line: str) -> None:
    pass


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def failing(argv: list[str], **options: object) -> CommandError:
    with pytest.raises(CommandError) as caught:
        process.run(argv, log=ignore, **options)  # type: ignore[arg-type]
    return caught.value


def lines_of(argv: list[str], **options: object) -> list[str]:
    """What a command prints, without the first line, which is the command."""
    lines: list[str] = []
    process.run(argv, log=lines.append, **options)  # type: ignore[arg-type]
    return lines[1:]
