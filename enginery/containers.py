"""Toolchains of the kind `container`: each command runs with `docker run` in the release's image.

Directories are mounted where they are on this machine, so that a command needs no rewriting. The image is named without
a registry; `ENGINERY_CONTAINER_REGISTRY` says which registry, or mirror of it, this machine uses.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from enginery import files
from enginery.asking import look_into, release_found
from enginery.context import Log, StepContext
from enginery.docker import PYTHON, Box, container_home, gpus_argument, run_box
from enginery.drivers import DRIVERS
from enginery.errors import CommandError, ToolchainError
from enginery.failures import FailureCause
from enginery.pins import ANY_PYTHON, PinFile, describe
from enginery.probing import Probe, mismatches
from enginery.release_examples import checkout_examples, image_examples
from enginery.toolchain_types import Toolchain, ToolchainIdentity, location

if TYPE_CHECKING:
    from enginery.process import Completed

REGISTRY = "ENGINERY_CONTAINER_REGISTRY"
READY = "ready.json"
INSPECT_SECONDS = 60.0
CAN_PASS = re.compile(
    r"TLS handshake timeout|i/o timeout|Client\.Timeout|connection re(set|fused)|toomanyrequests|unexpected EOF"
    r"|Temporary failure in name resolution|status(?: code)?:? 5\d\d"
)
PULL_SECONDS = 4 * 3600.0


def reference(image: str, environment: Mapping[str, str] = os.environ) -> str:
    """The image as docker is to be asked for it: with this machine's registry, unless it names one itself."""
    registry = environment.get(REGISTRY, "").strip().rstrip("/")
    first = image.partition("/")[0]
    names_one = "/" in image and ("." in first or ":" in first or first == "localhost")
    return image if names_one or not registry else f"{registry}/{image}"


def ensure_container(wanted: ToolchainIdentity, log: Log) -> Toolchain:
    """The toolchain, its image pulled and looked into first if that was not done before.

    Raises:
        ToolchainError: docker does not work here, the image cannot be had, or is not what the pins say.
    """
    image = reference(wanted.image)
    toolchain = Toolchain(wanted, location(wanted), Path(PYTHON), dict(os.environ), image)
    if shutil.which("docker") is None:
        raise ToolchainError(
            "a toolchain of kind container needs docker, and there is no such command on PATH",
            subject=wanted.name,
            remedy="install Docker with NVIDIA's container toolkit, or use the kind venv or host",
        )
    found = _image_id(image) or _pulled(wanted, image, log)
    if _remembered_image(toolchain.directory) != found:
        _remember(toolchain, found, log)
    return toolchain


def run_in_container(
    context: StepContext,
    toolchain: Toolchain,
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path | None = None,
) -> "Completed":
    """Run a step's command in its toolchain's image.

    Raises:
        CommandError: when it cannot be started or does not end well.
    """
    box = step_box(context, toolchain, environment, cwd or context.output.parent)
    return run_box(box, argv, environment=toolchain.environment, log=context.log, timeout=context.timeout)


def step_box(context: StepContext, toolchain: Toolchain, environment: Mapping[str, str], workdir: Path) -> Box:
    """What a step's container is given: its inputs read-only, the step's own directory to write to."""
    return Box(
        image=toolchain.image,
        name_hint=context.key,
        home=container_home(),
        gpus=gpus_argument({**toolchain.environment, **environment}),
        network=environment.get("HF_HUB_OFFLINE") != "1",
        read_only=(*context.inputs.values(), *_own_places(context, toolchain), DRIVERS),
        read_write=(context.output.parent, workdir),
        workdir=workdir,
        environment=environment,
    )


def _own_places(context: StepContext, toolchain: Toolchain) -> tuple[Path, ...]:
    """The user's files and directories that the command names, and a checkout with the examples that the image lacks.

    What is not on this machine is in the image.
    """
    checkout = checkout_examples() if image_examples(toolchain.identity.image) is None else None
    named = [Path(place) for place in context.places.values()] + ([checkout] if checkout else [])
    return tuple(path for path in named if path.is_absolute() and path.exists())


def _image_id(image: str) -> str:
    """The id of an image that this machine has; empty when it does not have it."""
    from enginery import process  # noqa: PLC0415  a plan starts none

    argv = ("docker", "image", "inspect", "--format", "{{.Id}}", image)
    try:
        return process.run(argv, log=lambda _line: None, timeout=INSPECT_SECONDS).last_lines[-1].strip()
    except CommandError as error:
        if error.cause == FailureCause.CONTAINER_IMAGE:
            return ""
        raise _failed(image, error) from error


def _pulled(wanted: ToolchainIdentity, image: str, log: Log) -> str:
    from enginery import process  # noqa: PLC0415  a plan starts none

    log(f"pulling {image}")
    try:
        process.run(("docker", "pull", image), log=log, timeout=PULL_SECONDS)
    except CommandError as error:
        raise _failed(wanted.name, error) from error
    found = _image_id(image)
    if not found:
        raise ToolchainError(f"docker has pulled {image} and does not have it", subject=wanted.name)
    return found


def _failed(subject: str, error: CommandError) -> ToolchainError:
    tail = "".join(f"\n  | {line}" for line in error.last_lines[-5:])
    transient = any(CAN_PASS.search(line) for line in error.last_lines)
    remedy = "check the network and the registry, then try again" if transient else error.remedy
    return ToolchainError(f"{error.problem}{tail}", subject=subject, remedy=remedy, transient=transient)


def _remembered_image(directory: Path) -> str:
    with suppress(FileNotFoundError):
        return str(json.loads((directory / READY).read_text(encoding="utf-8"))["image_id"])
    return ""


def _remember(toolchain: Toolchain, image_id: str, log: Log) -> None:
    """Look into an image that was never used here, and write down what is in it."""
    wanted = toolchain.identity
    log(f"looking into {toolchain.image}")
    found = look_into(toolchain, describe(wanted.name).probe, log)
    differences = container_mismatches(wanted, found)
    if differences:
        raise ToolchainError(
            f"the image {toolchain.image} is not what its pins say: {'; '.join(differences)}",
            subject=wanted.name,
            remedy="name the image of this very release, or set the target's release to the one in the image",
        )
    ready = {
        "identity": wanted.model_dump(mode="json", exclude_defaults=True),
        "image_id": image_id,
        "probe": found.versions | release_found(toolchain) | {"image": toolchain.image, "image-id": image_id},
    }
    toolchain.directory.mkdir(parents=True, exist_ok=True)
    files.write_atomic(toolchain.directory / READY, json.dumps(ready, indent=2))


def container_mismatches(wanted: ToolchainIdentity, found: Probe) -> list[str]:
    """One sentence for each difference between an image and the toolchain's pins."""
    pin_file = describe(wanted.name)
    seen = found.model_copy(update={"packages": found.with_modules(pin_file.probe)})
    differences = mismatches(pin_file.requirements(), seen)
    python = _wanted_python(wanted, pin_file)
    if not SpecifierSet(python).contains(found.python, prereleases=True):
        differences.append(f"Python is {found.python}, expected is {python}")
    return differences


def _wanted_python(wanted: ToolchainIdentity, pin_file: PinFile) -> str:
    """The range of Python's versions; any for an image that was named instead of the pin file's."""
    if wanted.python:
        return f"=={wanted.python}.*"
    return pin_file.python if wanted.image == pin_file.image else ANY_PYTHON
