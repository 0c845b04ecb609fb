"""Toolchains of the kind `container`: each command runs with `docker run` in a container of the release's image.

`docker_command` is a pure function that returns the whole `docker run` command line. Directories have the same path in
the container as on this machine, so a command need not be changed. Images are named without a registry.
`ENGINERY_CONTAINER_REGISTRY` names the registry, or a mirror of it, that this machine uses.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from packaging.specifiers import SpecifierSet

from enginery.core import home, process
from enginery.core.errors import CommandError, ToolchainError, UsageError
from enginery.core.late import late
from enginery.core.process import Completed, FailureCause
from enginery.core.progress import Log, no_log
from enginery.core.text import SECRET_NAME, indented
from enginery.toolchains.examples import checkout_examples, image_examples
from enginery.toolchains.identity import READY, Access, Toolchain, ToolchainIdentity, location
from enginery.toolchains.pins import ANY_PYTHON, describe, fixed_minor, no_image_error
from enginery.toolchains.probe import Probe
from enginery.toolchains.release_probe import probed_facts

if TYPE_CHECKING:
    import huggingface_hub
else:
    huggingface_hub = late("huggingface_hub")

REGISTRY = "ENGINERY_CONTAINER_REGISTRY"
PYTHON = "python3"
"""The interpreter of an image."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_DEVICES = {"", "-1", "none", "void", "NoDevFiles"}
STACK_BYTES = 64 << 20
INSPECT_SECONDS = 60.0
PULL_SECONDS = 4 * 3600.0
REMOVE_SECONDS = 60.0
GONE = re.compile(r"[Nn]o such container|removal of container .* is already in progress")
TRANSIENT = re.compile(
    r"TLS handshake timeout|i/o timeout|Client\.Timeout|connection re(set|fused)|toomanyrequests|unexpected EOF"
    r"|Temporary failure in name resolution|status(?: code)?:? 5\d\d"
)
NAME_HINT_LENGTH = 12
NETWORK_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "HF_ENDPOINT")
"""Proxies, and a mirror of the Hugging Face Hub."""
NOT_PASSED_ON = (VISIBLE, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HOME", "PATH")
"""Docker selects the GPUs and numbers them from 0; tokens are passed as a file; the image has its own HOME and PATH."""


def container_home() -> Path:
    """The home directory of every container. Caches stay there from one command to the next."""
    return home.home() / "container-home"


@dataclass(frozen=True, kw_only=True)
class ContainerAccess(Access):
    """What one container gets and may reach. Every directory and file of `Access` is mounted at its own path.

    A variable whose name looks like that of a secret is passed by name only: its value is not in the command line.

    Attributes:
        image: the image, with its registry.
        home: the home directory, mounted writable. The command starts there if `cwd` is left out.
        gpus: docker's selection of GPUs, such as `all`; empty for none.
        token_file: a file with a Hugging Face token.
        user: user and group that the command runs as.
    """

    image: str
    home: Path = field(default_factory=container_home)
    gpus: str = ""
    token_file: Path | None = None
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")


@dataclass(frozen=True)
class Container(Toolchain):
    """A release's image. Each command gets a container of its own, which is removed afterwards."""

    @classmethod
    def identify(cls, name: str, image: str = "") -> ToolchainIdentity:
        """The identity with the release's known image, or with `image`. It does not depend on this machine."""
        pin_file = describe(name)
        if not (image or pin_file.image):
            raise no_image_error(name)
        # The image has its own Python; the interpreters of this machine do not matter.
        python = "" if image else fixed_minor(pin_file.python)
        pins = (*pin_file.options, *pin_file.pins)
        return ToolchainIdentity(name=name, kind="container", pins=pins, python=python, image=image or pin_file.image)

    @classmethod
    def is_ready(cls, identity: ToolchainIdentity) -> bool:
        """Whether the image was inspected on this machine before."""
        return (location(identity) / READY).is_file()

    @classmethod
    def ensure(cls, identity: ToolchainIdentity, log: Log) -> Self:
        """The toolchain. If needed, its image is pulled and inspected first."""
        image = image_reference(identity.image)
        toolchain = cls(identity, location(identity), Path(PYTHON), dict(os.environ), image)
        if shutil.which("docker") is None:
            raise ToolchainError(
                "a toolchain of kind container needs docker, and there is no such command on PATH",
                subject=identity.name,
                remedy="install Docker with NVIDIA's container toolkit, or use the kind venv or host",
            )
        found = _image_id(image) or _pull(image, identity.name, log)
        if not cls.is_ready(identity) or toolchain.facts().get("image-id") != found:
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
            differences.append(f"Python is {found.python}, but must be {python}")
        return differences

    def run(self, argv: Sequence[str], access: Access, log: Log, timeout: float | None) -> Completed:
        """Run a command in a container of its own; when this returns or raises, the container is gone.

        No peak memory is reported: docker's client uses little, and the command is not its child process.
        """
        hint = re.sub(r"[^a-zA-Z0-9_.-]", "-", access.name)[:NAME_HINT_LENGTH]
        name = f"enginery-{hint}-{secrets.token_hex(4)}"
        # The container belongs to docker's daemon: killing `docker run` does not end it.
        removal = ("docker", "rm", "--force", name)
        given = {**self.environment, **access.environment}
        container_home().mkdir(parents=True, exist_ok=True)
        with _token_file(access) as token:
            command = docker_command(replace(self._container_access(access), token_file=token), name, argv)
            try:
                done = process.run(command, env=given, log=log, timeout=timeout, cleanup=removal)
            except BaseException:
                _remove(removal, self.environment, log)
                raise
        return replace(done, peak_memory_bytes=0)

    def _container_access(self, access: Access) -> ContainerAccess:
        workdir = access.cwd or next(iter(access.read_write), self.neutral_directory)
        # A path that does not exist on this machine is a path inside the image.
        present = tuple(path for path in access.read_only if path.is_absolute() and path.exists())
        return ContainerAccess(
            image=self.image,
            name=access.name,
            gpus=gpus_argument({**self.environment, **access.environment}),
            network=access.network,
            read_only=(*present, *self._checkout()) if access.read_only else (),
            read_write=tuple(dict.fromkeys((*access.read_write, workdir))) if access.read_write else (),
            cwd=workdir,
            environment=access.environment,
        )

    def _checkout(self) -> tuple[Path, ...]:
        """A checkout with the release's examples, if the image lacks them."""
        checkout = checkout_examples() if image_examples(self.identity.image) is None else None
        return (checkout,) if checkout and checkout.exists() else ()

    def _expected_python(self) -> str:
        """The expected range of Python versions: any version, if an image was named instead of the pin file's."""
        if self.identity.python:
            return f"=={self.identity.python}.*"
        pin_file = describe(self.identity.name)
        return pin_file.python if self.identity.image == pin_file.image else ANY_PYTHON


def image_reference(image: str, environment: Mapping[str, str] = os.environ) -> str:
    """The image with this machine's registry in front, unless its name has a registry already."""
    registry = environment.get(REGISTRY, "").strip().rstrip("/")
    first = image.partition("/")[0]
    names_one = "/" in image and ("." in first or ":" in first or first == "localhost")
    return image if names_one or not registry else f"{registry}/{image}"


def _image_id(image: str) -> str:
    """The id of an image on this machine; empty if this machine does not have the image."""
    argv = ("docker", "image", "inspect", "--format", "{{.Id}}", image)
    try:
        return process.run(argv, log=no_log, timeout=INSPECT_SECONDS).last_lines[-1].strip()
    except CommandError as error:
        if error.cause == FailureCause.CONTAINER_IMAGE:
            return ""
        raise _docker_failed(image, error) from error


def _pull(image: str, subject: str, log: Log) -> str:
    """Pull an image, for the toolchain `subject`, and return its id."""
    log(f"pulling {image}")
    try:
        process.run(("docker", "pull", image), log=log, timeout=PULL_SECONDS)
    except CommandError as error:
        raise _docker_failed(subject, error) from error
    found = _image_id(image)
    if not found:
        raise ToolchainError(f"docker has pulled {image}, but does not list it", subject=subject)
    return found


def _docker_failed(subject: str, error: CommandError) -> ToolchainError:
    transient = any(TRANSIENT.search(line) for line in error.last_lines)
    remedy = "check the network and the registry, then try again" if transient else error.remedy
    problem = f"{error.problem}{indented(error.last_lines[-5:])}"
    return ToolchainError(problem, subject=subject, remedy=remedy, transient=transient)


def _inspect(toolchain: Container, identifier: str, log: Log) -> None:
    """Find out what is in an image, and record it. This is done when the image is first used on this machine."""
    log(f"looking into {toolchain.image}")
    found = toolchain.probe(log)
    differences = toolchain.mismatches(found)
    if differences:
        raise ToolchainError(
            f"the image {toolchain.image} is not what its pins say: {'; '.join(differences)}",
            subject=toolchain.identity.name,
            remedy="name an image of exactly this release, or set the target's release to the one in the image",
        )
    image = {"image": toolchain.image, "image-id": identifier}
    toolchain.record(found.versions | probed_facts(toolchain) | image)


def gpus_argument(environment: Mapping[str, str]) -> str:
    """The value of docker's `--gpus` for `CUDA_VISIBLE_DEVICES`; empty for no GPU, or without a GPU driver."""
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return ""
    visible = environment.get(VISIBLE)
    if visible is None or visible.strip() == "all":
        return "all"
    devices = visible.replace(" ", "")
    # Docker reads the value as a line of CSV: without its own quotes a comma would end it.
    return "" if devices in NO_DEVICES else f'"device={devices}"'


def docker_command(access: ContainerAccess, name: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The whole command line that runs `argv` in a container of that name.

    Raises:
        UsageError: when a path contains a colon, which docker cannot mount.
    """
    return (
        *("docker", "run", "--rm", "--init", "--pull", "never", "--name", name),
        *("--user", access.user, "--ipc", "host"),
        # Without a network only this name can be resolved, and MPI resolves its own host name.
        *(("--network", "host") if access.network else ("--network", "none", "--hostname", "localhost")),
        *("--ulimit", "memlock=-1", "--ulimit", f"stack={STACK_BYTES}"),
        *(("--gpus", access.gpus) if access.gpus else ()),
        *_mounts(access),
        *("--workdir", str(access.cwd or access.home)),
        *_environment(access),
        access.image,
        *argv,
    )


def _mounts(access: ContainerAccess) -> Iterator[str]:
    """Docker's mounts. Outer directories come first, so that a read-only one inside a writable one stays read-only."""
    token = (access.token_file,) if access.token_file else ()
    writable = dict.fromkeys((*access.read_write, access.home), "rw")
    modes = {**writable, **dict.fromkeys((*access.read_only, *token), "ro")}
    for path in sorted(modes):
        if ":" in str(path):
            raise UsageError("docker cannot mount a path with a colon", subject=str(path), remedy="use another one")
        yield from ("--volume", f"{path}:{path}:{modes[path]}")


def _environment(access: ContainerAccess) -> Iterator[str]:
    given = {name: value for name, value in access.environment.items() if name not in NOT_PASSED_ON}
    # The user is not in the image's passwd. Tools that need a user name find it in USER and LOGNAME.
    own = {"HOME": str(access.home), "USER": "enginery", "LOGNAME": "enginery"}
    if access.token_file:
        own["HF_TOKEN_PATH"] = str(access.token_file)
    for name, value in {**own, **given}.items():
        secret = SECRET_NAME.search(name) and name not in own
        yield from ("--env", name if secret else f"{name}={value}")
    if access.network:
        for name in NETWORK_SETTINGS:
            yield from ("--env", name)


@contextmanager
def _token_file(access: Access) -> Iterator[Path | None]:
    """Yield a private file with the user's Hugging Face token; None without a token, or without network access."""
    token = huggingface_hub.get_token() if access.network else None
    if not token:
        yield None
        return
    with TemporaryDirectory(prefix="enginery-") as directory:
        path = Path(directory) / "token"
        path.touch(mode=0o600)
        path.write_text(token, encoding="utf-8")
        yield path


def _remove(removal: Sequence[str], environment: Mapping[str, str], log: Log) -> None:
    """Remove a container whose `docker run` has failed. Usually docker has removed it already."""
    try:
        process.run(removal, env=environment, log=no_log, timeout=REMOVE_SECONDS)
    except CommandError as error:
        if not any(GONE.search(line) for line in error.last_lines):
            last = indented(error.last_lines[-3:])
            log(f"container {removal[-1]} may still run: {error.problem}; remove it by hand (docker rm --force){last}")
