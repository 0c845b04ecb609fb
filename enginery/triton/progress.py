"""What a model repository remembers of its rollouts, so that one that died is undone by the next."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field, ValidationError

from enginery.errors import RolloutError
from enginery.steps import Frozen
from enginery.triton.placement import ServingRepository
from enginery.worker import Worker

STATE_FILE = "rollout.json"
STATE_SCHEMA = 1

Phase = Literal["placing", "loading", "checking", "done"]


class Placed(Frozen):
    """A build as a model repository holds it: its name and its version directory's number."""

    build_id: str
    version: int


class RolloutState(Frozen):
    """What a model repository serves, and what is being put in its place.

    Attributes:
        phase: how far the last rollout has come; anything but `done` with no process at work means that it died.
        serving: the build of the last rollout that came to its end; None before the first.
        previous: the build before that; the files of its models are still there, but of those that the build in
            service does not have.
        coming: the build that is being rolled out.
        configs: the configurations before the rollout, by model, to be put back when it fails.
        endpoints: the servers it loads the build into.
        touched: by server, the models it has told that server to load; only these are undone there.
        worker: the process that does it.
        since: when the phase began, UTC.
    """

    schema_version: int = STATE_SCHEMA
    phase: Phase
    serving: Placed | None = None
    previous: Placed | None = None
    coming: Placed | None = None
    configs: Mapping[str, str] = Field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    touched: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    worker: Worker
    since: datetime


def read_state(repository: ServingRepository) -> RolloutState | None:
    """What the repository remembers, or None before its first rollout.

    Raises:
        RolloutError: when it cannot be understood.
    """
    data = repository.read(STATE_FILE)
    if data is None:
        return None
    try:
        return RolloutState.model_validate_json(data)
    except ValidationError as error:
        remedy = f"look at what the servers serve, then remove {STATE_FILE} and roll out again"
        raise RolloutError(f"{STATE_FILE} cannot be understood", subject=repository.where, remedy=remedy) from error


def write_state(repository: ServingRepository, state: RolloutState) -> None:
    """Remember it."""
    repository.write(STATE_FILE, state.model_dump_json(indent=1).encode())
