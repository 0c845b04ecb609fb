"""The directory in which Enginery keeps its data on this machine. `ENGINERY_HOME` names another one.

These functions create nothing. Code that writes to a directory creates it first.
"""

import os
from pathlib import Path


def home() -> Path:
    """The directory of all data of Enginery: `$ENGINERY_HOME`, or else `~/.enginery`; always absolute."""
    chosen = os.environ.get("ENGINERY_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".enginery"


def store_dir() -> Path:
    """The local store: outputs and records of steps."""
    return home() / "store"


def toolchains_dir() -> Path:
    """The environments that are made from pin files."""
    return home() / "toolchains"


def logs_dir() -> Path:
    """The logs of commands and services."""
    return home() / "logs"


def services_dir() -> Path:
    """The state of the services of `enginery dev`."""
    return home() / "services"
