"""The pinned environments in which a release's commands run.

A toolchain never shares a Python environment with Enginery. A `venv` is made on demand from a pin file, once for
everybody on the machine; `host` is what is on PATH. The identity is part of the key of every step that uses it.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from enginery import files, home
from enginery.context import Log
from enginery.digests import json_digest
from enginery.errors import CommandError, ToolchainError
from enginery.pins import PinFile, describe, names
from enginery.probing import Probe, probe_environment
from enginery.steps import Frozen

__all__ = [
    "PinFile",
    "Toolchain",
    "ToolchainIdentity",
    "ToolchainReport",
    "check",
    "describe",
    "ensure",
    "identity",
    "location",
    "names",
    "probe",
]

Kind = Literal["host", "venv"]
Identify = Callable[[str, Kind], "ToolchainIdentity"]
"""What `identity` does."""

READY = "ready.json"
DIGEST_LENGTH = 12
LOCK_POLL_SECONDS = 0.2
STILL_WAITING_SECONDS = 20.0
NEWEST_MINOR = 30
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
"""Variables that would let another environment in; and the one that makes every import compile everything again."""


class ToolchainIdentity(Frozen):
    """What makes a toolchain this one and no other.

    Attributes:
        name: the pin file's name.
        kind: `venv`, made from the pins, or `host`, found on PATH.
        pins: packages with versions, and the options they are installed with; for `host`, the versions found.
        python: the interpreter's minor version, such as `3.11`.
    """

    name: str
    kind: Kind
    pins: tuple[str, ...]
    python: str

    def digest(self) -> str:
        """SHA-256 of the identity, 64 hex digits."""
        return _digest(self)


@lru_cache
def _digest(wanted: ToolchainIdentity) -> str:
    return json_digest(wanted.model_dump(mode="json"))


@dataclass(frozen=True)
class Toolchain:
    """A toolchain that is ready for use.

    Attributes:
        identity: what it is.
        directory: where its environment is; for `host`, the directory of its interpreter.
        python: its interpreter.
        environment: the whole environment for its commands, inherited from this process apart from what would
            let other Python environments in.
    """

    identity: ToolchainIdentity
    directory: Path
    python: Path
    environment: dict[str, str]


class ToolchainReport(Frozen):
    """A toolchain compared with its pins.

    Attributes:
        name: the toolchain.
        directory: where it is, or would be.
        created: whether it is there.
        python: its Python's full version; empty when it is not there.
        packages: package -> installed version.
        mismatches: one sentence for each difference between it and its pins.
    """

    name: str
    directory: Path
    created: bool
    python: str = ""
    packages: Mapping[str, str] = {}
    mismatches: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is there and is what its pins say."""
        return self.created and not self.mismatches


class ToolchainStatus(Frozen):
    """A toolchain in a list.

    Attributes:
        name: the toolchain.
        backend: the backend it is for; empty where it is for none.
        release: the backend's release; empty where that has no meaning.
        created: whether it is there.
        directory: where it is, or would be.
    """

    name: str
    backend: str
    release: str
    created: bool
    directory: Path


def status(name: str) -> ToolchainStatus:
    """Whether a `venv` toolchain is there, without starting anything in it.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits.
    """
    pin_file, wanted = describe(name), identity(name)
    return ToolchainStatus(
        name=name,
        backend=pin_file.backend,
        release=pin_file.release,
        created=is_ready(wanted),
        directory=location(wanted),
    )


def identity(name: str, kind: Kind = "venv") -> ToolchainIdentity:
    """What a toolchain is, without making it. For `host` this starts a process.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits, or `host` has not what is needed.
    """
    pin_file = describe(name)
    if kind == "host":
        return _host_identity(pin_file)
    return _venv_identity(pin_file, os.environ.get("PATH", ""))


def _venv_identity(pin_file: PinFile, search: str) -> ToolchainIdentity:
    python = _minor(_fitting_python(pin_file.python, search))
    return ToolchainIdentity(name=pin_file.name, kind="venv", pins=(*pin_file.options, *pin_file.pins), python=python)


def location(wanted: ToolchainIdentity) -> Path:
    """Where a `venv` toolchain is, or would be."""
    return home.toolchains_dir() / f"{wanted.name}-{wanted.digest()[:DIGEST_LENGTH]}"


def ensure(wanted: ToolchainIdentity | str, log: Log = lambda _line: None) -> Toolchain:
    """The toolchain, made first if needed; whoever wants it at the same time waits for it.

    Args:
        wanted: its identity, or the name of a `venv` one.
        log: told what happens, line by line.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when it cannot be made; `transient` if the network was the reason.
    """
    if isinstance(wanted, str):
        wanted = identity(wanted)
    if wanted.kind == "host":
        return _host(wanted)
    if not is_ready(wanted):
        _create_once(wanted, log)
    return _venv(wanted)


def probe(toolchain: Toolchain) -> dict[str, str]:
    """The versions found in a toolchain when it was made: package -> version, and `python`."""
    if toolchain.identity.kind == "host":
        found = dict(pin.split("==", 1) for pin in toolchain.identity.pins)
        return {"python": toolchain.identity.python, **found}
    ready = json.loads((toolchain.directory / READY).read_text(encoding="utf-8"))
    return {str(name): str(version) for name, version in ready["probe"].items()}


def check(name: str) -> ToolchainReport:
    """Look into a `venv` toolchain and compare it with its pins.

    Raises:
        UsageError: when there is no such toolchain.
        CommandError: when its interpreter does not work.
    """
    wanted = identity(name)
    directory = location(wanted)
    if not is_ready(wanted):
        return ToolchainReport(name=name, directory=directory, created=False)
    pin_file = describe(name)
    found = _look(pin_file, _venv(wanted))
    return ToolchainReport(
        name=name,
        directory=directory,
        created=True,
        python=found.python,
        packages=found.packages,
        mismatches=tuple(_mismatches(pin_file, found)),
    )


def _venv(wanted: ToolchainIdentity) -> Toolchain:
    directory = location(wanted)
    binaries = directory / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])
    environment["VIRTUAL_ENV"] = str(directory)
    environment["PYTHONNOUSERSITE"] = "1"
    return Toolchain(wanted, directory, binaries / "python", environment)


def is_ready(wanted: ToolchainIdentity) -> bool:
    """Whether a `venv` toolchain is there and whole."""
    directory = location(wanted)
    return (directory / READY).is_file() and (directory / "bin" / "python").exists()


def _create_once(wanted: ToolchainIdentity, log: Log) -> None:
    from filelock import FileLock, Timeout  # noqa: PLC0415  only making one needs it

    directory = location(wanted)
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.with_name(f"{directory.name}.lock"))
    waited = 0.0
    while True:
        try:
            with lock.acquire(timeout=STILL_WAITING_SECONDS if waited else 0, poll_interval=LOCK_POLL_SECONDS):
                if not is_ready(wanted):
                    _create(wanted, log)
                return
        except Timeout:
            waited += STILL_WAITING_SECONDS
            log(f"waiting for another process that is making toolchain {wanted.name}")


def _create(wanted: ToolchainIdentity, log: Log) -> None:
    from enginery.venvs import create_venv  # noqa: PLC0415  a plan makes none

    pin_file = describe(wanted.name)
    directory = location(wanted)
    started = time.monotonic()
    log(f"making toolchain {wanted.name} in {directory} ({len(pin_file.pins)} packages)")
    interpreter = _fitting_python(f"=={wanted.python}.*", os.environ.get("PATH", ""))
    create_venv(directory, interpreter, wanted.pins, log)
    found = _look(pin_file, _venv(wanted))
    mismatches = _mismatches(pin_file, found)
    if mismatches:
        raise ToolchainError(
            f"was installed but is not what its pins say: {'; '.join(mismatches)}",
            subject=wanted.name,
            remedy=f"correct {pin_file.path}, or the pip configuration that led to this",
        )
    seconds = time.monotonic() - started
    ready = {
        "identity": wanted.model_dump(mode="json"),
        "probe": {"python": found.python, **dict(sorted(found.packages.items()))},
        "seconds": round(seconds, 1),
    }
    files.write_atomic(directory / READY, json.dumps(ready, indent=2))  # last: what has no such file is not ready
    log(f"toolchain {wanted.name} is ready ({seconds:.0f} s)")


def _look(pin_file: PinFile, toolchain: Toolchain) -> Probe:
    return probe_environment(toolchain.python, toolchain.environment, pin_file.probe)


def _mismatches(pin_file: PinFile, found: Probe) -> list[str]:
    differences = [
        f"{requirement.name} is {found.packages.get(requirement.name, 'missing')}, pinned is {requirement.specifier}"
        for requirement in pin_file.requirements()
        if _applies(requirement, found.python) and not _satisfied(requirement, found.packages.get(requirement.name))
    ]
    return differences + [f"module {name} cannot be imported ({why})" for name, why in found.broken.items()]


def _applies(requirement: Requirement, python: str) -> bool:
    if requirement.marker is None:
        return True
    environment = {**default_environment(), "python_full_version": python, "python_version": _minor(python)}
    return requirement.marker.evaluate({name: str(value) for name, value in environment.items()})


def _satisfied(requirement: Requirement, version: str | None) -> bool:
    # As for pip, 2.13.0+cpu satisfies ==2.13.0.
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _minor(version: str | Path) -> str:
    text = str(version) if isinstance(version, str) else _version_of(version, os.environ.get("PATH", ""))
    return ".".join(text.split(".")[:2])


def _fitting_python(wanted: str, search: str) -> Path:
    """An interpreter whose version is in the range: the one running this if it can be, else one on PATH."""
    versions = SpecifierSet(wanted)
    if versions.contains(_version_of(Path(sys.executable), search), prereleases=True):
        return Path(sys.executable)
    minors = [minor for minor in range(NEWEST_MINOR, 7, -1) if _may_contain(versions, minor)]
    for minor in minors:
        found = shutil.which(f"python3.{minor}", path=search)
        version = _version_of(Path(found), search) if found else ""
        if found and version and versions.contains(version, prereleases=True):
            return Path(found)
    raise ToolchainError(
        f"it needs Python {wanted}, and there is none on PATH",
        subject="python",
        remedy=f"install one, so that a command such as python3.{minors[-1] if minors else 11} is found",
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


def _host_identity(pin_file: PinFile) -> ToolchainIdentity:
    python = _host_python(pin_file.name)
    found = probe_environment(python, dict(os.environ), pin_file.probe)
    pinned = sorted(requirement.name for requirement in pin_file.requirements() if requirement.name in found.packages)
    if found.broken or not pinned:
        why = "; ".join(f"module {name} ({reason})" for name, reason in found.broken.items())
        raise ToolchainError(
            f"this machine does not have it: {python} lacks {why or 'every package that it pins'}",
            subject=pin_file.name,
            remedy="run this where it is installed, such as the release's container, or use the venv toolchain",
        )
    pins = tuple(f"{name}=={found.packages[name]}" for name in pinned)
    return ToolchainIdentity(name=pin_file.name, kind="host", pins=pins, python=_minor(found.python))


def _host(wanted: ToolchainIdentity) -> Toolchain:
    present = _host_identity(describe(wanted.name))
    if present != wanted:
        raise ToolchainError(
            "what is on this machine is not what the plan was made for",
            subject=wanted.name,
            remedy=f"plan again on this machine; it has Python {present.python} with {', '.join(present.pins)}",
        )
    python = _host_python(wanted.name)
    return Toolchain(wanted, python.parent, python, dict(os.environ))


def _host_python(name: str) -> Path:
    found = shutil.which("python3")
    if found is None:
        raise ToolchainError("there is no python3 on PATH", subject=name, remedy="install it, or correct PATH")
    return Path(found)
