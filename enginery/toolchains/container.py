"""Toolchains of the kind `container`: each command runs with `docker run` in the release's image."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from packaging.specifiers import SpecifierSet

from enginery.core.errors import ToolchainError
from enginery.core.process import Completed
from enginery.core.progress import Log
from enginery.toolchains.docker import PYTHON, Box, container_home, gpus_argument, image_id, pull, reference, run_box
from enginery.toolchains.examples import checkout_examples, image_examples
from enginery.toolchains.identity import READY, Access, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import ANY_PYTHON, describe, fixed_minor, no_image
from enginery.toolchains.probe import Probe
from enginery.toolchains.release_probe import probed_facts


@dataclass(frozen=True)
class Container(Toolchain):
    """A release's image. Each command gets a container of its own, which is removed afterwards."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The image that is known for the release, or `image`; nothing is looked for on this machine."""
        pin_file = describe(name)
        if not (image or pin_file.image):
            raise no_image(name)
        # The image brings its Python; this machine's interpreters have no say.
        python = "" if image else fixed_minor(pin_file.python)
        pins = (*pin_file.options, *pin_file.pins)
        return ToolchainIdentity(name=name, kind="container", pins=pins, python=python, image=image or pin_file.image)

    @classmethod
    def is_ready(cls, identity: ToolchainIdentity) -> bool:
        """Whether the image was inspected before."""
        return (location(identity) / READY).is_file()

    @classmethod
    def ensure(cls, identity: ToolchainIdentity, log: Log) -> Self:
        """The image, pulled and inspected first if that was not done before."""
        image = reference(identity.image)
        toolchain = cls(identity, location(identity), Path(PYTHON), dict(os.environ), image)
        if shutil.which("docker") is None:
            raise ToolchainError(
                "a toolchain of kind container needs docker, and there is no such command on PATH",
                subject=identity.name,
                remedy="install Docker with NVIDIA's container toolkit, or use the kind venv or host",
            )
        found = image_id(image) or pull(image, identity.name, log)
        if _recorded_image(toolchain.directory) != found:
            _inspect(toolchain, found, log)
        return toolchain

    @property
    def neutral_directory(self) -> Path:
        """The home directory that all containers share."""
        return container_home()

    def mismatches(self, found: Probe) -> list[str]:
        """The differences from its pins, and from the Python version that is expected."""
        differences = super().mismatches(found)
        python = self._expected_python()
        if not SpecifierSet(python).contains(found.python, prereleases=True):
            differences.append(f"Python is {found.python}, expected is {python}")
        return differences

    def run(  # noqa: PLR0913  as in `Toolchain`
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        access: Access,
        cwd: Path | None,
        log: Log,
        timeout: float | None,
    ) -> Completed:
        """Run a command in a container of its own; it sees what `access` names, each directory at its own path."""
        box = self.box(access, environment, cwd)
        return run_box(box, argv, environment=self.environment, log=log, timeout=timeout)

    def box(self, access: Access, environment: Mapping[str, str], cwd: Path | None) -> Box:
        """What the container of one command is given."""
        workdir = cwd or next(iter(access.read_write), self.neutral_directory)
        # A path that is not on this machine is one inside the image.
        present = tuple(path for path in access.read_only if path.is_absolute() and path.exists())
        return Box(
            image=self.image,
            name_hint=access.name,
            home=container_home(),
            gpus=gpus_argument({**self.environment, **environment}),
            network=access.network,
            read_only=(*present, *self._checkout()) if access.read_only else (),
            read_write=tuple(dict.fromkeys((*access.read_write, workdir))) if access.read_write else (),
            workdir=workdir,
            environment=environment,
        )

    def _checkout(self) -> tuple[Path, ...]:
        """A checkout with the release's examples, where the image lacks them."""
        checkout = checkout_examples() if image_examples(self.identity.image) is None else None
        return (checkout,) if checkout and checkout.exists() else ()

    def _expected_python(self) -> str:
        """A range of Python versions; every version for an image that was named instead of the pin file's."""
        if self.identity.python:
            return f"=={self.identity.python}.*"
        pin_file = describe(self.identity.name)
        return pin_file.python if self.identity.image == pin_file.image else ANY_PYTHON


def _recorded_image(directory: Path) -> str:
    """The id of the image that was inspected last; empty when none was."""
    with suppress(FileNotFoundError):
        return str(json.loads((directory / READY).read_text(encoding="utf-8"))["image_id"])
    return ""


def _inspect(toolchain: Container, identifier: str, log: Log) -> None:
    """Find out what is in an image that was never used on this machine, and record it."""
    log(f"looking into {toolchain.image}")
    found = toolchain.probe(log)
    differences = toolchain.mismatches(found)
    if differences:
        raise ToolchainError(
            f"the image {toolchain.image} is not what its pins say: {'; '.join(differences)}",
            subject=toolchain.identity.name,
            remedy="name the image of this very release, or set the target's release to the one in the image",
        )
    facts = found.versions | probed_facts(toolchain) | {"image": toolchain.image, "image-id": identifier}
    toolchain.record(facts, image_id=identifier)
