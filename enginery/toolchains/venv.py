"""Toolchains of the kind `venv`: made on demand from pins, once for everybody on the machine.

They are made with a Python of this machine, and with the user's own pip and pip configuration.
"""

import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from packaging.specifiers import SpecifierSet

from enginery.core import files, process
from enginery.core.errors import CommandError, ToolchainError
from enginery.core.late import late
from enginery.core.locks import waiting_lock
from enginery.core.progress import Log
from enginery.core.text import indented
from enginery.toolchains.identity import READY, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import describe, fixed_minor, minor_of
from enginery.toolchains.probe import probe_environment

if TYPE_CHECKING:
    import psutil

    from enginery.toolchains import release_probe
else:
    psutil, release_probe = late("psutil"), late("enginery.toolchains.release_probe")

NEWEST_MINOR = 30
CREATE_SECONDS = 300.0
INSTALL_SECONDS = 3600.0
STRAY_SECONDS = 15.0
REQUIREMENTS = "pins.txt"
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
"""Variables that would mix in another environment, and one that lets each process compile its imports again."""
STUB = re.compile(r"wheel_stub|nvidia[-_]stub|(Downloading|Using cached) \S*tensorrt[-_]llm-\S*\.tar\.gz")
"""Signs of a stub in pip's output. The public index has only source packages of NVIDIA's wheels, called stubs. A stub
downloads the wheel from NVIDIA's own index, or names that index. An older one (0.8.0) fails in its setup script."""
NAMED_INDEX = re.compile(r"--(?:extra-)?index-url[ =](\S+)")
NETWORK = re.compile(
    r"[Cc]onnection (broken|refused|reset|aborted|timed out)|NewConnectionError|ConnectTimeout|Read timed out"
    r"|ReadTimeout|Temporary failure in name resolution|Name or service not known|Network is unreachable"
    r"|ProxyError|IncompleteRead|(HTTP error|Server Error|status code) ?:? ?(429|5\d\d)|5\d\d Server Error"
)


@dataclass(frozen=True)
class Venv(Toolchain):
    """A virtual environment, made from pins once for everybody on the machine."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:  # noqa: ARG003  for containers
        """The identity: the pins, and the minor version of the Python on this machine that would be used."""
        pin_file = describe(name)
        # An interpreter is looked for only if the range leaves a choice.
        python = fixed_minor(pin_file.python) or minor_of(_version_of(_find_python(pin_file.python, name)))
        return ToolchainIdentity(name=name, kind="venv", pins=(*pin_file.options, *pin_file.pins), python=python)

    @classmethod
    def is_ready(cls, identity: ToolchainIdentity) -> bool:
        """Whether it was made completely, and its interpreter still exists."""
        directory = location(identity)
        return (directory / READY).is_file() and (directory / "bin" / "python").exists()

    @classmethod
    def ensure(cls, identity: ToolchainIdentity, log: Log) -> Self:
        """The toolchain. If needed, its environment is made first."""
        toolchain = cls.opened(identity)
        if not cls.is_ready(identity):
            lock = toolchain.directory.with_name(f"{toolchain.directory.name}.lock")
            why = f"waiting for another process that is making toolchain {identity.name}"
            with waiting_lock(lock, why, log, every=20.0):
                if not cls.is_ready(identity):
                    _create(toolchain, log)
        return toolchain

    @classmethod
    def opened(cls, identity: ToolchainIdentity) -> Self:
        """The toolchain in its directory, ready or not."""
        directory = location(identity)
        binaries = directory / "bin"
        environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        environment["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])
        environment["VIRTUAL_ENV"] = str(directory)
        environment["PYTHONNOUSERSITE"] = "1"
        return cls(identity, directory, binaries / "python", environment)


def _find_python(versions: str, subject: str) -> Path:
    """An interpreter whose version is in the range: the one that runs Enginery if possible, else one on PATH."""
    allowed = SpecifierSet(versions)
    minors = [minor for minor in range(NEWEST_MINOR, 7, -1) if _may_contain(allowed, minor)]
    for found in (sys.executable, *(shutil.which(f"python3.{minor}") for minor in minors)):
        version = _version_of(Path(found)) if found else ""
        if found and version and allowed.contains(version, prereleases=True):
            return Path(found)
    command = f"python3.{minors[-1] if minors else 11}"
    raise ToolchainError(
        f"it needs Python {versions}, and there is none on PATH",
        subject=subject,
        remedy=f"install one (your system's packages {command} and {command}-venv, pyenv or uv), so that the command"
        f" {command} is found; a toolchain of kind container needs none",
    )


def _may_contain(versions: SpecifierSet, minor: int) -> bool:
    return versions.contains(f"3.{minor}.0") or versions.contains(f"3.{minor}.99")


@lru_cache
def _version_of(python: Path) -> str:
    """The version of an interpreter; empty when it does not work (a shim without a Python behind it)."""
    if python == Path(sys.executable):
        return ".".join(str(part) for part in sys.version_info[:3])
    try:
        return probe_environment(python, {"PATH": os.environ.get("PATH", "")}).python
    except CommandError:
        return ""


def _create(toolchain: Venv, log: Log) -> None:
    name, directory, pin_file = toolchain.identity.name, toolchain.directory, describe(toolchain.identity.name)
    started = time.monotonic()
    interpreter = _find_python(f"=={toolchain.identity.python}.*", name)
    log(f"making toolchain {name} in {directory} ({len(pin_file.pins)} packages)")
    _install(toolchain, interpreter, log)
    found = toolchain.probe()
    differences = toolchain.mismatches(found)
    if differences:
        raise ToolchainError(
            f"was installed but is not what its pins say: {'; '.join(differences)}",
            subject=name,
            remedy=f"correct {pin_file.path or 'your pins'}, or the pip configuration that led to this",
        )
    facts = found.versions | release_probe.probed_facts(toolchain)
    seconds = time.monotonic() - started
    toolchain.record(facts, seconds=round(seconds, 1))
    log(f"toolchain {name} is ready ({seconds:.0f} s)")


def _install(toolchain: Venv, interpreter: Path, log: Log) -> None:
    """Make the environment in its final place, because it cannot be moved, and install its pins."""
    directory, name = toolchain.directory, toolchain.identity.name
    if directory.exists():
        log(f"removing what an interrupted creation left in {directory}")
        _await_strays(directory)
        files.remove_tree(directory)
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        log(line)

    try:
        _run_pip(toolchain, interpreter, keep)
    except CommandError as error:
        raise (stub_error(lines, name) or _pip_error(error, name)) from error


def _run_pip(toolchain: Venv, interpreter: Path, log: Log) -> None:
    directory, pins = toolchain.directory, toolchain.identity.pins
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment = {**kept, "PIP_USER": "0", "PYTHONNOUSERSITE": "1"}
    # Installing pip there takes seconds. It is needed only if Enginery's own environment has no pip.
    needs_pip = importlib.util.find_spec("pip") is None
    argv = [str(interpreter), "-m", "venv", *([] if needs_pip else ["--without-pip"]), str(directory)]
    process.run(argv, env=environment, log=log, timeout=CREATE_SECONDS)
    requirements = directory / REQUIREMENTS
    files.write_atomic(requirements, "".join(f"{pin}\n" for pin in pins if not pin.startswith("--")))
    python = str(toolchain.python)
    pip = [python, "-m", "pip"] if needs_pip else [sys.executable, "-m", "pip", "--python", python]
    # Compiling every file would take longer than everything else. Python compiles each file at its first import.
    pip += ["install", "--no-compile", "--disable-pip-version-check", "--no-input"]
    pip += [*(pin for pin in pins if pin.startswith("--")), "-r", str(requirements)]
    process.run(pip, env=environment, log=log, timeout=INSTALL_SECONDS)


def stub_error(lines: Sequence[str], name: str) -> ToolchainError | None:
    """The error for an index that has only a stub of a package; None when pip's output has no sign of a stub."""
    if not any(STUB.search(line) for line in lines):
        return None
    indexes = [found[1] for line in lines if not line.startswith("Looking in") and (found := NAMED_INDEX.search(line))]
    index = f"{indexes[0]} (the stub names it)" if indexes else "NVIDIA's index of Python packages, or a mirror of it"
    return ToolchainError(
        "could not be made: your package index has only a stub of TensorRT-LLM or TensorRT, not the wheel itself",
        subject=name,
        remedy=f"add {index} to your own pip configuration (pip config set global.extra-index-url …), or use a"
        " toolchain of kind container or host",
    )


def _pip_error(error: CommandError, name: str) -> ToolchainError:
    known = process.FailureCause
    network = any(NETWORK.search(line) for line in error.last_lines)
    remedy = "read pip's last lines above, and check your pip configuration (pip config list)"
    if network:
        remedy = "check the network, the proxy and the index in your pip configuration, then try again"
    elif error.cause in {known.DISK_FULL, known.TIMEOUT, known.HOST_MEMORY}:
        remedy = error.remedy
    problem = f"could not be made: {error.problem}{indented(error.last_lines)}"
    return ToolchainError(problem, subject=name, remedy=remedy, transient=network)


def _await_strays(directory: Path) -> None:
    """Wait for commands that still run in `directory`. If their parent was killed, its supervisor ends them soon."""
    strays = [found for found in psutil.process_iter(["cmdline"]) if _runs_in(found, directory)]
    psutil.wait_procs(strays, timeout=STRAY_SECONDS)


def _runs_in(candidate: "psutil.Process", directory: Path) -> bool:
    words = candidate.info["cmdline"] or []
    return candidate.pid != os.getpid() and any(word.startswith(f"{directory}{os.sep}") for word in words)
