"""Toolchains of the kind `venv`: made on demand from pins, once for everybody on the machine."""

import json
import os
import time

from enginery import files
from enginery.asking import look_into, release_found
from enginery.context import Log
from enginery.errors import ToolchainError
from enginery.pins import describe
from enginery.probing import mismatches
from enginery.pythons import fitting_python
from enginery.toolchain_types import Toolchain, ToolchainIdentity, location

READY = "ready.json"
LOCK_POLL_SECONDS = 0.2
STILL_WAITING_SECONDS = 20.0
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
"""Variables that would let another environment in; and the one that makes every import compile everything again."""


def ensure_venv(wanted: ToolchainIdentity, log: Log) -> Toolchain:
    """The toolchain, made first if needed; whoever wants it at the same time waits for it.

    Raises:
        ToolchainError: when it cannot be made; `transient` if the network was the reason.
    """
    if not is_ready(wanted):
        _create_once(wanted, log)
    return opened(wanted)


def is_ready(wanted: ToolchainIdentity) -> bool:
    """Whether it is there and whole."""
    directory = location(wanted)
    return (directory / READY).is_file() and (directory / "bin" / "python").exists()


def opened(wanted: ToolchainIdentity) -> Toolchain:
    """The toolchain that is ready."""
    directory = location(wanted)
    binaries = directory / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment["PATH"] = os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])
    environment["VIRTUAL_ENV"] = str(directory)
    environment["PYTHONNOUSERSITE"] = "1"
    return Toolchain(wanted, directory, binaries / "python", environment)


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
    interpreter = fitting_python(f"=={wanted.python}.*", os.environ.get("PATH", ""), wanted.name)
    log(f"making toolchain {wanted.name} in {directory} ({len(pin_file.pins)} packages)")
    create_venv(directory, interpreter, wanted.pins, log)
    found = look_into(opened(wanted), pin_file.probe)
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
        "probe": found.versions | release_found(opened(wanted)),
        "seconds": round(seconds, 1),
    }
    files.write_atomic(directory / READY, json.dumps(ready, indent=2))  # last: what has no such file is not ready
    log(f"toolchain {wanted.name} is ready ({seconds:.0f} s)")
