"""A real Prefect server on a free port with a home and a database of its own, one for each test session."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from enginery.core.process.service import Service
from enginery.dev.ready import answers, free_port
from enginery.dev.servers import HEALTH, prefect_command, prefect_environment
from tests.support.waiting import wait_until


@contextmanager
def running_prefect_server(directory: Path) -> Iterator[str]:
    """Run a server with its data in `directory` and yield its address. Its API is at `/api`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log_file = directory / "server.log"
    service = Service.start(prefect_command(port), env=prefect_environment(directory, port), log_file=log_file)
    try:
        wait_until(lambda: answers(url, HEALTH) or not service.alive(), seconds=300)
        assert service.alive(), service.last_lines()
        yield url
    finally:
        service.stop()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address."""
    with running_prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        try:
            yield url
        finally:
            APILogWorker.drain_all()  # otherwise it reports at the end that its server is gone


@pytest.fixture
def prefect_api(prefect_server: str, tmp_path: Path) -> Iterator[str]:
    """The address of the server's API; Prefect's settings in this test name it."""
    api = f"{prefect_server}/api"
    with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: tmp_path / "prefect-home"}):
        yield api
