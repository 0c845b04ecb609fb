"""Loads single models of a model repository into a server, and checks what the server reads and serves.

Triton may say that it has loaded a model although it kept an older one, so each load is checked. Whether a server reads
a repository is found out before anything is changed. What the server serves does not tell: it may have just started,
and two repositories may hold the same build. So a directory with a unique name is put into the repository for a moment:
the index of a server lists the directories that it reads.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from enginery.builds import BUILD_LABEL, CONFIG, served_version
from enginery.core.errors import RolloutError
from enginery.triton.client import TritonClient
from enginery.triton.placement import EMPTY_VERSION, ServingRepository, current_configs

ENSEMBLE = "ensemble"
LOAD_ORDER = ("tensorrt_llm", "preprocessing", "postprocessing", "tensorrt_llm_bls", ENSEMBLE)
"""The engine first: if it does not fit, nothing else has changed yet. The ensemble last: it takes the requests."""
ATTEMPTS = 4
CLOCK_SECONDS = 1.1
"""The times of S3 are whole seconds, and Triton loads only what is newer than what it has."""
PROBE = "enginery_probe_"
NO_BUILD = "something that names no build"
NOTHING = "no build in service"
LOOKS = 4
LOOK_SECONDS = 1.0
"""A network file system may show a new directory to another machine a moment later."""


def load_model(client: TritonClient, repository: ServingRepository, model: str, config_text: str) -> None:
    """Write a model's configuration and load the model, until the server serves exactly that.

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
    """Whether a server serves the version and build that a configuration names."""
    version, label = served_version(config_text)
    loaded = client.model_config(model)
    return loaded is not None and build_label(loaded) == label and client.ready(model, version)


def build_label(config: Mapping[str, Any]) -> str | None:
    """The build that a loaded model's configuration names."""
    label = config.get("parameters", {}).get(BUILD_LABEL, {}).get("string_value")
    return str(label) if label else None


def obsolete_models(repository: ServingRepository, kept: Collection[str]) -> tuple[str, ...]:
    """The models of earlier builds that are not to be kept, in the order to unload them.

    Models that are not from a build of Enginery are not obsolete.
    """
    others = [model for model in reversed(LOAD_ORDER) if model not in kept]
    configs = current_configs(repository, others)
    return tuple(model for model, text in configs.items() if served_version(text)[1] is not None)


def require_reads(clients: Sequence[TritonClient], repository: ServingRepository, build_id: str | None) -> None:
    """Stop unless every server reads the repository. Nothing is left in it, and no server is changed.

    Args:
        clients: the servers.
        repository: what they should read.
        build_id: the build that it serves, for the error.

    Raises:
        RolloutError: when a server reads another repository, with what it serves and what the repository holds.
    """
    if not repository.exists():
        remedy = "give the directory that the Triton server was started with"
        raise RolloutError("there is no such model repository", subject=repository.where, remedy=remedy)
    with _probe(repository) as name:
        for client in clients:
            if not _lists(client, name):
                raise _other_repository(client, repository, build_id)


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


def _other_repository(client: TritonClient, repository: ServingRepository, build_id: str | None) -> RolloutError:
    problem = (
        f"this Triton server does not read {repository.where}: what is put there does not show in the server's index; "
        f"the server serves {serves(client)}, the repository holds {build_id or NOTHING}; nothing was changed"
    )
    remedy = "give the address of the model repository that this Triton server was started with"
    return RolloutError(problem, subject=client.url, remedy=remedy)
