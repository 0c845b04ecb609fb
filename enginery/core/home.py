"""Where Enginery keeps its things on this machine: one directory, moved as a whole with `ENGINERY_HOME`.

These functions create nothing: the code that writes to a directory makes it first.
"""

import os
from pathlib import Path


def home() -> Path:
    """The directory of everything Enginery keeps: `$ENGINERY_HOME`, else `~/.enginery`; always absolute."""
    chosen = os.environ.get("ENGINERY_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".enginery"


def store_dir() -> Path:
    """Outputs and records of steps."""
    return home() / "store"


def toolchains_dir() -> Path:
    """Environments made from pin files."""
    return home() / "toolchains"


def logs_dir() -> Path:
    """Logs of commands and services."""
    return home() / "logs"


def services_dir() -> Path:
    """State of the services started for local use."""
    return home() / "services"
