"""What a toolchain is: its identity, which is part of the key of every step that uses it, and one ready for use."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from enginery import home
from enginery.digests import json_digest
from enginery.steps import Frozen

Kind = Literal["host", "venv", "container"]

DIGEST_LENGTH = 12


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
class Toolchain:
    """A toolchain that is ready for use.

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
