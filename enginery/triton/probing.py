"""Finds out whether a server reads a model repository, before anything there or in the server is changed.

What a server serves does not tell: it may be fresh, and two repositories may hold the same build. So a directory with
a name that nobody else has is put there for a moment; a server's index lists the directories of what it reads.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

from enginery.errors import RolloutError
from enginery.triton.client import TritonClient
from enginery.triton.loading import ENSEMBLE, LOAD_ORDER, build_label
from enginery.triton.placement import EMPTY_VERSION, ServingRepository
from enginery.triton.progress import RolloutState

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
