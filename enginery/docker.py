"""Commands with `docker run`: the whole command line as a pure function, and a run that leaves no container behind."""

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

from enginery import home
from enginery.context import Log
from enginery.errors import CommandError, UsageError
from enginery.output import SECRET_NAME

if TYPE_CHECKING:
    from enginery.process import Completed

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
    from enginery import process  # noqa: PLC0415  a plan starts none

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
    from enginery import process  # noqa: PLC0415  a plan starts none

    try:
        process.run(_removal(name), env=environment, log=lambda _line: None, timeout=END_SECONDS)
    except CommandError as error:
        if not any(GONE.search(line) for line in error.last_lines):
            said = "".join(f"\n  | {line}" for line in error.last_lines[-3:])
            log(f"container {name} may still run: {error.problem}; remove it by hand (docker rm --force){said}")


@contextmanager
def _token_file() -> Iterator[Path | None]:
    """The user's Hugging Face token in a file that only its owner can read, for as long as it is needed."""
    from huggingface_hub import get_token  # noqa: PLC0415  heavy

    token = get_token()
    if not token:
        yield None
        return
    with TemporaryDirectory(prefix="enginery-") as directory:
        path = Path(directory) / "token"
        path.touch(mode=0o600)
        path.write_text(token, encoding="utf-8")
        yield path
