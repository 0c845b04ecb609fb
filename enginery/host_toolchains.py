"""Toolchains of the kind `host`: what is on PATH, such as on a worker inside NVIDIA's container."""

import os
import shutil
from functools import lru_cache
from pathlib import Path

from packaging.version import Version

from enginery.asking import release_found
from enginery.errors import ToolchainError
from enginery.pins import PinFile, describe
from enginery.probing import Probe, probe_environment
from enginery.pythons import minor_of
from enginery.release_pins import PACKAGE, release_of
from enginery.toolchain_types import Toolchain, ToolchainIdentity

ENGINE_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
"""What an engine depends on besides TensorRT-LLM itself; found under one of these names."""


def host_identity(name: str) -> ToolchainIdentity:
    """What is on PATH, with the versions found. This starts a process.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when what is needed is not there, or is another release of TensorRT-LLM.
    """
    pin_file = describe(name)
    python = _python(name)
    found = probe_environment(python, dict(os.environ), pin_file.probe)
    versions = found.with_modules(pin_file.probe)
    wanted = {requirement.name for requirement in pin_file.requirements()}
    if release_of(name):
        wanted |= set(ENGINE_PACKAGES)
    pins = tuple(f"{package}=={versions[package]}" for package in sorted(wanted & set(versions)))
    if found.broken or not pins:
        raise _not_there(pin_file, python, found)
    _require_release(name, versions.get(PACKAGE, ""), python)
    return ToolchainIdentity(name=name, kind="host", pins=pins, python=minor_of(found.python))


def open_host(wanted: ToolchainIdentity) -> Toolchain:
    """What is on PATH, if it is what is wanted.

    Raises:
        ToolchainError: when it is not.
    """
    present = host_identity(wanted.name)
    if present != wanted:
        raise ToolchainError(
            "what is on this machine is not what the plan was made for",
            subject=wanted.name,
            remedy=f"plan again on this machine; it has Python {present.python} with {', '.join(present.pins)}",
        )
    python = _python(wanted.name)
    return Toolchain(wanted, python.parent, python, dict(os.environ))


def host_found(toolchain: Toolchain) -> dict[str, str]:
    """What is known of a host: its versions, and what its release of TensorRT-LLM can do."""
    versions = dict(pin.split("==", 1) for pin in toolchain.identity.pins)
    here = toolchain.environment.get("PATH", "")
    return {"python": toolchain.identity.python, **versions, **_release_found(toolchain.identity, here)}


@lru_cache
def _release_found(wanted: ToolchainIdentity, _path: str) -> dict[str, str]:
    """Asked once by each process, and not remembered longer: what is on PATH may change with the versions unchanged."""
    python = _python(wanted.name)
    return release_found(Toolchain(wanted, python.parent, python, dict(os.environ)))


def _require_release(name: str, found: str, python: Path) -> None:
    """Two releases' engines cannot be told apart by their files, so the one asked for must be the one that is used."""
    release = release_of(name)
    if release is None or Version(found).public == Version(release).public:
        return
    raise ToolchainError(
        f"{python} has TensorRT-LLM {found}, asked for is {release}",
        subject=name,
        remedy=f"run this where {release} is installed, set the target's release to {found}, or let toolchain: venv"
        " or container bring the release along",
    )


def _not_there(pin_file: PinFile, python: Path, found: Probe) -> ToolchainError:
    why = "; ".join(f"module {name} ({reason})" for name, reason in found.broken.items())
    return ToolchainError(
        f"this machine does not have it: {python} lacks {why or 'every package that it pins'}",
        subject=pin_file.name,
        remedy="run this where it is installed, such as the release's container, or use the venv toolchain",
    )


def _python(name: str) -> Path:
    found = shutil.which("python3")
    if found is None:
        raise ToolchainError("there is no python3 on PATH", subject=name, remedy="install it, or correct PATH")
    return Path(found)
