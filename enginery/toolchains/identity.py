"""What a toolchain is: its identity, which is part of the key of every step that uses it, and one ready for use."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from enginery.core import home, process
from enginery.core.digests import json_digest
from enginery.core.model import Frozen
from enginery.core.process import Completed
from enginery.core.progress import Log

Kind = Literal["host", "venv", "container"]

DIGEST_LENGTH = 12
READY = "ready.json"
"""Written last into a toolchain's directory: its identity, and what was found in it."""


class ToolchainIdentity(Frozen):
    """What makes a toolchain this one and no other.

    Attributes:
        name: the pin file's name, or `tensorrt-llm-<release>`.
        kind: `venv`, made from the pins; `container`, an image; or `host`, found on PATH.
        pins: packages with versions, and the options they are installed with; for `host`, the versions found.
        python: the interpreter's minor version, such as `3.11`; empty for a `container` that leaves it to its image.
        image: the image as it is named without this machine's registry; for `container` only.
    """

    name: str
    kind: Kind
    pins: tuple[str, ...]
    python: str
    image: str = ""

    def digest(self) -> str:
        """SHA-256 of the identity, 64 hex digits."""
        return _digest(self)

    def version(self, package: str) -> str:
        """The version of a package among the pins; empty when it is not among them."""
        found = (pin.partition("==") for pin in self.pins)
        return next((version.partition(" ")[0] for name, _, version in found if name == package), "")


@lru_cache
def _digest(wanted: ToolchainIdentity) -> str:
    # Without what is not set: a new field must not change the keys of toolchains that do not have it.
    return json_digest(wanted.model_dump(mode="json", exclude_defaults=True))


def location(wanted: ToolchainIdentity) -> Path:
    """Where a `venv` toolchain is or would be; for a `container`, what is remembered of its image."""
    return home.toolchains_dir() / f"{wanted.name}-{wanted.digest()[:DIGEST_LENGTH]}"


@dataclass(frozen=True)
class Access:
    """What a command is to reach. Only a container keeps it from everything else.

    Attributes:
        name: tells people what runs, such as a step's key.
        read_only: directories and files that it reads.
        read_write: directories that it writes to.
        network: whether it reaches the network.
    """

    name: str
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    network: bool = False


@dataclass(frozen=True)
class Toolchain(ABC):
    """A toolchain that is ready for use: a `Venv`, a `Host` or a `Container`.

    Attributes:
        identity: what it is.
        directory: where its environment is; for `host`, the directory of its interpreter; for `container`, what is
            remembered of its image.
        python: its interpreter.
        environment: the whole environment for its commands, inherited from this process apart from what would
            let other Python environments in; for `container`, the one that `docker` itself is started with.
        image: the image as this machine's docker knows it; for `container` only.
    """

    identity: ToolchainIdentity
    directory: Path
    python: Path
    environment: dict[str, str]
    image: str = ""

    @classmethod
    @abstractmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The identity of the toolchain with this name, without making it.

        Args:
            name: a pin file's name, or `tensorrt-llm-<release>`.
            image: for `container`, an image to be used instead of the known one.

        Raises:
            UsageError: when there is no such toolchain.
            ToolchainError: when this machine cannot have it.
        """

    @classmethod
    @abstractmethod
    def is_there(cls, wanted: ToolchainIdentity) -> bool:
        """Whether it is ready on this machine; nothing is started to find out."""

    @classmethod
    @abstractmethod
    def ensure(cls, wanted: ToolchainIdentity, log: Log) -> Self:
        """The toolchain, made first if needed; whoever wants it at the same time waits for it.

        Raises:
            ToolchainError: when it cannot be had; `transient` if the network was the reason.
        """

    @property
    def neutral_directory(self) -> Path:
        """A working directory in which no module is found by accident."""
        return Path("/")

    def facts(self) -> dict[str, str]:
        """What was found when it was made: package -> version, `python`, and what a release can do."""
        ready = json.loads((self.directory / READY).read_text(encoding="utf-8"))
        return {str(name): str(version) for name, version in ready["probe"].items()}

    def run(  # noqa: PLR0913  what a command may see and take
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        access: Access,
        cwd: Path | None,
        log: Log,
        timeout: float | None,
    ) -> Completed:
        """Run a command in it.

        Args:
            argv: the command.
            environment: variables besides the toolchain's own.
            access: what it is to reach.
            cwd: its working directory; when left out this process's own, and in a container the first directory that
                it may write to.
            log: called with each line.
            timeout: seconds it may take; None for no limit.

        Raises:
            CommandError: when it cannot be started, fails, or takes too long.
        """
        del access  # a command on this machine reaches what its user does
        return process.run(argv, env={**self.environment, **environment}, cwd=cwd, log=log, timeout=timeout)
