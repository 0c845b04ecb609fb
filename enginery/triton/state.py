"""The state of a model repository's rollouts; undoes a rollout that failed or died.

The state is a file in the model repository. It is written before each change. So when a rollout dies, the next rollout
can undo it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, ValidationError

from enginery.builds import CONFIG
from enginery.core.errors import RolloutError
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.triton.client import TritonClient
from enginery.triton.loading import ENSEMBLE, LOAD_ORDER, load_model, loaded_labels, serves
from enginery.triton.placement import ServingRepository, remove_version

STATE_FILE = "rollout.json"
STATE_SCHEMA = 1

Phase = Literal["placing", "loading", "checking", "done"]


class Placed(Frozen):
    """A build in a model repository, with the number of its version directories."""

    build_id: str
    version: int


class RolloutState(Frozen):
    """The build that a model repository serves, and the rollout in progress, if there is one.

    Attributes:
        phase: the progress of the last rollout. If it is not `done` and `worker` does not run, the rollout died.
        serving: the build of the last rollout that succeeded; None before the first.
        previous: the build before that. Its files are kept, except those of models that `serving` does not have.
        coming: the build that is being rolled out; None if no rollout is in progress.
        configs: model -> its configuration before the rollout, to restore it when the rollout fails.
        endpoints: the servers of the last rollout.
        touched: server -> the models that it has loaded or unloaded in this rollout; only these are undone there.
        worker: the process of the rollout.
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

    def ended(self) -> "RolloutState":
        """The state after the rollout has ended."""
        return self.model_copy(
            update={"phase": "done", "coming": None, "configs": {}, "touched": {}, "since": datetime.now(UTC)}
        )


def read_state(repository: ServingRepository) -> RolloutState | None:
    """Read the state, or return None before the first rollout.

    Raises:
        RolloutError: when the file of the state cannot be understood.
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
    """Write the state into the repository."""
    repository.write(STATE_FILE, state.model_dump_json(indent=1).encode())


def undo(repository: ServingRepository, state: RolloutState) -> tuple[RolloutState, list[str]]:
    """Undo a rollout's own changes: restore configurations, load the previous models, remove the new files.

    Returns the state afterwards, and a sentence for each server where the previous models could not be loaded.
    """
    version = str(state.coming.version) if state.coming else ""
    for model in {model for model, name in repository.entries() if name == version} | state.configs.keys():
        if model in state.configs:
            repository.write(f"{model}/{CONFIG}", state.configs[model].encode())
        else:
            repository.remove(f"{model}/{CONFIG}")
    problems = [
        problem for url, models in state.touched.items() for problem in _restore(url, models, repository, state)
    ]
    if state.coming:
        remove_version(repository, state.coming.version)
    undone = state.ended()
    write_state(repository, undone)
    return undone, problems


def what_serves(urls: Sequence[str], before: Placed | None) -> str:
    """What the servers really serve after the undo, as text for a message."""
    try:
        clients = [TritonClient(url) for url in urls]
        labels = {label for client in clients for label in loaded_labels(client).values()}
        if before and labels == {before.build_id} and all(client.ready(ENSEMBLE) for client in clients):
            return f"{before.build_id} serves again"
        return ", ".join(f"{client.url} serves {serves(client)}" for client in clients)
    except RolloutError as error:
        return f"what serves now is not known: {error.subject}: {error.problem}"


def _restore(url: str, models: Sequence[str], repository: ServingRepository, state: RolloutState) -> list[str]:
    """Unload new models in one server, and load those of the previous build that are missing. Returns the problems."""
    client = TritonClient(url)
    try:
        for model in reversed(LOAD_ORDER):
            if model in models and model not in state.configs:
                client.unload(model)
        for model in LOAD_ORDER:
            if model in state.configs and (model in models or not client.ready(model)):
                load_model(client, repository, model, state.configs[model])
    except RolloutError as error:
        before = state.serving.build_id if state.serving else "what was there before"
        return [f"{before} could not be put back at {url}: {error.problem}"]
    return []
