"""The arguments of a release's `trtllm-build`: an argument parser made from the recorded flags."""

import argparse
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from enginery.releases.flags import BUILD, Flag, flags_of

TYPES = {"int": int, "float": float}


class Refused(Exception):  # noqa: N818  what the command does
    """The command does not accept the arguments."""


class ReleaseParser(argparse.ArgumentParser):
    """Raises `Refused` where argparse would end the process. Flags cannot be abbreviated."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as an error."""
        raise Refused(message)


@cache
def release_parser(release: str, command: str = BUILD) -> ReleaseParser:
    """The parser of one release's command."""
    parser = ReleaseParser(prog=command, add_help=False, allow_abbrev=False)
    for flag in flags_of(release, command).value.values():
        parser.add_argument(flag.name, *flag.aliases, **_arguments(flag))
    return parser


def parse(release: str, argv: Sequence[str]) -> Mapping[str, Any]:
    """The values of the arguments for a release.

    Raises:
        Refused: the release does not accept them.
    """
    return vars(release_parser(release).parse_args(list(argv)))


def _arguments(flag: Flag) -> dict[str, Any]:
    if flag.is_switch:
        action = argparse.BooleanOptionalAction if flag.action == "BooleanOptionalAction" else flag.action
        return {"action": action, "default": flag.default}
    given: dict[str, Any] = {"default": flag.default, "type": TYPES.get(flag.type, str), "required": flag.required}
    if flag.choices:
        given["choices"] = flag.choices
    if flag.nargs:
        given["nargs"] = int(flag.nargs) if flag.nargs.isdigit() else flag.nargs
    if flag.nargs == "?":
        given["const"] = flag.const
    return given
