"""Loads single models of a model repository into a server, and makes sure that the server took what it was given."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from enginery.builds import BUILD_LABEL, CONFIG, served_version
from enginery.core.errors import RolloutError
from enginery.triton.client import TritonClient
from enginery.triton.placement import (
    EMPTY_VERSION,
    Placed,
    RolloutState,
    ServingRepository,
    current_configs,
    remove_version,
    write_state,
)

ENSEMBLE = "ensemble"
LOAD_ORDER = ("tensorrt_llm", "preprocessing", "postprocessing", "tensorrt_llm_bls", ENSEMBLE)
"""The engine first: when it does not fit, nothing else has changed yet. The ensemble last: it takes the requests."""
ATTEMPTS = 4
CLOCK_SECONDS = 1.1
"""S3 tells times in whole seconds, and Triton loads only what is newer than what it has."""


def build_label(config: Mapping[str, Any]) -> str | None:
    """The build that a loaded model's configuration names."""
    label = config.get("parameters", {}).get(BUILD_LABEL, {}).get("string_value")
    return str(label) if label else None


def load_model(client: TritonClient, repository: ServingRepository, model: str, config_text: str) -> None:
    """Write a model's configuration and load the model, until the server serves just that.

    Triton may answer that it has loaded a model although it kept an older one, so it is asked.

    Raises:
        RolloutError: with Triton's reason when the model does not load.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(CLOCK_SECONDS)
        if attempt or repository.read(f"{model}/{CONFIG}") != config_text.encode():
            repository.write(f"{model}/{CONFIG}", config_text.encode())
        client.load(model)
        if is_loaded(client, model, config_text):
            return
    raise RolloutError(
        f"model {model} was loaded, but the server serves another version of it",
        subject=client.url,
        remedy=f"check that the server reads {repository.where} and is in explicit model-control mode",
    )


def is_loaded(client: TritonClient, model: str, config_text: str) -> bool:
    """Whether a server serves the version and build that a configuration asks for."""
    version, label = served_version(config_text)
    loaded = client.model_config(model)
    return loaded is not None and build_label(loaded) == label and client.ready(model, version)


def leaving(repository: ServingRepository, staying: Collection[str]) -> tuple[str, ...]:
    """The models of builds before that are not among those of the coming one, in the order to unload them.

    What people have put there by hand stays.
    """
    others = [model for model in reversed(LOAD_ORDER) if model not in staying]
    configs = current_configs(repository, others)
    return tuple(model for model, text in configs.items() if served_version(text)[1] is not None)


# Finds out whether a server reads a model repository, before anything there or in the server is changed.
#
# What a server serves does not tell: it may be fresh, and two repositories may hold the same build. So a directory with
# a name that nobody else has is put there for a moment; a server's index lists the directories of what it reads.


PROBE = "enginery_probe_"
NO_BUILD = "something that names no build"
LOOKS = 4
LOOK_SECONDS = 1.0
"""A network file system may show a new directory to another machine a moment later."""


def require_reads(clients: Sequence[TritonClient], repository: ServingRepository, state: RolloutState | None) -> None:
    """Stop unless every server reads the repository. Nothing stays behind, and no server is changed.

    Raises:
        RolloutError: when one reads another repository, with what it serves and what the repository holds.
    """
    if not repository.exists():
        remedy = "give the directory that the Triton server was started with"
        raise RolloutError("there is no such model repository", subject=repository.where, remedy=remedy)
    with _probe(repository) as name:
        for client in clients:
            if not _lists(client, name):
                raise _other_repository(client, repository, state)


@contextmanager
def _probe(repository: ServingRepository) -> Iterator[str]:
    name = f"{PROBE}{uuid4().hex}"
    try:
        repository.write(f"{name}/{EMPTY_VERSION}", b"")
        yield name
    finally:
        repository.remove(name)


def _lists(client: TritonClient, name: str) -> bool:
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_SECONDS)
        if any(row.get("name") == name for row in client.index()):
            return True
    return False


def _other_repository(client: TritonClient, repository: ServingRepository, state: RolloutState | None) -> RolloutError:
    holds = state.serving.build_id if state and state.serving else "no build in service"
    problem = (
        f"this Triton server does not read {repository.where}: what is put there does not show in the server's index; "
        f"the server serves {serves(client)}, the repository holds {holds}; nothing was changed"
    )
    remedy = "give the address of the model repository that this Triton server was started with"
    return RolloutError(problem, subject=client.url, remedy=remedy)


def serves(client: TritonClient) -> str:
    """What a server serves now, in words: the builds that its loaded models name.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    labels = loaded_labels(client)
    if ENSEMBLE not in labels:
        return "no build"
    of = labels[ENSEMBLE]
    others = [f"{model} of {label or NO_BUILD}" for model, label in labels.items() if label != of]
    return (of or NO_BUILD) + (f", but {', '.join(others)}" if others else "")


def loaded_labels(client: TritonClient) -> dict[str, str | None]:
    """The build that each loaded model names.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    configs = {model: client.model_config(model) for model in LOAD_ORDER}
    return {model: build_label(config) for model, config in configs.items() if config is not None}


# Undoes a rollout that failed or died: only what it has done, and what serves then is asked, not supposed.


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
