"""The commands, environments, logs and toolchains of the local services, and the end of leftover processes."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from enginery import toolchains
from enginery.core.errors import ToolchainError
from enginery.core.home import services_dir
from enginery.core.process import SUPERVISOR, stop_pid
from enginery.core.progress import Log
from enginery.dev.ready import LOOPBACK
from enginery.dev.s3_server import CREDENTIALS, REGION, client

TITLES = {"prefect": "Prefect", "s3": "S3", "triton": "Triton"}
HEALTH = "/api/health"
BUCKET = "enginery"
REGISTRY = f"s3://{BUCKET}/demo"
SERVING_PREFIX = "demo/serving/tiny-llama"
LEFTOVER_SECONDS = 30.0


def prefect_command(port: int) -> list[str]:
    """The command that starts Prefect's server."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]


def prefect_environment(directory: Path, port: int) -> Mapping[str, str]:
    """The environment of Prefect's server. The user's own Prefect settings are for other servers and are left out."""
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
    """The file to which a service prints."""
    return services_dir() / "logs" / f"{name}.log"


def end_leftovers(name: str) -> None:
    """End the processes that a killed start of a service has left: the supervisors that still write to its log."""
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
    """Set environment variables for this process, and for the processes that it starts in this context."""
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
    """Put an object under the prefix of the model repository: Triton does not start if the prefix is empty."""
    s3 = client(s3_url)
    s3.put_object(Bucket=BUCKET, Key=f"{SERVING_PREFIX}/.enginery", Body=b"")
    s3.close()


def newest_toolchain(family: str) -> str:
    """The name of the newest toolchain `<family>-<version>` that has a pin file.

    Raises:
        ToolchainError: when there is no such toolchain.
    """
    found = toolchains.newest(family)
    if found is None:
        raise ToolchainError(f"there is no pin file named {family}-*.txt", remedy="install Enginery again")
    return found


def triton_site(log: Log) -> Path:
    """The site-packages directory of Triton's toolchain. The toolchain is made if it is missing."""
    toolchain = toolchains.ensure(newest_toolchain("triton"), log)
    return next(toolchain.directory.glob("lib/python*/site-packages"))


def serving_python(log: Log) -> Path:
    """The Python interpreter of the served models. Its toolchain is made if it is missing."""
    return toolchains.ensure(newest_toolchain("onnxruntime"), log).python
