"""Toolchains by name: list them, identify one, make it, and check it against its pins."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from packaging.version import Version

from enginery.core import home
from enginery.core.errors import ToolchainError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import Log, no_log
from enginery.toolchains import pins
from enginery.toolchains.identity import READY, Kind, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import PACKAGE, describe, release_of

if TYPE_CHECKING:
    from enginery.toolchains import container, host, release_probe, venv
else:
    container, host = late("enginery.toolchains.container"), late("enginery.toolchains.host")
    release_probe, venv = late("enginery.toolchains.release_probe"), late("enginery.toolchains.venv")


class Identify(Protocol):
    """The type of `identify`, so that a test can plan with another function."""

    def __hash__(self) -> int:
        """As functions have it: results can be remembered for one."""

    def __call__(self, name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
        """The identity of the toolchain with this name."""


class ToolchainReport(Frozen):
    """A toolchain compared with its pins.

    Attributes:
        directory: where it is, or would be.
        created: whether it is made.
        python: its Python's full version; empty if it is not made.
        packages: package -> installed version.
        mismatches: one sentence for each difference between it and its pins.
        verdict: for TensorRT-LLM, what it can do: `engine`, `checkpoint-only` or `unsupported`, and why.
        disagreements: for TensorRT-LLM, one sentence for each difference from what is recorded of the release.
    """

    name: str
    directory: Path
    created: bool
    python: str = ""
    packages: Mapping[str, str] = {}
    mismatches: tuple[str, ...] = ()
    verdict: str = ""
    disagreements: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is made, and is what its pins say."""
        return self.created and not self.mismatches


class ToolchainStatus(Frozen):
    """A toolchain in a list.

    Attributes:
        backend: the backend it is for; empty for none.
        release: the release that is pinned, of the backend or another tool; empty for none.
        created: whether it is made.
        directory: where it is, or would be.
    """

    name: str
    backend: str
    release: str
    created: bool
    directory: Path


def names() -> list[str]:
    """The names of the toolchains with pin files, and of the toolchains of TensorRT-LLM on this machine."""
    made = {identity.name for identity in _recorded() if release_of(identity.name)}
    return sorted({*pins.names(), *made})


def newest(family: str) -> str | None:
    """The name of the newest toolchain `<family>-<version>`; None if there is none."""
    found = [name for name in names() if name.rpartition("-")[0] == family]
    return max(found, key=lambda name: Version(name.rpartition("-")[2]), default=None)


def status(name: str) -> ToolchainStatus:
    """Whether a `venv` or `container` toolchain is made, without starting anything in it.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits.
    """
    pin_file, identity = describe(name), _made_or_venv(name)
    return ToolchainStatus(
        name=name,
        backend=pin_file.backend,
        release=pin_file.release,
        created=_is_ready(identity),
        directory=location(identity),
    )


def identify(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
    """The identity of a toolchain, without making it. For `host` this starts a process.

    Args:
        name: a pin file's name, or `tensorrt-llm-<release>`.
        kind: the kind of toolchain.
        image: for `container`, an image to be used instead of the known one.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when no Python on this machine fits, no image is known, or `host` lacks a package.
    """
    return _class_of(kind).identify(name, image)


def ensure(toolchain: ToolchainIdentity | str, log: Log = no_log) -> Toolchain:
    """The toolchain, made first if needed. While one process makes it, others that want it wait.

    Args:
        toolchain: its identity, or the name of a `venv` toolchain.
        log: called with what happens, line by line.

    Raises:
        UsageError: when there is no such toolchain.
        ToolchainError: when it cannot be made; `transient` if the network was the reason.
    """
    identity = identify(toolchain) if isinstance(toolchain, str) else toolchain
    return _class_of(identity.kind).ensure(identity, log)


def known_facts(toolchain: Toolchain) -> dict[str, str]:
    """The recorded facts of a toolchain, without a new probe: package -> version, and `python`.

    For TensorRT-LLM there are more: what it can do (`verdict`), how that differs from what is recorded of the release
    (`disagreements`), and the `gpu` and `driver` of this machine. A `host` is probed once in each process.
    """
    if not toolchain.identity.version(PACKAGE):
        return toolchain.facts()
    return toolchain.facts() | release_probe.machine_facts(toolchain.environment)


def check(name: str, kind: Kind | None = None) -> ToolchainReport:
    """Compare what is in a toolchain with its pins.

    Args:
        name: the toolchain.
        kind: its kind. When left out, the first kind that is ready: `venv`, `container`, or `host` (TensorRT-LLM only).

    Raises:
        UsageError: when there is no such toolchain.
        CommandError: when its interpreter does not work.
        ToolchainError: when `host` lacks a package.
    """
    identity = identify(name, kind) if kind else _present(name)
    if not _is_ready(identity):
        return ToolchainReport(name=name, directory=location(identity), created=False)
    toolchain = ensure(identity)
    found = toolchain.probe()
    probed = release_probe.probe_release(toolchain) if identity.version(PACKAGE) else None
    reason = f" ({probed.reason})" if probed and probed.reason else ""
    return ToolchainReport(
        name=name,
        directory=toolchain.directory,
        created=True,
        python=found.python,
        packages=found.installed,
        mismatches=tuple(toolchain.mismatches(found)),
        verdict=f"{probed.verdict}{reason}" if probed else "",
        disagreements=probed.disagreements if probed else (),
    )


def _made_or_venv(name: str) -> ToolchainIdentity:
    """The ready `venv` or `container` of that name; if there is none, the `venv` that would be made."""
    images = [identity for identity in _recorded() if identity.name == name and identity.kind == "container"]
    try:
        identity = identify(name)
    except ToolchainError:  # this machine has no suitable Python, and an image brings its own
        if not images:
            raise
        return images[0]
    return images[0] if images and not _is_ready(identity) else identity


def _present(name: str) -> ToolchainIdentity:
    """The toolchain of that name on this machine; if there is none, the `venv` that would be made."""
    identity = _made_or_venv(name)
    if _is_ready(identity) or not release_of(name):
        return identity
    try:
        return host.Host.identify(name)
    except ToolchainError:
        return identity


def _is_ready(identity: ToolchainIdentity) -> bool:
    return _class_of(identity.kind).is_ready(identity)


def _recorded() -> Iterator[ToolchainIdentity]:
    """The toolchains that were made on this machine."""
    for path in sorted(home.toolchains_dir().glob(f"*/{READY}")):
        yield ToolchainIdentity.model_validate(json.loads(path.read_text(encoding="utf-8"))["identity"])


def _class_of(kind: Kind) -> type[Toolchain]:
    if kind == "venv":
        return venv.Venv
    return host.Host if kind == "host" else container.Container
