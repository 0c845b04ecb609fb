"""Toolchains of the kind `container`: each command runs with `docker run` in the release's image.

Directories are mounted where they are on this machine, so that a command needs no rewriting. The image is named without
a registry; `ENGINERY_CONTAINER_REGISTRY` says which registry, or mirror of it, this machine uses.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from packaging.specifiers import SpecifierSet

from enginery.core import files, home, process
from enginery.core.errors import CommandError, ToolchainError, UsageError
from enginery.core.late import late
from enginery.core.process import Completed, FailureCause
from enginery.core.progress import Log
from enginery.core.text import SECRET_NAME
from enginery.toolchains.examples import checkout_examples, image_examples
from enginery.toolchains.identity import READY, Access, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import ANY_PYTHON, PinFile, describe, fixed_minor, no_image
from enginery.toolchains.probe import Probe, look_into, mismatches
from enginery.toolchains.release_probe import release_found

if TYPE_CHECKING:
    import huggingface_hub
else:
    huggingface_hub = late("huggingface_hub")


# Commands with `docker run`: the whole command line as a pure function, and a run that leaves no container behind.


PYTHON = "python3"
VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_DEVICES = {"", "-1", "none", "void", "NoDevFiles"}
STACK_BYTES = 64 << 20
END_SECONDS = 60.0
GONE = re.compile(r"[Nn]o such container|removal of container .* is already in progress")
NAME_HINT_LENGTH = 12
NETWORK_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "HF_ENDPOINT")
"""Proxies, and a mirror of the Hugging Face Hub."""
NOT_PASSED_ON = (VISIBLE, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HOME", "PATH")
"""GPUs are chosen by docker, which numbers them anew; tokens come as a file; the rest is the image's own."""


@dataclass(frozen=True)
class Box:
    """What one container is given.

    Attributes:
        image: the image, as docker is to be asked for it.
        name_hint: begins the container's name, after `enginery-`.
        home: its home directory, mounted writable: caches are kept there.
        gpus: docker's selection of GPUs, such as `all`; empty for none.
        network: whether it may reach the network.
        read_only: directories and files mounted read-only, each at its own place.
        read_write: directories mounted writable, each at its own place.
        workdir: where the command starts; the home directory when left out.
        environment: variables of the command's own. Values of those that look secret are passed on by docker, without
            being written into the command line.
        token_file: a file with a Hugging Face token.
        user: user and group that the command runs as.
    """

    image: str
    name_hint: str
    home: Path
    gpus: str = ""
    network: bool = False
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    workdir: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    token_file: Path | None = None
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")


def container_home() -> Path:
    """The home directory of every container: caches stay there from one command to the next."""
    return home.home() / "container-home"


def gpus_argument(environment: Mapping[str, str]) -> str:
    """Docker's `--gpus` for the GPUs that `CUDA_VISIBLE_DEVICES` leaves; empty for none, or on a machine without."""
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return ""
    visible = environment.get(VISIBLE)
    if visible is None or visible.strip() == "all":
        return "all"
    devices = visible.replace(" ", "")
    # Docker reads the value as a line of CSV: without its own quotes a comma would end it.
    return "" if devices in NO_DEVICES else f'"device={devices}"'


def docker_command(box: Box, name: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The whole command line that runs `argv` in a container.

    Args:
        box: what the container is given.
        name: the container's name.
        argv: the command inside.

    Raises:
        UsageError: when a directory's name has a colon, which docker cannot mount.
    """
    return (
        *("docker", "run", "--rm", "--init", "--pull", "never", "--name", name),
        *("--user", box.user, "--ipc", "host"),
        # Without a network only this name is known, and MPI looks its own host up.
        *(("--network", "host") if box.network else ("--network", "none", "--hostname", "localhost")),
        *("--ulimit", "memlock=-1", "--ulimit", f"stack={STACK_BYTES}"),
        *(("--gpus", box.gpus) if box.gpus else ()),
        *_mounts(box),
        *("--workdir", str(box.workdir or box.home)),
        *_environment(box),
        box.image,
        *argv,
    )


def _mounts(box: Box) -> Iterator[str]:
    """Outer directories first, so that a read-only one inside a writable one stays read-only."""
    token = (box.token_file,) if box.token_file else ()
    writable = dict.fromkeys((*box.read_write, box.home), "rw")
    modes = {**writable, **dict.fromkeys((*box.read_only, *token), "ro")}
    for path in sorted(modes):
        if ":" in str(path):
            raise UsageError("docker cannot mount a path with a colon", subject=str(path), remedy="use another one")
        yield from ("--volume", f"{path}:{path}:{modes[path]}")


def _environment(box: Box) -> Iterator[str]:
    given = {name: value for name, value in box.environment.items() if name not in NOT_PASSED_ON}
    # Without an entry in the image's passwd, tools that ask for the user's name fail; these two answer them.
    known = {"HOME": str(box.home), "USER": "enginery", "LOGNAME": "enginery"}
    if box.token_file:
        known["HF_TOKEN_PATH"] = str(box.token_file)
    for name, value in {**known, **given}.items():
        secret = SECRET_NAME.search(name) and name not in known
        yield from ("--env", name if secret else f"{name}={value}")
    if box.network:
        for name in NETWORK_SETTINGS:
            yield from ("--env", name)


def run_box(
    box: Box,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Log,
    timeout: float | None,
) -> "Completed":
    """Run a command in a container; when this returns or raises, the container is gone.

    What docker measures of memory is not the command's, so none is reported.

    Args:
        box: what the container is given.
        argv: the command inside.
        environment: the environment that `docker` is started with.
        log: called with each line.
        timeout: seconds it may take.

    Raises:
        CommandError: when it cannot be started, fails, or takes too long.
    """
    box.home.mkdir(parents=True, exist_ok=True)
    name = f"enginery-{re.sub(r'[^a-zA-Z0-9_.-]', '-', box.name_hint)[:NAME_HINT_LENGTH]}-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        boxed = replace(box, token_file=stack.enter_context(_token_file())) if box.network else box
        command = docker_command(boxed, name, argv)
        try:
            # The container belongs to docker's daemon: whoever ends `docker run` does not end that.
            given = {**environment, **box.environment}
            done = process.run(command, env=given, log=log, timeout=timeout, afterwards=_removal(name))
        except BaseException:
            _end(name, environment, log)
            raise
    return replace(done, peak_memory_bytes=0)


def _removal(name: str) -> tuple[str, ...]:
    """Ends a container, and removes it also when it was made and not started yet."""
    return ("docker", "rm", "--force", name)


def _end(name: str, environment: Mapping[str, str], log: Log) -> None:
    """Remove a container whose `docker run` has not ended well; most often there is none any more."""
    try:
        process.run(_removal(name), env=environment, log=lambda _line: None, timeout=END_SECONDS)
    except CommandError as error:
        if not any(GONE.search(line) for line in error.last_lines):
            said = "".join(f"\n  | {line}" for line in error.last_lines[-3:])
            log(f"container {name} may still run: {error.problem}; remove it by hand (docker rm --force){said}")


@contextmanager
def _token_file() -> Iterator[Path | None]:
    """The user's Hugging Face token in a file that only its owner can read, for as long as it is needed."""
    token = huggingface_hub.get_token()
    if not token:
        yield None
        return
    with TemporaryDirectory(prefix="enginery-") as directory:
        path = Path(directory) / "token"
        path.touch(mode=0o600)
        path.write_text(token, encoding="utf-8")
        yield path


REGISTRY = "ENGINERY_CONTAINER_REGISTRY"
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


@dataclass(frozen=True)
class Container(Toolchain):
    """A release's image. Each command runs with `docker run`, and the container is gone afterwards."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The image that is known for the release, or `image`; nothing is looked for on this machine."""
        pin_file = describe(name)
        if not (image or pin_file.image):
            raise no_image(name)
        # Which Python an image has is the image's matter: none of this machine's may be looked at.
        python = "" if image else fixed_minor(pin_file.python)
        pins = (*pin_file.options, *pin_file.pins)
        return ToolchainIdentity(name=name, kind="container", pins=pins, python=python, image=image or pin_file.image)

    @classmethod
    def is_there(cls, wanted: ToolchainIdentity) -> bool:
        """Whether the image was looked into before."""
        return (location(wanted) / READY).is_file()

    @classmethod
    def ensure(cls, wanted: ToolchainIdentity, log: Log) -> Self:
        """The image, pulled and looked into first if that was not done before."""
        image = reference(wanted.image)
        toolchain = cls(wanted, location(wanted), Path(PYTHON), dict(os.environ), image)
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

    @property
    def neutral_directory(self) -> Path:
        """The home directory that all containers share."""
        return container_home()

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
        """Run a command in a container of its own; it sees what `access` names, each directory in its own place."""
        box = self.box(access, environment, cwd)
        return run_box(box, argv, environment=self.environment, log=log, timeout=timeout)

    def box(self, access: Access, environment: Mapping[str, str], cwd: Path | None) -> Box:
        """What the container of one command is given."""
        workdir = cwd or next(iter(access.read_write), self.neutral_directory)
        # What is not on this machine is in the image.
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


def _image_id(image: str) -> str:
    """The id of an image that this machine has; empty when it does not have it."""
    argv = ("docker", "image", "inspect", "--format", "{{.Id}}", image)
    try:
        return process.run(argv, log=lambda _line: None, timeout=INSPECT_SECONDS).last_lines[-1].strip()
    except CommandError as error:
        if error.cause == FailureCause.CONTAINER_IMAGE:
            return ""
        raise _failed(image, error) from error


def _pulled(wanted: ToolchainIdentity, image: str, log: Log) -> str:

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


def _remember(toolchain: Container, image_id: str, log: Log) -> None:
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
