"""Undoes a rollout that failed or died: only what it has done, and what serves then is asked, not supposed."""

from collections.abc import Sequence
from datetime import UTC, datetime

from enginery.errors import RolloutError
from enginery.triton.client import TritonClient
from enginery.triton.loading import ENSEMBLE, LOAD_ORDER, load_model
from enginery.triton.placement import CONFIG, ServingRepository, remove_version
from enginery.triton.probing import loaded_labels, serves
from enginery.triton.progress import Placed, RolloutState, write_state


def undo(repository: ServingRepository, state: RolloutState) -> tuple[RolloutState, list[str]]:
    """Put the configurations back, load what served before, remove the new files; also what could not be done."""
    for model in _brought(repository, state):
        if model in state.configs:
            repository.write(f"{model}/{CONFIG}", state.configs[model].encode())
        else:
            repository.remove(f"{model}/{CONFIG}")
    problems = [
        problem for url, models in state.touched.items() for problem in _restore(url, models, repository, state)
    ]
    if state.coming:
        remove_version(repository, state.coming.version)
    undone = state.model_copy(
        update={"phase": "done", "coming": None, "configs": {}, "touched": {}, "since": datetime.now(UTC)}
    )
    write_state(repository, undone)
    return undone, problems


def what_serves(urls: Sequence[str], before: Placed | None) -> str:
    """A clause that says what the servers serve after the undo."""
    try:
        clients = [TritonClient(url) for url in urls]
        labels = {label for client in clients for label in loaded_labels(client).values()}
        if before and labels == {before.build_id} and all(client.ready(ENSEMBLE) for client in clients):
            return f"{before.build_id} serves again"
        return ", ".join(f"{client.url} serves {serves(client)}" for client in clients)
    except RolloutError as error:
        return f"what serves now is not known: {error.subject}: {error.problem}"


def _brought(repository: ServingRepository, state: RolloutState) -> set[str]:
    """The models that a rollout brings: those with a directory of its version, and those it has found there."""
    version = str(state.coming.version) if state.coming else ""
    return {model for model, name in repository.entries() if name == version} | set(state.configs)


def _restore(url: str, models: Sequence[str], repository: ServingRepository, state: RolloutState) -> list[str]:
    """Load or unload again what the rollout has loaded into a server, and load what the previous build lacks there."""
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
