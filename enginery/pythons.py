"""Finding a Python interpreter on this machine for a toolchain that needs a certain one."""

import os
import re
import shutil
import sys
from functools import lru_cache
from pathlib import Path

from packaging.specifiers import SpecifierSet

from enginery.errors import CommandError, ToolchainError
from enginery.probing import probe_environment

NEWEST_MINOR = 30
ONE_MINOR = re.compile(r"==(3\.\d+)\.\*")


def minor_of(version: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(version.split(".")[:2])


def fixed_minor(wanted: str) -> str:
    """The minor version that a range such as `==3.12.*` allows; empty when it leaves a choice."""
    fixed = ONE_MINOR.fullmatch(wanted)
    return fixed[1] if fixed else ""


def planned_minor(wanted: str, subject: str = "python") -> str:
    """The minor version that a range of versions comes to; looked for on this machine only if it leaves a choice.

    Raises:
        ToolchainError: when there is a choice and nothing on this machine fits.
    """
    fixed = fixed_minor(wanted)
    if fixed:
        return fixed
    search = os.environ.get("PATH", "")
    return minor_of(_version_of(fitting_python(wanted, search, subject), search))


def fitting_python(wanted: str, search: str, subject: str = "python") -> Path:
    """An interpreter whose version is in the range: the one running this if it can be, else one on `search`.

    Args:
        wanted: the range.
        search: directories to look into, as in `PATH`.
        subject: what needs it, for the error.

    Raises:
        ToolchainError: when there is none.
    """
    versions = SpecifierSet(wanted)
    if versions.contains(_version_of(Path(sys.executable), search), prereleases=True):
        return Path(sys.executable)
    minors = [minor for minor in range(NEWEST_MINOR, 7, -1) if _may_contain(versions, minor)]
    for minor in minors:
        found = shutil.which(f"python3.{minor}", path=search)
        version = _version_of(Path(found), search) if found else ""
        if found and version and versions.contains(version, prereleases=True):
            return Path(found)
    command = f"python3.{minors[-1] if minors else 11}"
    raise ToolchainError(
        f"it needs Python {wanted}, and there is none on PATH",
        subject=subject,
        remedy=f"install one (your system's packages {command} and {command}-venv, pyenv or uv), so that the command"
        f" {command} is found; a toolchain of kind container needs none",
    )


def _may_contain(versions: SpecifierSet, minor: int) -> bool:
    return versions.contains(f"3.{minor}.0") or versions.contains(f"3.{minor}.99")


@lru_cache
def _version_of(python: Path, search: str) -> str:
    """The version of an interpreter; empty when it does not work (a shim without a Python behind it)."""
    if python == Path(sys.executable):
        return ".".join(str(part) for part in sys.version_info[:3])
    try:
        return probe_environment(python, {"PATH": search}).python
    except CommandError:
        return ""
