"""The home directory of the benchmarks, which is kept between runs, and the services and the example build in it."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginery.core.home import logs_dir, services_dir
from enginery.core.process import Service
from enginery.dev import (
    BUCKET,
    HEALTH,
    aws_environment,
    free_port,
    in_environment,
    prefect_command,
    prefect_environment,
    wait_until_ready,
)
from enginery.pipeline import Plan, make_plan, run_step
from enginery.spec import read_spec
from enginery.store import Store, open_store

REPOSITORY = Path(__file__).parent.parent
ROOT = REPOSITORY / ".enginery" / "bench"
EXAMPLE = REPOSITORY / "infra" / "models" / "tiny-llama.yaml"

NOT_INHERITED = ("PREFECT_", "ENGINERY_", "AWS_", "MAKE", "MFLAGS")
"""The beginnings of environment variables, of the user and of `make`, that would change the measurement."""

NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


@dataclass(frozen=True)
class Example:
    """The example model with every step done.

    Attributes:
        plan: the model's plan.
        store: where the steps' outputs are.
    """

    plan: Plan
    store: Store


def settle_environment() -> bool:
    """Remove the user's settings from this process and its children, and set the benchmarks' home.

    Returns:
        Whether `PYTHONDONTWRITEBYTECODE` was set. It is removed, because with it each start of Python would compile all
        modules again. Users do not have that.
    """
    for name in [name for name in os.environ if name.startswith(NOT_INHERITED)]:
        del os.environ[name]
    was_set = os.environ.pop(NO_BYTECODE, None)
    sys.dont_write_bytecode = False
    os.environ["ENGINERY_HOME"] = str(ROOT / "home")
    return bool(was_set)


@contextmanager
def example() -> Iterator[Example]:
    """The example with every step done. The S3 server with its builds runs until the block ends."""
    with _s3():
        plan, store = make_plan(read_spec(EXAMPLE)), open_store()
        for planned in plan.steps:
            run_step(planned, store, lambda _line: None)
        yield Example(plan, store)


@contextmanager
def _s3() -> Iterator[None]:
    port = free_port()
    places = ["--directory", str(services_dir() / "s3"), "--bucket", BUCKET]
    argv = [sys.executable, "-m", "enginery.dev.s3_server", "--port", str(port), *places]
    url = f"http://127.0.0.1:{port}"
    with running("s3", argv, dict(os.environ), url, "/"), in_environment(aws_environment(url)):
        yield


@contextmanager
def prefect_server(directory: Path, *, database: str | None = None) -> Iterator[str]:
    """Start a new Prefect server and yield the address of its API. Without `database` it has one in `directory`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    named = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
    with running("prefect", prefect_command(port), {**prefect_environment(directory, port), **named}, url, HEALTH):
        yield f"{url}/api"


@contextmanager
def running(name: str, argv: list[str], environment: dict[str, str], url: str, path: str) -> Iterator[None]:
    """Run a service until the block ends. The block begins when the service answers at `path` of `url`."""
    service = Service.start(argv, env=environment, log_file=logs_dir() / f"{name}.log")
    try:
        wait_until_ready(name, service, url, path, lambda _line: None, threading.Event())
        yield
    finally:
        service.stop()
