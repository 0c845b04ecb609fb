"""The user's pip configuration: where pip looks for packages, and how it gets there.

It is read from `pip config list` and the variables `PIP_*`.
"""

import ast
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from enginery.core import process
from enginery.core.errors import CommandError, ToolchainError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import no_log

if TYPE_CHECKING:
    import pypi_simple
else:
    pypi_simple = late("pypi_simple")

LINE = re.compile(r"^\S+\s+(?P<section>[\w-]+)\.(?P<name>[\w-]+)=(?P<value>['\"].*['\"])$")
"""A setting as pip writes it into a log: the time, then `global.index-url='…'`."""
SECTIONS = ("global", "install")
"""Toolchains are made with `pip install`. What is set for that command overrides what is set for all (`global`)."""
PREFIX = "PIP_"
PIP_SECONDS = 60.0
FALSE = frozenset({"", "0", "no", "off", "false", "n", "f"})


class PipSettings(Frozen):
    """The part of pip's configuration that decides where packages come from.

    Attributes:
        indexes: addresses or directories of indexes, in pip's order; they may hold a user name and a password.
        find_links: directories or pages with files of any project.
        trusted_hosts: hosts, or `host:port`, whose certificate is not checked.
        proxy: the proxy for all addresses; empty to use the environment's variables.
        cert: a bundle of certificate authorities; empty for the usual one.
        client_cert: a certificate to sign in with; empty for none.
        timeout: seconds to wait for an answer.
        retries: how often to try again.
    """

    indexes: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    proxy: str = ""
    cert: str = ""
    client_cert: str = ""
    timeout: float = 15.0
    retries: int = 5


def pip_settings() -> PipSettings:
    """The settings of the pip that belongs to this Python. Toolchains are made with this pip.

    Raises:
        ToolchainError: when there is no pip, or pip refuses its configuration.
    """
    variables = {name.removeprefix(PREFIX): value for name, value in os.environ.items() if name.startswith(PREFIX)}
    named = {name.lower().replace("_", "-"): value for name, value in variables.items() if value}
    values = {**_from_files(), **named}
    first = values.get("index-url") or values.get("pypi-url") or pypi_simple.PYPI_SIMPLE_ENDPOINT
    without_index = values.get("no-index", "").strip().lower() not in FALSE
    indexes = () if without_index else (first, *values.get("extra-index-url", "").split())
    return PipSettings(
        indexes=tuple(dict.fromkeys(indexes)),
        find_links=tuple(dict.fromkeys(values.get("find-links", "").split())),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        proxy=values.get("proxy", ""),
        cert=values.get("cert", ""),
        client_cert=values.get("client-cert", ""),
        timeout=float(values.get("timeout") or values.get("default-timeout") or 15.0),  # pip takes only numbers
        retries=int(values.get("retries") or 5),
    )


def _from_files() -> dict[str, str]:
    """The settings in pip's configuration files, as pip itself reads them."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in _lines_of_pip():
        match = LINE.match(line)
        if match and match["section"] in found:
            found[match["section"]][match["name"]] = str(ast.literal_eval(match["value"]))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def _lines_of_pip() -> list[str]:
    """The lines of `pip config list`, read from a private file: in a command's output, passwords are masked."""
    with TemporaryDirectory(prefix="enginery-") as private:
        lines = Path(private) / "pip.log"
        argv = (sys.executable, "-m", "pip", "--log", str(lines), "--no-input", "config", "list")
        try:
            process.run(argv, log=no_log, timeout=PIP_SECONDS)
            return lines.read_text(encoding="utf-8").splitlines()
        except (CommandError, OSError) as error:
            problem = f"its configuration cannot be read: {error}"
            remedy = "make `python -m pip config list` work in the environment that Enginery is installed in"
            raise ToolchainError(problem, subject="pip", remedy=remedy) from error
