"""The local services as a whole: started side by side, reused when they run already, stopped together."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from enginery.core.files import write_atomic
from enginery.core.home import services_dir
from enginery.core.locks import file_lock
from enginery.core.process import Service, running, stop_pid
from enginery.core.progress import Log
from enginery.core.threads import side_by_side
from enginery.dev.ready import answers
from enginery.dev.servers import (
    HEALTH,
    REGISTRY,
    TITLES,
    Launcher,
    aws_environment,
    end_leftovers,
    remember_port,
    serving_python,
    triton_site,
)

STATE_SCHEMA = 1
STOP_PATIENCE_SECONDS = 30.0
STOP_SECONDS = {"prefect": 10.0, "s3": 30.0, "triton": 1.0}
"""S3 has objects to save; Triton has nothing to save, and would take long to unload every model."""
READY_PATHS = {"prefect": HEALTH, "s3": "/", "triton": "/v2/health/live"}


@dataclass(frozen=True)
class Services:
    """Where the local services are.

    Attributes:
        prefect_api: for `PREFECT_API_URL`.
        prefect_ui: for a browser.
        s3_url: for `AWS_ENDPOINT_URL`.
        triton_url: Triton's HTTP address.
    """

    prefect_api: str
    prefect_ui: str
    s3_url: str
    triton_url: str

    def addresses(self) -> dict[str, str]:
        """Name -> address, for people."""
        return {"prefect": self.prefect_ui, "s3": self.s3_url, "triton": self.triton_url}


def up(log: Log) -> Services:
    """Start the services that do not run yet; they outlive this process, until `down`.

    Raises:
        CommandError: when a service ends while it starts, with its last lines.
        ToolchainError: when Triton's environment cannot be made.
    """
    with exclusive():
        return _bring_up(log, detach=True).services


@contextmanager
def session(log: Log) -> Iterator[Services]:
    """The services for as long as the block lasts. Those that ran before it stay; the others end with it.

    Raises:
        CommandError: when a service ends while it starts, with its last lines.
        ToolchainError: when Triton's environment cannot be made.
    """
    with exclusive():
        group = _bring_up(log, detach=False)
    try:
        yield group.services
    finally:
        with exclusive():
            group.stop()


def down(log: Log) -> None:
    """Stop all of them; their data is kept for the next time."""
    with exclusive():
        alive = read_state().alive()
        if not alive:
            log("the local services are not running")
        _stop({name: entry.stop for name, entry in alive.items()}, log)
        for name in TITLES:
            end_leftovers(name)


def status() -> Services | None:
    """The addresses; None unless all services run and answer."""
    found = {name: entry for name, entry in read_state().alive().items() if answers(entry.url, READY_PATHS[name])}
    return _services(found) if set(found) == set(TITLES) else None


def environment(services: Services) -> dict[str, str]:
    """The settings that point Enginery, Prefect and AWS clients at the local services."""
    return {
        **aws_environment(services.s3_url),
        "PREFECT_API_URL": services.prefect_api,
        "ENGINERY_REGISTRY": REGISTRY,
    }


class Entry(BaseModel):
    """One service.

    Attributes:
        pid: with `created`, names its process.
        url: where it listens.
        log_file: what it prints.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    url: str
    log_file: Path

    def alive(self) -> bool:
        """Whether its process still runs."""
        return running(self.pid, self.created) is not None

    def stop(self, seconds: float = STOP_PATIENCE_SECONDS) -> bool:
        """End it, by SIGKILL after so many seconds; says whether it was still running."""
        return stop_pid(self.pid, self.created, seconds)


class State(BaseModel):
    """All services, by name."""

    schema_version: int = STATE_SCHEMA
    services: dict[str, Entry] = {}

    def alive(self) -> dict[str, Entry]:
        """The services that still run."""
        return {name: entry for name, entry in self.services.items() if entry.alive()}


def state_file() -> Path:
    """Where the services are noted."""
    return services_dir() / "services.json"


def read_state() -> State:
    """The noted services; none when there is no file, or one that cannot be read."""
    try:
        return State.model_validate_json(state_file().read_bytes())
    except (FileNotFoundError, ValidationError):  # one of another version: its processes have to be found by hand
        return State()


def write_state(state: State) -> None:
    """Note the services, atomically."""
    write_atomic(state_file(), json.dumps(state.model_dump(mode="json"), indent=2), mode=0o600)


@contextmanager
def exclusive() -> Iterator[None]:
    """Let only one process at a time change the services."""
    with file_lock(services_dir() / "services.lock"):
        yield


def _services(entries: dict[str, Entry]) -> Services:
    ui = entries["prefect"].url
    return Services(prefect_api=f"{ui}/api", prefect_ui=ui, s3_url=entries["s3"].url, triton_url=entries["triton"].url)


def _stop(stops: Mapping[str, Callable[[float], object]], log: Log) -> None:
    """Stop these side by side, each by its function, which takes the seconds of grace; and forget them."""
    for name in stops:
        log(f"{TITLES[name]}: stopping")
    side_by_side(lambda name: stops[name](STOP_SECONDS[name]), stops)
    kept = {name: entry for name, entry in read_state().services.items() if name not in stops}
    write_state(State(services=kept))


def _bring_up(log: Log, *, detach: bool) -> "_Group":
    """Start the services that do not run or do not answer."""
    group = _Group(log, detach=detach)
    try:
        group.start()
    except BaseException:
        group.launcher.stopping.set()
        group.stop()
        raise
    return group


class _Group:
    """The services while they are brought up.

    Attributes:
        entries: all that are there.
        new: the processes that this group has started.
    """

    def __init__(self, log: Log, *, detach: bool) -> None:
        self.entries: dict[str, Entry] = {}
        self.new: dict[str, Service] = {}
        self.lock = threading.Lock()
        self.launcher = Launcher(log, detach, self._started, threading.Event())
        for name, entry in read_state().alive().items():
            if answers(entry.url, READY_PATHS[name]):
                self.entries[name] = entry
                log(f"{TITLES[name]}: runs already at {entry.url}")
            else:
                entry.stop()
        if "s3" not in self.entries and "triton" in self.entries:  # it reads from an S3 server that is gone
            self.entries.pop("triton").stop()

    @property
    def services(self) -> Services:
        """Where they all are, once started."""
        return _services(self.entries)

    def stop(self) -> None:
        """Stop what this group has started."""
        _stop({name: service.stop for name, service in self.new.items()}, self.launcher.log)

    def start(self) -> None:
        """Start what is missing: Prefect and S3 while the toolchains are made, then Triton, which needs S3."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="services") as threads:
            waiting = [
                threads.submit(self._guarded, start)
                for name, start in (("s3", self.launcher.s3), ("prefect", self.launcher.prefect))
                if name not in self.entries
            ]
            try:
                if "triton" not in self.entries:
                    self._start_triton(waiting[0].result if "s3" not in self.entries else lambda: None)
                for future in waiting:
                    future.result()
            except BaseException:
                self.launcher.stopping.set()
                raise

    def _start_triton(self, s3_is_ready: Callable[[], None]) -> None:
        triton_site(self.launcher.log)
        serving_python(self.launcher.log)
        s3_is_ready()
        self.launcher.triton(self.entries["s3"].url)

    def _guarded(self, start: Callable[[], None]) -> None:
        """Start one service; when it fails, the others stop too."""
        try:
            start()
        except BaseException:
            self.launcher.stopping.set()
            raise

    def _started(self, name: str, service: Service, url: str) -> None:
        entry = Entry(pid=service.pid, created=service.created, url=url, log_file=service.log_file)
        with self.lock:
            self.entries[name] = entry
            self.new[name] = service
            write_state(State(services=self.entries))
            remember_port(name, urlsplit(url).port or 0)
