"""Puts back into Triton servers what served before the last rollout."""

from collections.abc import Sequence
from typing import NamedTuple

from enginery.context import Log
from enginery.errors import RolloutError
from enginery.manifest import Manifest
from enginery.registry import Registry
from enginery.triton.checking import EndpointResult
from enginery.triton.placement import open_repository
from enginery.triton.progress import RolloutState, read_state
from enginery.triton.rollout import roll_out_build


class RolledBack(NamedTuple):
    """What serves now, and what served until then."""

    manifest: Manifest
    left: str
    results: list[EndpointResult]


def roll_back(registry: Registry, model_repository: str, endpoints: Sequence[str], log: Log) -> RolledBack:
    """Roll out the build that served before the one in service; doing it twice is back where it began.

    Args:
        registry: where that build is published.
        model_repository: what the servers read, a directory or `s3://…`.
        endpoints: the servers' HTTP addresses; those of the last rollout when empty.
        log: takes progress lines.

    Raises:
        RolloutError: when nothing served before, or as a rollout does.
        RegistryError: when that build is no longer published.
    """
    state = read_state(open_repository(model_repository))
    serving, previous = _builds(state, model_repository)
    manifest = registry.find(previous)
    urls = tuple(endpoints) or (state.endpoints if state else ())
    log(f"rolling back from {serving} to {previous} at {', '.join(urls)}")
    return RolledBack(manifest, serving, roll_out_build(manifest, registry, urls, model_repository, log))


def _builds(state: RolloutState | None, where: str) -> tuple[str, str]:
    """The build in service and the one before it."""
    if state is None or state.serving is None:
        remedy = "name the model repository that the servers read"
        raise RolloutError("nothing was ever rolled out here", subject=where, remedy=remedy)
    if state.previous is None:
        problem = f"nothing served here before {state.serving.build_id}"
        raise RolloutError(problem, subject=where, remedy="roll out the build that you want")
    return state.serving.build_id, state.previous.build_id
