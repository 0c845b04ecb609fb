"""What a release's `trtllm-build` reads from its arguments: the stand-in's parser, as a function."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from enginery.releases.flags import BUILD
from tests.support.trtllm.commands.parser import parser


class Refused(Exception):  # noqa: N818  what the command does
    """The command does not accept the arguments."""


def parse(release: str, argv: Sequence[str]) -> Mapping[str, Any]:
    """The values of the arguments for a release, or `Refused`. Flags cannot be abbreviated."""
    return vars(_parser(release).parse_args(list(argv)))


@cache
def _parser(release: str) -> ArgumentParser:
    made = parser(release, BUILD)
    made.allow_abbrev = False
    made.error = _refuse  # type: ignore[method-assign]
    return made


def _refuse(message: str) -> NoReturn:
    raise Refused(message)
