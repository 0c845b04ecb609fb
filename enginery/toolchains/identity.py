"""The identity of a toolchain, and the base class of a toolchain that is ready for use.

The identity is part of the key of every step that runs in the toolchain.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from enginery.core import files, home, process
from enginery.core.digests import json_digest
from enginery.core.model import Frozen
from enginery.core.progress import Log, no_log
from enginery.toolchains.pins import describe
from enginery.toolchains.probe import SCRIPT, Probe, mismatches, read_probe

Kind = Literal["host", "venv", "container"]

DIGEST_LENGTH = 12
PROBE_SECONDS = 900.0
"""A first `import tensorrt_llm` from a cold network disk takes minutes."""
READY = "ready.json"
"""The file with a toolchain's identity and facts. It is written last: without it the toolchain is not ready."""


class ToolchainIdentity(Frozen):
    """What determines a toolchain: if anything here differs, it is another toolchain.

    Attributes:
        name: the pin file's name, or `tensorrt-llm-<release>`.
        kind: `venv`, made from the pins; `container`, an image; or `host`, found on PATH.
        pins: packages with versions, and the options they are installed with; for `host`, the versions found.
        python: the interpreter's minor version, such as `3.11`; empty for a `container` that leaves it to its image.
        image: the image's name without this machine's registry; for `container` only.
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

    def set_fields(self) -> dict[str, object]:
        """The fields as JSON values, without fields that have their default. So a new field changes no existing key."""
        return self.model_dump(mode="json", exclude_defaults=True)


@lru_cache
def _digest(identity: ToolchainIdentity) -> str:
    return json_digest(identity.set_fields())


def location(identity: ToolchainIdentity) -> Path:
    """The directory of a `venv` toolchain, made or not; for a `container`, where the facts of its image are kept."""
    return home.toolchains_dir() / f"{identity.name}-{identity.digest()[:DIGEST_LENGTH]}"


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a command gets and may reach. Only a container keeps the command from everything else.

    Attributes:
        name: says what runs, such as a step's key.
        environment: variables besides the toolchain's own.
        cwd: the working directory. When left out: that of this process, or in a container the first directory in
            `read_write`.
        read_only: directories and files that it reads.
        read_write: directories that it writes to.
        network: whether it reaches the network.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    network: bool = False


@dataclass(frozen=True)
class Toolchain(ABC):
    """A toolchain that is ready for use: a `Venv`, a `Host` or a `Container`.

    Attributes:
        directory: where its environment is; for `host`, the directory of its interpreter; for `container`, where the
            facts of its image are kept.
        python: its interpreter.
        environment: the whole environment for its commands: that of this process, without the variables that would
            let other Python environments in; for `container`, the one that `docker` itself is started with.
        image: the image with this machine's registry; for `container` only.
    """

    identity: ToolchainIdentity
    directory: Path
    python: Path
    environment: dict[str, str]
    image: str = ""

    @classmethod
    @abstractmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The identity of the toolchain with this name, without making it. A `container` can have another `image`."""

    @classmethod
    @abstractmethod
    def is_ready(cls, identity: ToolchainIdentity) -> bool:
        """Whether it is ready on this machine; nothing is started to find out."""

    @classmethod
    @abstractmethod
    def ensure(cls, identity: ToolchainIdentity, log: Log) -> Self:
        """The toolchain, made first if needed. While one process makes it, others that want it wait."""

    @property
    def neutral_directory(self) -> Path:
        """A working directory from which Python imports nothing by accident."""
        return Path("/")

    def facts(self) -> dict[str, str]:
        """What was found when it was made: package -> version, `python`, and what a release can do."""
        ready = json.loads((self.directory / READY).read_text(encoding="utf-8"))
        return {str(name): str(version) for name, version in ready["probe"].items()}

    def record(self, facts: Mapping[str, str], **more: object) -> None:
        """Write down the facts, and `more` for people. From then on the toolchain is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        ready = {"identity": self.identity.set_fields(), **more, "probe": dict(facts)}
        files.write_atomic(self.directory / READY, json.dumps(ready, indent=2))

    def mismatches(self, found: Probe) -> list[str]:
        """One sentence for each difference between what was found in it and its pins."""
        return mismatches(describe(self.identity.name).requirements(), found)

    def probe(self, log: Log = no_log, modules: Sequence[str] | None = None) -> Probe:
        """Find out which Python and packages it has, and whether the modules (of its pin file) can be imported.

        Raises:
            CommandError: when its Python does not work.
        """
        if modules is None:
            modules = describe(self.identity.name).probe
        return read_probe(self.output((str(self.python), "-c", SCRIPT, *modules), log))

    def output(self, argv: Sequence[str], log: Log = no_log) -> list[str]:
        """Every line that a short command prints. The command runs in the neutral directory.

        In a container it gets this machine's GPUs, the shared home directory, and no network.

        Raises:
            CommandError: when it cannot be started or fails.
        """
        lines: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            log(line)

        self.run(argv, Access(name="ask", cwd=self.neutral_directory), keep, PROBE_SECONDS)
        return lines[1:]  # the first is the command itself

    def run(self, argv: Sequence[str], access: Access, log: Log, timeout: float | None) -> "process.Completed":
        """Run a command in the toolchain, for at most `timeout` seconds.

        Raises:
            CommandError: when it cannot be started, fails, or takes too long.
        """
        environment = {**self.environment, **access.environment}
        return process.run(argv, env=environment, cwd=access.cwd, log=log, timeout=timeout)
