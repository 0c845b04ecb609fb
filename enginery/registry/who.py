"""Who moves a channel, as its history tells it."""

import getpass
import os
import socket

from enginery.output import masked, secrets_in

SETTING = "ENGINERY_WHO"
LONGEST = 200


def who() -> str:
    """The setting `ENGINERY_WHO`, such as the name of a CI job, else `user@host`."""
    return one_line(os.environ.get(SETTING, "")) or f"{_user()}@{socket.gethostname()}"


def one_line(text: str) -> str:
    """A text for the history: one line, not too long, without this process's secrets."""
    return " ".join(masked(text, secrets_in(os.environ)).split())[:LONGEST]


def _user() -> str:
    """A process in a container may have a number that no user has."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
