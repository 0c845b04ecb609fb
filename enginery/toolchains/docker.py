"""Docker: which image a name means on this machine, and a command run in a container that is removed afterwards.

`docker_command` is a pure function that gives the whole `docker run` command line. Directories are mounted at the path
that they have on this machine, so that a command needs no rewriting. Images are named without a registry;
`ENGINERY_CONTAINER_REGISTRY` names the registry, or a mirror of it, that this machine uses.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from enginery.core import home, process
from enginery.core.errors import CommandError, ToolchainError, UsageError
from enginery.core.late import late
from enginery.core.process import Completed, FailureCause
from enginery.core.progress import Log, no_log
from enginery.core.text import SECRET_NAME

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
"""Docker selects the GPUs and numbers them anew; tokens are passed as a file; the image has its own HOME and PATH."""


@dataclass(frozen=True)
class Box:
    """What one container is given.

    Attributes:
        image: the image, with the registry that docker gets it from.
        name_hint: begins the container's name, after `enginery-`.
        home: its home directory, mounted writable: caches are kept there.
        gpus: docker's selection of GPUs, such as `all`; empty for none.
        network: whether it may reach the network.
        read_only: directories and files mounted read-only, each at its own path.
        read_write: directories mounted writable, each at its own path.
        workdir: where the command starts; the home directory when left out.
        environment: variables for the command. A variable whose name looks like that of a secret is passed by name
            only, so that its value is not in the command line.
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


def reference(image: str, environment: Mapping[str, str] = os.environ) -> str:
    """The image with this machine's registry in front, unless it names a registry itself."""
    registry = environment.get(REGISTRY, "").strip().rstrip("/")
    first = image.partition("/")[0]
    names_one = "/" in image and ("." in first or ":" in first or first == "localhost")
    return image if names_one or not registry else f"{registry}/{image}"


def image_id(image: str) -> str:
    """The id of an image that this machine has; empty when it does not have it.

    Raises:
        ToolchainError: when docker does not work.
    """
    argv = ("docker", "image", "inspect", "--format", "{{.Id}}", image)
    try:
        return process.run(argv, log=no_log, timeout=INSPECT_SECONDS).last_lines[-1].strip()
    except CommandError as error:
        if error.cause == FailureCause.CONTAINER_IMAGE:
            return ""
        raise _docker_failed(image, error) from error


def pull(image: str, subject: str, log: Log) -> str:
    """Pull an image and return its id.

    Args:
        image: the image, with its registry.
        subject: the toolchain that needs it, for the error.
        log: called with each line that docker prints.

    Raises:
        ToolchainError: when it cannot be pulled; `transient` if the network was the reason.
    """
    log(f"pulling {image}")
    try:
        process.run(("docker", "pull", image), log=log, timeout=PULL_SECONDS)
    except CommandError as error:
        raise _docker_failed(subject, error) from error
    found = image_id(image)
    if not found:
        raise ToolchainError(f"docker has pulled {image} and does not have it", subject=subject)
    return found


def container_home() -> Path:
    """The home directory of every container: caches stay there from one command to the next."""
    return home.home() / "container-home"


def gpus_argument(environment: Mapping[str, str]) -> str:
    """Docker's `--gpus` for the GPUs in `CUDA_VISIBLE_DEVICES`; empty for none, or without a GPU driver."""
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
        UsageError: when a path contains a colon, which docker cannot mount.
    """
    return (
        *("docker", "run", "--rm", "--init", "--pull", "never", "--name", name),
        *("--user", box.user, "--ipc", "host"),
        # Without a network only this name can be resolved, and MPI resolves its own host name.
        *(("--network", "host") if box.network else ("--network", "none", "--hostname", "localhost")),
        *("--ulimit", "memlock=-1", "--ulimit", f"stack={STACK_BYTES}"),
        *(("--gpus", box.gpus) if box.gpus else ()),
        *_mounts(box),
        *("--workdir", str(box.workdir or box.home)),
        *_environment(box),
        box.image,
        *argv,
    )


def run_box(
    box: Box,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Log,
    timeout: float | None,
) -> Completed:
    """Run a command in a container; when this returns or raises, the container is gone.

    No peak memory is reported: docker's client uses little, and the command is not its child process.

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
        box = replace(box, token_file=stack.enter_context(_token_file())) if box.network else box
        command = docker_command(box, name, argv)
        try:
            # The container belongs to docker's daemon: killing `docker run` does not end it.
            given = {**environment, **box.environment}
            done = process.run(command, env=given, log=log, timeout=timeout, afterwards=_removal(name))
        except BaseException:
            _remove(name, environment, log)
            raise
    return replace(done, peak_memory_bytes=0)


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
    # The user is not in the image's passwd: tools that need a user name find it in these two variables.
    own = {"HOME": str(box.home), "USER": "enginery", "LOGNAME": "enginery"}
    if box.token_file:
        own["HF_TOKEN_PATH"] = str(box.token_file)
    for name, value in {**own, **given}.items():
        secret = SECRET_NAME.search(name) and name not in own
        yield from ("--env", name if secret else f"{name}={value}")
    if box.network:
        for name in NETWORK_SETTINGS:
            yield from ("--env", name)


@contextmanager
def _token_file() -> Iterator[Path | None]:
    """The user's Hugging Face token in a temporary file that only its owner can read."""
    token = huggingface_hub.get_token()
    if not token:
        yield None
        return
    with TemporaryDirectory(prefix="enginery-") as directory:
        path = Path(directory) / "token"
        path.touch(mode=0o600)
        path.write_text(token, encoding="utf-8")
        yield path


def _removal(name: str) -> tuple[str, ...]:
    """The command that ends a container, and removes also one that was created but not started."""
    return ("docker", "rm", "--force", name)


def _remove(name: str, environment: Mapping[str, str], log: Log) -> None:
    """Remove a container whose `docker run` has failed; most often docker has removed it already."""
    try:
        process.run(_removal(name), env=environment, log=no_log, timeout=REMOVE_SECONDS)
    except CommandError as error:
        if not any(GONE.search(line) for line in error.last_lines):
            tail = _tail(error.last_lines[-3:])
            log(f"container {name} may still run: {error.problem}; remove it by hand (docker rm --force){tail}")


def _docker_failed(subject: str, error: CommandError) -> ToolchainError:
    transient = any(TRANSIENT.search(line) for line in error.last_lines)
    remedy = "check the network and the registry, then try again" if transient else error.remedy
    problem = f"{error.problem}{_tail(error.last_lines[-5:])}"
    return ToolchainError(problem, subject=subject, remedy=remedy, transient=transient)


def _tail(lines: Sequence[str]) -> str:
    return "".join(f"\n  | {line}" for line in lines)
