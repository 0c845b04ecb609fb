"""Making a virtual environment from pins with the user's own pip and pip configuration."""

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from enginery import files, process
from enginery.errors import CommandError, ToolchainError
from enginery.failures import FailureCause
from enginery.process import Log

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
