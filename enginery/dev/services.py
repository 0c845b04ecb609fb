"""Starts the local services in parallel, uses services again that already run, and stops all of them together."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginery.core.files import write_atomic
from enginery.core.home import services_dir
from enginery.core.locks import file_lock
from enginery.core.process import Service, running, stop_pid
from enginery.core.progress import Log
from enginery.core.threads import side_by_side
from enginery.dev.ready import LOOPBACK, answers, free_port, wait_until_ready
from enginery.dev.servers import (
    BUCKET,
    HEALTH,
    REGISTRY,
    SERVING_PREFIX,
    TITLES,
    aws_environment,
    end_leftovers,
    in_environment,
    log_file,
    make_serving_prefix,
    prefect_command,
    prefect_environment,
    serving_python,
    triton_site,
)
from enginery.dev.triton import start_triton

STATE_SCHEMA = 1
USUAL_PORTS = {"prefect": 4200, "s3": 9000, "triton": 8000}
STOP_PATIENCE_SECONDS = 30.0
STOP_SECONDS = {"prefect": 10.0, "s3": 30.0, "triton": 1.0}
"""Seconds until SIGKILL. S3 has objects to save. Triton has nothing to save, and takes long to unload its models."""
STATE_FILE = "services.json"
READY_PATHS = {"prefect": HEALTH, "s3": "/", "triton": "/v2/health/live"}


@dataclass(frozen=True)
class Services:
    """The addresses of the local services.

    Attributes:
        prefect_api: the value for `PREFECT_API_URL`.
        prefect_ui: the address to open in a browser.
        s3_url: the value for `AWS_ENDPOINT_URL`.
        triton_url: Triton's HTTP address.
    """

    prefect_api: str
    prefect_ui: str
    s3_url: str
    triton_url: str

    def addresses(self) -> dict[str, str]:
        """Name of a service -> its address, for people."""
        return {"prefect": self.prefect_ui, "s3": self.s3_url, "triton": self.triton_url}


def up(log: Log) -> Services:
    """Start the services that do not run yet. They run on after this process, until `down`.

    Raises:
        CommandError: when a service ends during its start. It has the service's last lines.
        ToolchainError: when Triton's environment cannot be made.
    """
    with _exclusive():
        return Group(log, detach=True).start()


@contextmanager
def session(log: Log) -> Iterator[Services]:
    """Start the services that do not run yet, and stop them at the end of the context. Others run on."""
    group = Group(log, detach=False)
    with _exclusive():
        services = group.start()
    try:
        yield services
    finally:
        with _exclusive():
            group.stop()


def down(log: Log) -> None:
    """Stop all services. Their data is kept for the next start."""
    with _exclusive():
        alive = read_state().alive()
        if not alive:
            log("the local services are not running")
        _stop({name: entry.stop for name, entry in alive.items()}, log)
        for name in TITLES:
            end_leftovers(name)


def status() -> Services | None:
    """The addresses of the services; None unless all of them run and answer."""
    found = {name: entry for name, entry in read_state().alive().items() if answers(entry.url, READY_PATHS[name])}
    return _services(found) if set(found) == set(TITLES) else None


def environment(services: Services) -> dict[str, str]:
    """Environment variables with which Enginery, Prefect and AWS clients use the local services."""
    return {
        **aws_environment(services.s3_url),
        "PREFECT_API_URL": services.prefect_api,
        "ENGINERY_REGISTRY": REGISTRY,
    }


class Entry(BaseModel):
    """A running service.

    Attributes:
        pid: together with `created`, identifies the process, as in `Service`.
        url: the address on which the service listens.
        log_file: the file to which the service prints.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    url: str
    log_file: Path

    def alive(self) -> bool:
        """Whether the process still runs."""
        return running(self.pid, self.created) is not None

    def stop(self, seconds: float = STOP_PATIENCE_SECONDS) -> bool:
        """End the service, with SIGKILL after `seconds`. Returns whether it was still running."""
        return stop_pid(self.pid, self.created, seconds)


class State(BaseModel):
    """All services by name, and the last port of each service. A service that starts again gets the same port."""

    schema_version: int = STATE_SCHEMA
    services: dict[str, Entry] = {}
    ports: dict[str, Annotated[int, Field(ge=1, le=65535)]] = {}

    def alive(self) -> dict[str, Entry]:
        """The services that still run."""
        return {name: entry for name, entry in self.services.items() if entry.alive()}


def read_state() -> State:
    """The saved state; empty when the file is missing or not valid."""
    try:
        return State.model_validate_json((services_dir() / STATE_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):  # a file of another version: its processes are not found
        return State()


def write_state(services: Mapping[str, Entry], ports: Mapping[str, int]) -> None:
    """Save the services and their ports, atomically."""
    state = State(services=dict(services), ports=dict(ports))
    write_atomic(services_dir() / STATE_FILE, state.model_dump_json(indent=2), mode=0o600)


def port_for(service: str) -> int:
    """The service's last port, so that its address stays the same; or else its usual port; or else any free port."""
    for wanted in filter(None, (read_state().ports.get(service), USUAL_PORTS[service])):
        if free_port(wanted) == wanted:
            return wanted
    return free_port()


def _exclusive() -> AbstractContextManager[None]:
    """Let only one process at a time change the services."""
    return file_lock(services_dir() / "services.lock")


def _services(entries: Mapping[str, Entry]) -> Services:
    ui = entries["prefect"].url
    return Services(prefect_api=f"{ui}/api", prefect_ui=ui, s3_url=entries["s3"].url, triton_url=entries["triton"].url)


def _stop(stops: Mapping[str, Callable[[float], object]], log: Log) -> None:
    """Call the stop function of each service, in parallel, with its grace in seconds. Remove them from the state."""
    for name in stops:
        log(f"{TITLES[name]}: stopping")
    side_by_side(lambda name: stops[name](STOP_SECONDS[name]), stops)
    state = read_state()
    write_state({name: entry for name, entry in state.services.items() if name not in stops}, state.ports)


class Group:
    """Starts the services that are missing.

    Attributes:
        log: is called with a line for each event.
        detach: let the started services run on after this process.
        entries: all services that run.
        new: the services that this group has started.
        stopping: set when a service has failed, so that the others are no longer needed.
    """

    def __init__(self, log: Log, *, detach: bool) -> None:
        self.log, self.detach = log, detach
        self.entries: dict[str, Entry] = {}
        self.new: dict[str, Service] = {}
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> Services:
        """Start the services that do not run or do not answer."""
        self._find_running()
        try:
            self._start_missing()
        except BaseException:
            self.stop()
            raise
        return _services(self.entries)

    def _find_running(self) -> None:
        for name, entry in read_state().alive().items():
            if answers(entry.url, READY_PATHS[name]):
                self.entries[name] = entry
                self.log(f"{TITLES[name]}: runs already at {entry.url}")
            else:
                entry.stop()
        if "s3" not in self.entries and "triton" in self.entries:  # this Triton reads from an S3 server that has ended
            self.entries.pop("triton").stop()

    def stop(self) -> None:
        """Stop the services that this group has started."""
        _stop({name: service.stop for name, service in self.new.items()}, self.log)

    def _start_missing(self) -> None:
        """Start Prefect and S3 while the toolchains are made. Then start Triton, which needs S3."""
        starts = {"s3": self.start_s3, "prefect": self.start_prefect}
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="services") as threads, self._stopping_all():
            waiting = {name: threads.submit(self._run, starts[name]) for name in starts if name not in self.entries}
            if "triton" not in self.entries:
                site, python = triton_site(self.log), serving_python(self.log)
                if "s3" in waiting:
                    waiting["s3"].result()
                self._start_triton(self.entries["s3"].url, site, python)
            for future in waiting.values():
                future.result()

    def _run(self, start: Callable[[], None]) -> None:
        with self._stopping_all():
            start()

    @contextmanager
    def _stopping_all(self) -> Iterator[None]:
        """If this block fails, stop waiting for the services that start at the same time."""
        try:
            yield
        except BaseException:
            self.stopping.set()
            raise

    def start_prefect(self) -> None:
        """Start the Prefect server with its UI. Its database is in Enginery's home."""
        directory = services_dir() / "prefect"
        directory.mkdir(parents=True, exist_ok=True)
        end_leftovers("prefect")  # they may use the port
        port = port_for("prefect")
        self._start("prefect", prefect_command(port), prefect_environment(directory, port), port)

    def start_s3(self) -> None:
        """Start the S3 server. Its objects are in Enginery's home."""
        end_leftovers("s3")
        port = port_for("s3")
        places = ["--directory", str(services_dir() / "s3"), "--bucket", BUCKET]
        self._start(
            "s3", [sys.executable, "-m", "enginery.dev.s3_server", "--port", str(port), *places], os.environ, port
        )

    def _start(self, name: str, argv: list[str], environment: Mapping[str, str], port: int) -> None:
        self.log(f"{TITLES[name]}: starting")
        url = f"http://{LOOPBACK}:{port}"
        service = Service.start(argv, env=environment, log_file=log_file(name), detach=self.detach)
        self._note(name, service, url)
        wait_until_ready(TITLES[name], service, url, READY_PATHS[name], self.log, self.stopping)

    def _start_triton(self, s3_url: str, site: Path, python: Path) -> None:
        """Start the Triton server. It reads the demo's model repository from the S3 server at `s3_url`."""
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
        self._note("triton", server.service, server.url)

    def _note(self, name: str, service: Service, url: str) -> None:
        entry = Entry(pid=service.pid, created=service.created, url=url, log_file=service.log_file)
        with self._lock:
            self.entries[name] = entry
            self.new[name] = service
            write_state(self.entries, read_state().ports | {name: urlsplit(url).port or 0})
