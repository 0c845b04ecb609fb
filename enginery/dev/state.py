"""What is remembered of the local services: which processes they are and where they listen."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from enginery.files import write_atomic
from enginery.home import services_dir
from enginery.service import running, stop_pid

STATE_SCHEMA = 1
STOP_SECONDS = 30.0


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

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """End it, kindly for so long; says whether it was still running."""
        return stop_pid(self.pid, self.created, seconds)


class State(BaseModel):
    """All services, by name."""

    schema_version: int = STATE_SCHEMA
    services: dict[str, Entry] = {}

    def alive(self) -> dict[str, Entry]:
        """Those that still run."""
        return {name: entry for name, entry in self.services.items() if entry.alive()}


def state_file() -> Path:
    """Where it is remembered."""
    return services_dir() / "services.json"


def read_state() -> State:
    """What is remembered; nothing when there is no file, or one that cannot be understood."""
    try:
        return State.model_validate_json(state_file().read_bytes())
    except FileNotFoundError:
        return State()
    except ValidationError:  # of another version; its processes have to be found by hand
        return State()


def write_state(state: State) -> None:
    """Remember, replacing what was there at once."""
    write_atomic(state_file(), json.dumps(state.model_dump(mode="json"), indent=2), mode=0o600)


@contextmanager
def exclusive() -> Iterator[None]:
    """Only one at a time changes the services."""
    services_dir().mkdir(parents=True, exist_ok=True)
    with FileLock(services_dir() / "services.lock"):
        yield
