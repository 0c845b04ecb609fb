"""Which ports the local services listen on: those of last time when they are free, so that addresses stay."""

import json
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from enginery.dev.ready import free_port
from enginery.files import write_atomic
from enginery.home import services_dir

USUAL_PORTS = {"prefect": 4200, "s3": 9000, "triton": 8000}
_PORTS = TypeAdapter(dict[str, Annotated[int, Field(ge=1, le=65535)]])


def port_for(service: str) -> int:
    """The service's port of last time when it is free, else its usual one when that is free, else any."""
    for wanted in filter(None, (_last_ports().get(service), USUAL_PORTS[service])):
        if free_port(wanted) == wanted:
            return wanted
    return free_port()


def remember_port(service: str, port: int) -> None:
    """Note where a service listens, for the next time. Not to be called by two threads at once.

    Raises:
        StoreError: when it cannot be written.
    """
    ports = _last_ports() | {service: port}
    write_atomic(services_dir() / "ports.json", json.dumps(ports, indent=2))


def _last_ports() -> dict[str, int]:
    """What was noted; nothing when there is no file, or one that cannot be understood."""
    try:
        return _PORTS.validate_json((services_dir() / "ports.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
