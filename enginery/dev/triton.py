"""Starts the Triton Inference Server of the wheel `nvidia-pytriton`.

The wheel is not changed. The server also needs a Python backend with a stub for the models' Python version and with
Python's shared library. `write_backends` makes it: a directory of symbolic links beside the server's log.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginery.core import files, process
from enginery.core.errors import CommandError, ToolchainError, UsageError
from enginery.core.process import Service
from enginery.core.progress import Log, no_log
from enginery.dev.ready import LOOPBACK, free_port, free_ports, wait_until_ready

ATTEMPTS = 3
PORT_TAKEN = "in use"
READY_PATH = "/v2/health/ready"
EXIT_SECONDS = 8
PYTHON_BACKEND = "python"
PYTHON_FACTS = """
import json, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "library_directories": [sysconfig.get_config_var("LIBDIR") or "", sys.base_prefix + "/lib"],
}))
"""
ENVIRONMENT = {
    "AWS_EC2_METADATA_DISABLED": "true",  # or else, without credentials, the search for a cloud takes seconds
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class TritonServer:
    """A running server: its HTTP address and its process."""

    url: str
    service: Service


@dataclass(frozen=True)
class ServingPython:
    """The Python environment whose packages the served models use.

    Attributes:
        executable: its interpreter.
        version: such as `3.11`.
        library: its shared library, `libpython`.
    """

    executable: Path
    version: str
    library: Path

    @classmethod
    def find(cls, executable: Path) -> "ServingPython":
        """Ask an interpreter for its version and its shared library.

        Raises:
            ToolchainError: when it has no shared library. Triton's stub must load that library.
            CommandError: when the interpreter cannot be run.
        """
        lines: list[str] = []
        process.run([str(executable), "-c", PYTHON_FACTS], log=lines.append)
        facts = json.loads(lines[-1])
        name = f"libpython{facts['version']}.so.1.0"
        for directory in map(Path, facts["library_directories"]):
            if (directory / name).is_file():
                return cls(executable, facts["version"], directory / name)
        raise ToolchainError(
            f"this Python has no shared library {name}, and Triton's Python backend cannot run without it",
            subject=str(executable),
            remedy="use a Python built with --enable-shared, or install your distribution's libpython package",
        )


def start_triton(  # noqa: PLR0913  what is served, with what, and how it is started
    model_repository: str,
    *,
    triton_site: Path,
    serving_python: Path,
    log_file: Path,
    load_all: bool = False,
    http_port: int | None = None,
    detach: bool = False,
    log: Log = no_log,
    stopping: threading.Event | None = None,
) -> TritonServer:
    """Start a server on loopback, in explicit model-control mode, and wait until it is ready.

    The server reads S3 credentials from the `AWS_*` environment variables.

    Args:
        model_repository: a directory, or `s3://http://host:port/bucket/prefix`, or `s3://bucket/prefix`.
        triton_site: the site-packages directory with `pytriton`.
        serving_python: the interpreter of the environment with `numpy<2`, `tokenizers` and `onnxruntime-genai`.
        log_file: the file to which the server prints. Its backend directory is made beside this file.
        load_all: load every model of the repository. A model that fails does not stop the server.
        http_port: default: a free port.
        detach: let the server run on after this process.
        log: is called with a line every few seconds during the start.
        stopping: another thread sets it to end the wait.

    Raises:
        ToolchainError: when something the server needs is missing.
        UsageError: when the model repository does not exist, or the port is in use.
        CommandError: when the server ends or is not ready in time. It has the server's last lines.
    """
    _check(model_repository, http_port)
    python = ServingPython.find(serving_python)
    backends = write_backends(log_file.with_name(f"{log_file.name}.backends"), triton_site, python)
    environment = server_environment(os.environ, triton_site, backends, python)
    stopping = stopping or threading.Event()
    for attempt in range(ATTEMPTS):
        http, grpc, metrics = free_ports(3)
        ports = (http_port or http, grpc, metrics)
        argv = server_command(model_repository, triton_site, backends, ports, load_all=load_all)
        service = Service.start(argv, env=environment, log_file=log_file, detach=detach)
        server = TritonServer(f"http://{LOOPBACK}:{ports[0]}", service)
        try:
            wait_until_ready("Triton", service, server.url, READY_PATH, log, stopping)
        except BaseException as error:
            lost_its_port = isinstance(error, CommandError) and any(PORT_TAKEN in line for line in error.last_lines)
            service.stop()
            if not lost_its_port or http_port or attempt == ATTEMPTS - 1:
                raise
        else:
            return server
    raise AssertionError("unreachable")  # the last attempt returns or raises


def _check(model_repository: str, http_port: int | None) -> None:
    """Refuse a missing repository, for which Triton would wait for ever, and a port that another server uses."""
    if "://" not in model_repository and not Path(model_repository).is_dir():
        raise UsageError("there is no such model repository", subject=model_repository)
    if http_port and free_port(http_port) != http_port:
        raise UsageError(
            f"port {http_port} is taken", subject="Triton", remedy="stop what listens there, or choose another port"
        )


def server_command(
    model_repository: str, triton_site: Path, backends: Path, ports: tuple[int, int, int], *, load_all: bool
) -> list[str]:
    """The command that starts the server. `ports` are those for HTTP, gRPC and metrics."""
    http, grpc, metrics = ports
    return [
        str(triton_site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={model_repository}",
        "--model-control-mode=explicit",
        f"--backend-directory={backends}",
        f"--http-address={LOOPBACK}",
        f"--http-port={http}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={grpc}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        f"--exit-timeout-secs={EXIT_SECONDS}",
        *(["--load-model=*", "--exit-on-error=false"] if load_all else []),
    ]


def server_environment(
    base: Mapping[str, str], triton_site: Path, backends: Path, python: ServingPython
) -> dict[str, str]:
    """The server's environment. The Python inside the stub ignores `PYTHONPATH`; it finds its packages through `PATH`.

    The stub finds Python's shared library through the link in the backend directory. The library's own directory is not
    on the path: it may be the system's, whose cuDNN would be mixed with the cuDNN of a wheel.
    """
    libraries = [str(triton_site / "nvidia_pytriton.libs"), str((backends / PYTHON_BACKEND).absolute())]
    return {
        **base,
        **ENVIRONMENT,
        "PATH": os.pathsep.join([str(python.executable.parent), base.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *filter(None, [base.get("LD_LIBRARY_PATH")])]),
    }


def write_backends(directory: Path, triton_site: Path, python: ServingPython) -> Path:
    """Make a backend directory with links to the Python backend, the stub for `python` and its shared library.

    Raises:
        ToolchainError: when `triton_site` has no Triton, or no stub for this Python version.
    """
    server = triton_site / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / python.version / "triton_python_backend_stub"
    if not (server / "bin" / "tritonserver").is_file():
        raise ToolchainError("there is no Triton here", subject=str(triton_site), remedy="install nvidia-pytriton")
    if not stub.is_file():
        known = ", ".join(sorted(path.name for path in (server / "python_backend_stubs").iterdir()))
        raise ToolchainError(
            f"this Triton cannot serve models in Python {python.version}", remedy=f"use one of {known} for the models"
        )
    backend = directory / PYTHON_BACKEND
    files.remove_tree(backend)
    backend.mkdir(parents=True)
    for path in [*(server / "backends" / "python").iterdir(), stub, python.library]:
        if path.is_file():
            (backend / path.name).symlink_to(path)
    return directory
