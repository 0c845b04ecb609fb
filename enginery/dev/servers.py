"""Starting each of the local services: its port, its environment, its log, and what an earlier start has left."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
from packaging.version import Version
from pydantic import Field, TypeAdapter, ValidationError

from enginery import toolchains
from enginery.core.errors import ToolchainError
from enginery.core.files import write_atomic
from enginery.core.home import services_dir
from enginery.core.process import SUPERVISOR, Service, stop_pid
from enginery.core.progress import Log
from enginery.dev.ready import LOOPBACK, free_port, wait_until_ready
from enginery.dev.s3_server import CREDENTIALS, REGION, client
from enginery.dev.triton import start_triton

USUAL_PORTS = {"prefect": 4200, "s3": 9000, "triton": 8000}
TITLES = {"prefect": "Prefect", "s3": "S3", "triton": "Triton"}
HEALTH = "/api/health"
BUCKET = "enginery"
REGISTRY = f"s3://{BUCKET}/demo"
SERVING_PREFIX = "demo/serving/tiny-llama"
LEFTOVER_SECONDS = 30.0

Started = Callable[[str, Service, str], None]
"""Called for each service as soon as its process exists: name, process, address."""

_PORTS = TypeAdapter(dict[str, Annotated[int, Field(ge=1, le=65535)]])


@dataclass(frozen=True)
class Launcher:
    """Starts services and waits until they are ready.

    Attributes:
        log: takes a line for each event.
        detach: let them outlive this process.
        started: called for each process before it is waited for.
        stopping: set when they are no longer needed.
    """

    log: Log
    detach: bool
    started: Started
    stopping: threading.Event

    def prefect(self) -> None:
        """The Prefect server with its UI; its database stays in Enginery's home."""
        directory = services_dir() / "prefect"
        directory.mkdir(parents=True, exist_ok=True)
        end_leftovers("prefect")  # they may hold the port
        port = port_for("prefect")
        self._start("prefect", prefect_command(port), prefect_environment(directory, port), port, HEALTH)

    def s3(self) -> None:
        """The S3 server; its objects stay in Enginery's home."""
        end_leftovers("s3")
        port = port_for("s3")
        places = ["--directory", str(services_dir() / "s3"), "--bucket", BUCKET]
        argv = [sys.executable, "-m", "enginery.dev.s3_server", "--port", str(port), *places]
        self._start("s3", argv, dict(os.environ), port, "/")

    def triton(self, s3_url: str) -> None:
        """The Triton server, reading the demo's model repository in that S3."""
        site, python = triton_site(self.log), serving_python(self.log)
        make_serving_prefix(s3_url)
        end_leftovers("triton")
        self.log("Triton: starting")
        with in_environment(aws_environment(s3_url)):
            server = start_triton(
                f"s3://{s3_url}/{BUCKET}/{SERVING_PREFIX}",
                triton_site=site,
                serving_python=python,
                log_file=log_file("triton"),
                load_all=True,
                http_port=port_for("triton"),
                detach=self.detach,
                log=self.log,
                stopping=self.stopping,
            )
        self.started("triton", server.service, server.url)

    def _start(self, name: str, argv: list[str], environment: Mapping[str, str], port: int, path: str) -> None:
        self.log(f"{TITLES[name]}: starting")
        url = f"http://{LOOPBACK}:{port}"
        service = Service.start(argv, env=environment, log_file=log_file(name), detach=self.detach)
        self.started(name, service, url)
        wait_until_ready(TITLES[name], service, url, path, self.log, self.stopping)


def port_for(service: str) -> int:
    """The first free port of: the service's last one, so that addresses stay; its usual one; any."""
    for wanted in filter(None, (_last_ports().get(service), USUAL_PORTS[service])):
        if free_port(wanted) == wanted:
            return wanted
    return free_port()


def remember_port(service: str, port: int) -> None:
    """Note the port of a service for the next time. Not thread-safe.

    Raises:
        StoreError: when it cannot be written.
    """
    ports = _last_ports() | {service: port}
    write_atomic(services_dir() / "ports.json", json.dumps(ports, indent=2))


def _last_ports() -> dict[str, int]:
    """The noted ports; none when there is no file, or a damaged one."""
    try:
        return _PORTS.validate_json((services_dir() / "ports.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def prefect_command(port: int) -> list[str]:
    """The command that starts it."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]


def prefect_environment(directory: Path, port: int) -> Mapping[str, str]:
    """Its environment: the user's, without settings of Prefect, which are meant for other servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {
        "PREFECT_HOME": str(directory),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{directory / 'prefect.db'}",
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }


def log_file(name: str) -> Path:
    """The file that a service prints to."""
    return services_dir() / "logs" / f"{name}.log"


def end_leftovers(name: str) -> None:
    """End what a killed start of a service has left running: supervisors that still write to its log."""
    path = str(log_file(name))
    for process in psutil.process_iter(["cmdline"]):
        if str(SUPERVISOR) in (process.info["cmdline"] or ()) and path in _open_files(process):
            stop_pid(process.pid, process.create_time(), LEFTOVER_SECONDS)


def _open_files(process: psutil.Process) -> set[str]:
    try:
        return {file.path for file in process.open_files()}
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return set()


def aws_environment(s3_url: str) -> dict[str, str]:
    """The AWS settings for the local S3 server."""
    return {"AWS_ENDPOINT_URL": s3_url, **CREDENTIALS, "AWS_DEFAULT_REGION": REGION}


@contextmanager
def in_environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process and what it starts meanwhile."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def make_serving_prefix(s3_url: str) -> None:
    """Put an object where the model repository will be: Triton does not start on a prefix that does not exist."""
    s3 = client(s3_url)
    s3.put_object(Bucket=BUCKET, Key=f"{SERVING_PREFIX}/.enginery", Body=b"")
    s3.close()


def newest_toolchain(family: str) -> str:
    """The name of the newest toolchain there is a pin file for, of those named `<family>-<version>`.

    Raises:
        ToolchainError: when there is none.
    """
    found = [name for name in toolchains.names() if name.rpartition("-")[0] == family]
    if not found:
        raise ToolchainError(f"there is no pin file named {family}-*.txt", remedy="install Enginery again")
    return max(found, key=lambda name: Version(name.rpartition("-")[2]))


def triton_site(log: Log) -> Path:
    """The packages of the toolchain that carries Triton, made first if needed."""
    toolchain = toolchains.ensure(newest_toolchain("triton"), log)
    return next(toolchain.directory.glob("lib/python*/site-packages"))


def serving_python(log: Log) -> Path:
    """The interpreter that served models run in, its toolchain made first if needed."""
    return toolchains.ensure(newest_toolchain("onnxruntime"), log).python
