"""Toolchains of the kind `host`: what is on PATH, such as on a worker inside NVIDIA's container."""

import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from packaging.version import Version

from enginery.core.errors import ToolchainError
from enginery.core.progress import Log
from enginery.toolchains.identity import Toolchain, ToolchainIdentity
from enginery.toolchains.pins import PACKAGE, PinFile, describe, release_of
from enginery.toolchains.probe import Probe, probe_environment
from enginery.toolchains.release_probe import release_found
from enginery.toolchains.venv import minor_of

ENGINE_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
"""What an engine depends on besides TensorRT-LLM itself; found under one of these names."""


@dataclass(frozen=True)
class Host(Toolchain):
    """What is on PATH. Its identity is what was found, so a plan for it is made where it runs."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """What is on PATH, with the versions found. This starts a process."""
        del image
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

    @classmethod
    def is_there(cls, wanted: ToolchainIdentity) -> bool:
        """Always: it was found when it was identified."""
        del wanted
        return True

    @classmethod
    def ensure(cls, wanted: ToolchainIdentity, log: Log) -> Self:
        """What is on PATH, if it is what is wanted."""
        del log
        present = cls.identify(wanted.name)
        if present != wanted:
            raise ToolchainError(
                "what is on this machine is not what the plan was made for",
                subject=wanted.name,
                remedy=f"plan again on this machine; it has Python {present.python} with {', '.join(present.pins)}",
            )
        return cls.opened(wanted)

    @classmethod
    def opened(cls, wanted: ToolchainIdentity) -> Self:
        """What is on PATH."""
        python = _python(wanted.name)
        return cls(wanted, python.parent, python, dict(os.environ))

    def facts(self) -> dict[str, str]:
        """Its versions, and what its release of TensorRT-LLM can do: asked once by each process."""
        versions = dict(pin.split("==", 1) for pin in self.identity.pins)
        found = _release_found(self.identity, self.environment.get("PATH", ""))
        return {"python": self.identity.python, **versions, **found}


@lru_cache
def _release_found(wanted: ToolchainIdentity, _path: str) -> dict[str, str]:
    """Asked once by each process, and not remembered longer: what is on PATH may change with the versions unchanged."""
    return release_found(Host.opened(wanted))


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
