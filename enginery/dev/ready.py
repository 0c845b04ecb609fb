"""Free ports, and waiting until a service answers."""

import socket
import threading
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from enginery.core.errors import CommandError, EngineryError
from enginery.core.process import Service
from enginery.core.progress import Log

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.1
LOG_SECONDS = 5.0
LIMIT_SECONDS = 180.0
ANSWER_SECONDS = 2.0
HTTP_ERRORS = 400


def free_port(preferred: int = 0) -> int:
    """The port `preferred` when nothing listens there, or else any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, preferred))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """`count` different free ports."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def answers(url: str, path: str) -> bool:
    """Whether the server at `url` answers a GET of `path` without an error."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < HTTP_ERRORS
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def wait_until_ready(  # noqa: PLR0913, PLR0917  the service, its address and where to log
    name: str, service: Service, url: str, path: str, log: Log, stopping: threading.Event
) -> None:
    """Wait until a new service answers at `path`. Every few seconds, log that it is still starting.

    Raises:
        CommandError: when the service ends, or does not answer for three minutes. It has the service's last lines.
        EngineryError: when `stopping` is set, because another service has failed.
    """
    started = logged = time.monotonic()
    while not answers(url, path):
        if stopping.wait(POLL_SECONDS):
            raise EngineryError(f"{name} is no longer needed, as another service has failed")
        now = time.monotonic()
        if not service.alive():
            raise _failed(name, "ended while it was starting", service)
        if now - started > LIMIT_SECONDS:
            raise _failed(name, f"did not answer within {LIMIT_SECONDS:.0f} s", service)
        if now - logged > LOG_SECONDS:
            logged = now
            log(f"{name}: still starting ({now - started:.0f} s)")
    log(f"{name}: ready at {url} ({time.monotonic() - started:.1f} s)")


def _failed(name: str, how: str, service: Service) -> CommandError:
    return CommandError(
        f"the local {name} server {how}",
        remedy=f"read {service.log_file}",
        last_lines=service.last_lines(10),
    )
