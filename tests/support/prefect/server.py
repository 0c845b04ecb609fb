"""A real Prefect server on a free port with a home and a database of its own, one for each test session."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from enginery.core.process.command import run
from enginery.core.process.service import Service
from enginery.dev.ready import answers, free_port
from enginery.dev.servers import HEALTH, prefect_command, prefect_environment
from tests.support.paths import shared_by_workers
from tests.support.waiting import wait_until

DATABASE = "prefect.db"


@pytest.fixture(scope="session")
def prefect_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Prefect's tables, which are empty. Making the tables takes most of a server's first start."""
    made = shared_by_workers(tmp_path_factory) / "prefect-tables"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            directory = tmp_path_factory.mktemp("prefect-tables")
            upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            run(upgrade, cwd=directory, env=prefect_environment(directory, 0))
            with closing(sqlite3.connect(directory / DATABASE)) as source, closing(sqlite3.connect(made)) as copy:
                source.backup(copy)
    return made


@contextmanager
def running_prefect_server(
    directory: Path, tables: Path | None = None, **settings: str
) -> Iterator[tuple[str, Service]]:
    """Run a server with its data in `directory` and yield its address. Its API is at `/api`.

    `tables` is the database that `prefect_tables` has made. Without it, `settings` name another database.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    if tables:
        shutil.copyfile(tables, directory / DATABASE)
    environment = {**prefect_environment(directory, port), **settings}
    service = Service.start(prefect_command(port), env=environment, log_file=directory / "server.log")
    try:
        wait_until(lambda: answers(url, HEALTH) or not service.alive(), seconds=300)
        assert service.alive(), service.last_lines()
        yield url, service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def prefect_server(prefect_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address."""
    with running_prefect_server(tmp_path_factory.mktemp("prefect"), prefect_tables) as (url, _):
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
