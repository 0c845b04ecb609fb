"""Toolchains of the kind `venv`: made on demand from pins, once for everybody on the machine."""

import importlib.util
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import psutil
from packaging.specifiers import SpecifierSet

from enginery.core import files, process
from enginery.core.errors import CommandError, ToolchainError
from enginery.core.locks import waiting_lock
from enginery.core.process import FailureCause
from enginery.core.progress import Log
from enginery.toolchains.identity import READY, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import describe, fixed_minor
from enginery.toolchains.probe import look_into, mismatches, probe_environment
from enginery.toolchains.release_probe import release_found

# Finding a Python interpreter on this machine for a toolchain that needs a certain one.


NEWEST_MINOR = 30


def minor_of(version: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(version.split(".")[:2])


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


STILL_WAITING_SECONDS = 20.0
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
"""Variables that would let another environment in; and the one that makes every import compile everything again."""


@dataclass(frozen=True)
class Venv(Toolchain):
    """A virtual environment, made from pins once for everybody on the machine."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The pins, with the minor version of the Python here that they come to."""
        del image
        pin_file = describe(name)
        pins = (*pin_file.options, *pin_file.pins)
        return ToolchainIdentity(name=name, kind="venv", pins=pins, python=planned_minor(pin_file.python, name))

    @classmethod
    def is_there(cls, wanted: ToolchainIdentity) -> bool:
        """Whether it is there and whole."""
        return is_ready(wanted)

    @classmethod
    def ensure(cls, wanted: ToolchainIdentity, log: Log) -> Self:
        """The environment, made first if needed."""
        if not is_ready(wanted):
            _create_once(wanted, log)
        return cls.opened(wanted)

    @classmethod
    def opened(cls, wanted: ToolchainIdentity) -> Self:
        """The environment that is ready."""
        directory = location(wanted)
        binaries = directory / "bin"
        environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        environment["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])
        environment["VIRTUAL_ENV"] = str(directory)
        environment["PYTHONNOUSERSITE"] = "1"
        return cls(wanted, directory, binaries / "python", environment)


def is_ready(wanted: ToolchainIdentity) -> bool:
    """Whether it is there and whole."""
    directory = location(wanted)
    return (directory / READY).is_file() and (directory / "bin" / "python").exists()


def _create_once(wanted: ToolchainIdentity, log: Log) -> None:
    directory = location(wanted)
    why = f"waiting for another process that is making toolchain {wanted.name}"
    with waiting_lock(directory.with_name(f"{directory.name}.lock"), why, log, every=STILL_WAITING_SECONDS):
        if not is_ready(wanted):
            _create(wanted, log)


def _create(wanted: ToolchainIdentity, log: Log) -> None:

    pin_file = describe(wanted.name)
    directory = location(wanted)
    started = time.monotonic()
    interpreter = fitting_python(f"=={wanted.python}.*", os.environ.get("PATH", ""), wanted.name)
    log(f"making toolchain {wanted.name} in {directory} ({len(pin_file.pins)} packages)")
    create_venv(directory, interpreter, wanted.pins, log)
    found = look_into(Venv.opened(wanted), pin_file.probe)
    differences = mismatches(pin_file.requirements(), found)
    if differences:
        raise ToolchainError(
            f"was installed but is not what its pins say: {'; '.join(differences)}",
            subject=wanted.name,
            remedy=f"correct {pin_file.path or 'your pins'}, or the pip configuration that led to this",
        )
    seconds = time.monotonic() - started
    ready = {
        "identity": wanted.model_dump(mode="json", exclude_defaults=True),
        "probe": found.versions | release_found(Venv.opened(wanted)),
        "seconds": round(seconds, 1),
    }
    files.write_atomic(directory / READY, json.dumps(ready, indent=2))  # last: what has no such file is not ready
    log(f"toolchain {wanted.name} is ready ({seconds:.0f} s)")


# Making a virtual environment from pins with the user's own pip and pip configuration.


CREATE_SECONDS = 300.0
INSTALL_SECONDS = 3600.0
STRAY_SECONDS = 15.0
REQUIREMENTS = "pins.txt"
STUB = re.compile(r"wheel_stub|nvidia[-_]stub|(Downloading|Using cached) \S*tensorrt[-_]llm-\S*\.tar\.gz")
"""NVIDIA's wheels are on an index of its own; what the public one has of them is a source package that gets or names
the wheel from there. Older ones (0.8.0) just fail in their setup script."""
NAMED_INDEX = re.compile(r"--(?:extra-)?index-url[ =](\S+)")
NETWORK = re.compile(
    r"[Cc]onnection (broken|refused|reset|aborted|timed out)|NewConnectionError|ConnectTimeout|Read timed out"
    r"|ReadTimeout|Temporary failure in name resolution|Name or service not known|Network is unreachable"
    r"|ProxyError|IncompleteRead|(HTTP error|Server Error|status code) ?:? ?(429|5\d\d)|5\d\d Server Error"
)


def create_venv(directory: Path, interpreter: Path, pins: Sequence[str], log: Log) -> None:
    """Make a virtual environment in `directory` and install `pins`; what is there already is removed first.

    Args:
        directory: where to make it. A virtual environment cannot be moved, so it is made in its place.
        interpreter: the Python to make it with.
        pins: requirements, and options of pip's among them.
        log: told what happens, line by line.

    Raises:
        ToolchainError: when that fails; `transient` if the network was the reason.
    """
    if directory.exists():
        log(f"removing what an interrupted creation left in {directory}")
        _end_strays(directory)
        files.remove_tree(directory)
    options = [pin for pin in pins if pin.startswith("--")]
    requirements = [pin for pin in pins if not pin.startswith("--")]
    said: list[str] = []

    def keep(line: str) -> None:
        said.append(line)
        log(line)

    try:
        own_pip = _make(directory, interpreter, log)
        files.write_atomic(directory / REQUIREMENTS, "".join(f"{pin}\n" for pin in requirements))
        _install(directory, own_pip, options, keep)
    except CommandError as error:
        name = directory.name.rpartition("-")[0] or directory.name  # without the digest
        raise (stub_error(said, name) or _explained(error, name)) from error


def _make(directory: Path, interpreter: Path, log: Log) -> bool:
    """Make the environment; returns whether it has a pip of its own, which takes seconds and is seldom needed."""
    own_pip = importlib.util.find_spec("pip") is None
    argv = [str(interpreter), "-m", "venv", *([] if own_pip else ["--without-pip"]), str(directory)]
    process.run(argv, env=_environment(), log=log, timeout=CREATE_SECONDS)
    return own_pip


def _install(directory: Path, own_pip: bool, options: Sequence[str], log: Log) -> None:  # noqa: FBT001  private
    python = str(directory / "bin" / "python")
    pip = [python, "-m", "pip"] if own_pip else [sys.executable, "-m", "pip", "--python", python]
    # Compiling everything takes longer than the rest together; Python compiles what is imported, once.
    argv = [*pip, "install", "--no-compile", "--disable-pip-version-check", "--no-input", *options]
    argv += ["-r", str(directory / REQUIREMENTS)]
    process.run(argv, env=_environment(), log=log, timeout=INSTALL_SECONDS)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "PIP_USER": "0", "PYTHONNOUSERSITE": "1"}


def stub_error(said: Sequence[str], name: str) -> ToolchainError | None:
    """The error for an index that has only a stub of a package; None when pip failed for another reason."""
    if not any(STUB.search(line) for line in said):
        return None
    indexes = [found[1] for line in said if not line.startswith("Looking in") and (found := NAMED_INDEX.search(line))]
    index = f"{indexes[0]} (the stub names it)" if indexes else "NVIDIA's index of Python packages, or a mirror of it"
    return ToolchainError(
        "could not be made: your package index has only a stub of TensorRT-LLM or TensorRT, not the wheel itself",
        subject=name,
        remedy=f"add {index} to your own pip configuration (pip config set global.extra-index-url …), or use a"
        " toolchain of kind container or host",
    )


def _explained(error: CommandError, name: str) -> ToolchainError:
    network = any(NETWORK.search(line) for line in error.last_lines)
    remedy = "read pip's last lines above, and check your pip configuration (pip config list)"
    if network:
        remedy = "check the network, the proxy and the index in your pip configuration, then try again"
    elif error.cause in (FailureCause.DISK_FULL, FailureCause.TIMEOUT, FailureCause.HOST_MEMORY):
        remedy = error.remedy
    tail = "".join(f"\n  | {line}" for line in error.last_lines)
    return ToolchainError(f"could not be made: {error.problem}{tail}", subject=name, remedy=remedy, transient=network)


def _end_strays(directory: Path) -> None:
    """Wait for commands that still work in `directory`: those of a killed creator are about to end themselves."""
    strays = [found for found in psutil.process_iter(["cmdline"]) if _works_in(found, directory)]
    psutil.wait_procs(strays, timeout=STRAY_SECONDS)


def _works_in(candidate: psutil.Process, directory: Path) -> bool:
    words = candidate.info["cmdline"] or []
    return candidate.pid != os.getpid() and any(word.startswith(f"{directory}{os.sep}") for word in words)
