"""Toolchains of the kind `host`: the Python on PATH and its packages, as on a worker inside NVIDIA's container."""

import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from enginery.core.errors import ToolchainError
from enginery.core.progress import Log
from enginery.core.versions import same
from enginery.toolchains.identity import Toolchain, ToolchainIdentity
from enginery.toolchains.pins import PACKAGE, TENSORRT_PACKAGES, PinFile, describe, minor_of, release_of
from enginery.toolchains.probe import Probe, probe_environment
from enginery.toolchains.release_probe import probed_facts


@dataclass(frozen=True)
class Host(Toolchain):
    """What is on PATH. The identity has the versions found there, so the machine that runs the steps must plan them."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:  # noqa: ARG003  for containers
        """The identity, with the versions found on PATH. This starts a process."""
        pin_file = describe(name)
        python = _python(name)
        found = probe_environment(python, dict(os.environ), pin_file.probe)
        versions = found.installed
        required = {requirement.name for requirement in pin_file.requirements()}
        if release_of(name):
            required |= set(TENSORRT_PACKAGES)  # an engine depends on it too
        pins = tuple(f"{package}=={versions[package]}" for package in sorted(required & set(versions)))
        if found.broken or not pins:
            raise _missing(pin_file, python, found)
        _require_release(name, versions.get(PACKAGE, ""), python)
        return ToolchainIdentity(name=name, kind="host", pins=pins, python=minor_of(found.python))

    @classmethod
    def is_ready(cls, identity: ToolchainIdentity) -> bool:  # noqa: ARG003  true for each
        """Always true: `identify` has found it."""
        return True

    @classmethod
    def ensure(cls, identity: ToolchainIdentity, log: Log) -> Self:  # noqa: ARG003  nothing is made
        """The toolchain, if what is on PATH still has the versions of the identity."""
        present = cls.identify(identity.name)
        if present != identity:
            raise ToolchainError(
                "what is on this machine is not what the plan was made for",
                subject=identity.name,
                remedy=f"plan again on this machine; it has Python {present.python} with {', '.join(present.pins)}",
            )
        return cls.opened(identity)

    @classmethod
    def opened(cls, identity: ToolchainIdentity) -> Self:
        """The toolchain, without a check of its versions."""
        python = _python(identity.name)
        return cls(identity, python.parent, python, dict(os.environ))

    def facts(self) -> dict[str, str]:
        """Its versions, and what its release of TensorRT-LLM can do. Each process finds this out once."""
        versions = dict(pin.split("==", 1) for pin in self.identity.pins)
        return {"python": self.identity.python, **versions, **_facts(self.identity, self.environment.get("PATH", ""))}

    def mismatches(self, found: Probe) -> list[str]:  # noqa: ARG002  not needed
        """Always empty: `identify` raises an error if a required package is missing, and any version will do."""
        return []


@lru_cache
def _facts(identity: ToolchainIdentity, _path: str) -> dict[str, str]:
    """Cached in this process only, because what is on PATH may change while the versions stay the same."""
    return probed_facts(Host.opened(identity))


def _require_release(name: str, found: str, python: Path) -> None:
    """Refuse another release than the one in the name: an engine's files do not say which release has made them."""
    release = release_of(name)
    if release is None or same(found, release):
        return
    raise ToolchainError(
        f"{python} has TensorRT-LLM {found}, but {release} is needed",
        subject=name,
        remedy=f"run this where {release} is installed, set the target's release to {found}, or use toolchain: venv"
        " or container, which have the release",
    )


def _missing(pin_file: PinFile, python: Path, found: Probe) -> ToolchainError:
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
