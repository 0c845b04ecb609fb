"""A fleet on one machine: Prefect's server on a real PostgreSQL, S3, and workers that share only these two.

Each worker has a home, a Prefect home and a working directory of its own, as on separate machines. They share the code.
"""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging.handlers import APILogWorker

from enginery.core.process.command import run
from enginery.core.process.service import Service
from tests.support.paths import CHECKOUT
from tests.support.prefect.postgres import postgres
from tests.support.prefect.server import running_prefect_server

LEASE_SECONDS = "3"


@contextmanager
def prefect_on_postgres(directory: Path) -> Iterator[str]:
    """Run a new Prefect server on a PostgreSQL and yield the address of its API."""
    with (
        postgres() as database,
        running_prefect_server(directory, PREFECT_API_DATABASE_CONNECTION_URL=database) as (url, _),
    ):
        try:
            yield f"{url}/api"
        finally:
            APILogWorker.drain_all()


class Machine:
    """A worker of one pool, with a home of its own."""

    def __init__(self, pool: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.pool, self.directory = pool, directory
        self.home = directory / "home"
        self.environment = {
            **environment,
            "ENGINERY_HOME": str(self.home),
            "PREFECT_HOME": str(directory / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
        }
        (directory / "work").mkdir(parents=True)
        self.service: Service | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--name", self.directory.name]
        log_file = self.directory / "worker.log"
        self.service = Service.start(argv, env=self.environment, cwd=self.directory / "work", log_file=log_file)

    def stop(self) -> None:
        if self.service is not None:
            self.service.stop()

    def processes(self) -> list[psutil.Process]:
        """The worker and all its child processes."""
        assert self.service is not None
        with suppress(psutil.NoSuchProcess):
            return [psutil.Process(self.service.pid), *psutil.Process(self.service.pid).children(recursive=True)]
        return []

    def kill(self) -> None:
        """Send SIGKILL to every process, to imitate a power failure."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.stop()


class Fleet:
    """The server, the store and the machines.

    Attributes:
        store: the address of the store in S3.
        machines: the machines, by the name of their pool.
    """

    def __init__(self, api: str, directory: Path, store: str, environment: Mapping[str, str]) -> None:
        self.api, self.directory, self.store = api, directory, store
        self.environment = {
            **environment,
            "PREFECT_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(directory / "operator"),
            "ENGINERY_LEASE_SECONDS": LEASE_SECONDS,
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self.machines: dict[str, Machine] = {}

    def python(self, *arguments: str) -> str:
        """Run Python in the checkout and return the end of its output."""
        return "\n".join(run([sys.executable, *arguments], cwd=CHECKOUT, env=self.environment, timeout=240).last_lines)

    def start(self, pool: str, *, toolchains: Path | None = None) -> Machine:
        """Start a worker on a machine of its own. `toolchains` is the directory of toolchains in its image."""
        machine = self.machines[pool] = Machine(pool, self.directory / pool, self.environment)
        if toolchains:
            machine.home.mkdir()
            (machine.home / "toolchains").symlink_to(toolchains)
        machine.start()
        return machine

    def stop(self) -> None:
        for machine in self.machines.values():
            machine.stop()


def forget_clients() -> None:
    """Make Prefect's S3 blocks read the AWS settings again: they keep their clients as long as the process runs."""
    from prefect_aws.credentials import _get_client_cached

    _get_client_cached.cache_clear()


def flow_run(identifier: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(identifier)


def ended(identifier: UUID) -> bool:
    state = flow_run(identifier).state
    return state is not None and state.is_final()
