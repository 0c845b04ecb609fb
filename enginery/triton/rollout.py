"""Rolls a build out to Triton servers, or rolls back to the previous build.

The servers share one model repository. The files of the build go there as a new version. Each model's configuration is
written just before the model is loaded, so a server that restarts at any moment finds a complete model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import NamedTuple

from pydantic import JsonValue

from enginery.builds import ENGINE_BACKEND, Manifest, Policy, backend_of, read_manifest, serve_as
from enginery.core.errors import EngineryError, RolloutError
from enginery.core.files import write_atomic
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log
from enginery.core.s3 import Address, Prefix, honours_conditional_writes, is_address, require_listable
from enginery.registry import Registry, trusted_manifest
from enginery.store import StepContext
from enginery.triton.client import TritonClient
from enginery.triton.loading import (
    ENSEMBLE,
    LOAD_ORDER,
    EndpointResult,
    ServedBuild,
    bring_up,
    loaded_labels,
    obsolete_models,
    require_reads,
)
from enginery.triton.placement import (
    BucketRepository,
    ServingRepository,
    arrange,
    current_configs,
    next_version,
    open_repository,
    place,
    read_configs,
    remove_version,
)
from enginery.triton.state import Placed, RolloutState, read_state, undo, what_serves, write_state

RESULT = "rollout.json"


class RolloutParameters(Frozen):
    """The parameters of a rollout step."""

    model: str
    build_id: str
    endpoints: tuple[str, ...]
    model_repository: str


def rollout(context: StepContext) -> Facts:
    """The step function of stage `rollout`: put the published build into service. Its input is `published`.

    Raises:
        RolloutError: when it fails. The previous build serves again, or the message says what serves.
        RegistryError: when a signature is required and no trusted key has signed the build. Nothing was changed.
    """
    parameters = RolloutParameters.model_validate(dict(context.parameters))
    published = context.inputs["published"]
    manifest = read_manifest((published / "manifest.json").read_bytes(), subject=str(published))
    registry = Registry(json.loads((published / "published.json").read_text(encoding="utf-8"))["registry"])
    endpoints, where = parameters.endpoints, parameters.model_repository
    results = roll_out_build(manifest, registry, endpoints, where, context.log, Policy.chosen())
    facts: dict[str, JsonValue] = parameters.model_dump(mode="json")
    facts["endpoints"] = [result.model_dump(mode="json") for result in results]
    write_atomic(context.output / RESULT, json.dumps(facts, indent=1, ensure_ascii=False))
    return facts


def require_rollout_possible(parameters: Mapping[str, JsonValue]) -> None:
    """Check that a rollout can read its trusted keys and write to its model repository in S3, before a long build.

    Raises:
        UsageError: when the keys cannot be read.
        RolloutError: when the bucket does not exist, or the credentials do not allow what a rollout needs.
    """
    Policy.chosen()
    place = str(parameters["model_repository"])
    if is_address(place):
        prefix = Prefix(Address.parse(place), RolloutError)
        require_listable(prefix)
        honours_conditional_writes(prefix)  # a rollout does not need them; but this also writes, reads and removes


def is_serving(step_parameters: Mapping[str, JsonValue]) -> bool:
    """Whether every server of a rollout step serves the step's build now. False if a server cannot be reached."""
    parameters = RolloutParameters.model_validate(dict(step_parameters))
    try:
        return all(serving_build(endpoint) == parameters.build_id for endpoint in parameters.endpoints)
    except RolloutError:  # the rollout that follows reports it
        return False


def serving_build(url: str) -> str | None:
    """The id of the build that a server serves; None if it serves no build of Enginery.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    return loaded_labels(TritonClient(url), [ENSEMBLE]).get(ENSEMBLE)


def roll_out_build(  # noqa: PLR0913, PLR0917  what, from where, to where, and under which condition
    manifest: Manifest,
    registry: Registry,
    endpoints: Sequence[str],
    model_repository: str,
    log: Log,
    policy: Policy = Policy(),  # noqa: B008  is frozen
) -> list[EndpointResult]:
    """Load a published build into the servers, one after the other, and check its answers in each.

    Args:
        manifest: the build.
        registry: the registry with the build's files.
        endpoints: the servers' HTTP addresses; the servers must be in explicit model-control mode.
        model_repository: the directory or `s3://…` that those servers read.
        log: takes progress lines.
        policy: the trusted keys. If there are any, one of them must have signed the build, and each file is compared
            with the signed digests.

    Raises:
        RolloutError: when it fails. The previous build serves again, or the message says what serves. When a server
            does not read this repository, nothing was changed.
        RegistryError: when no trusted key has signed the build. Nothing was changed.
    """
    if policy.required:
        manifest = trusted_manifest(registry, manifest.model, manifest.build_id, policy)
        log(f"{manifest.build_id} is signed by a trusted key")
    clients = [TritonClient(endpoint) for endpoint in endpoints]
    for client in clients:
        client.require_ready()
    repository = open_repository(model_repository, check_copies=policy.required)
    source = registry.build_prefix(manifest.model, manifest.build_id)
    _require_loadable(manifest, source, repository)
    before = read_state(repository)
    require_reads(clients, repository, before.serving.build_id if before and before.serving else None)
    attempt = _Rollout(manifest, source, repository, _undo_dead_rollout(repository, log), clients, log)
    return attempt.serve_again() or attempt.run()


class RolledBack(NamedTuple):
    """The result of a rollback: the build that serves now, and the id of the build that it replaced."""

    manifest: Manifest
    replaced: str
    results: list[EndpointResult]


def roll_back(registry: Registry, model_repository: str, endpoints: Sequence[str], log: Log) -> RolledBack:
    """Roll out the build that served before the current one. A second rollback restores the current one.

    Args:
        registry: the registry with the previous build.
        model_repository: the directory or `s3://…` that the servers read.
        endpoints: the servers' HTTP addresses; if empty, those of the last rollout.
        log: takes progress lines.

    Raises:
        RolloutError: when there is no previous build, or the rollout fails.
        RegistryError: when the previous build is no longer published.
    """
    state = read_state(open_repository(model_repository))
    if state is None or state.serving is None:
        remedy = "name the model repository that the servers read"
        raise RolloutError("nothing was ever rolled out here", subject=model_repository, remedy=remedy)
    serving = state.serving.build_id
    if state.previous is None:
        problem = f"nothing served here before {serving}"
        raise RolloutError(problem, subject=model_repository, remedy="roll out the build that you want")
    manifest = registry.find(state.previous.build_id)
    urls = tuple(endpoints) or state.endpoints
    log(f"rolling back from {serving} to {manifest.build_id} at {', '.join(urls)}")
    return RolledBack(manifest, serving, roll_out_build(manifest, registry, urls, model_repository, log))


def _require_loadable(manifest: Manifest, source: Prefix, repository: ServingRepository) -> None:
    """Raise an error if the build's backend needs the path of the engine, but the repository is in S3."""
    if not isinstance(repository, BucketRepository):
        return
    for model, text in read_configs(source, arrange(manifest, 1)).items():
        if backend_of(text) == ENGINE_BACKEND:
            raise RolloutError(
                f"{manifest.build_id} cannot be served from S3: Triton copies {model} to a local path that is new each"
                f" time, but its backend {ENGINE_BACKEND} needs the engine's path; nothing was changed",
                subject=repository.where,
                remedy="give a directory that the server mounts at serving.mount as the model repository",
            )


def _undo_dead_rollout(repository: ServingRepository, log: Log) -> RolloutState | None:
    """Undo the last rollout if it died, and return the state. Raises `RolloutError` while that rollout still runs."""
    state = read_state(repository)
    if state is None or state.phase == "done" or state.coming is None:
        return state
    if state.worker.is_at_work():
        problem = f"process {state.worker.pid} is rolling out {state.coming.build_id}"
        raise RolloutError(problem, subject=repository.where, remedy="wait until it has finished", transient=True)
    log(f"the rollout of {state.coming.build_id} died while {state.phase}; undoing it")
    undone, problems = undo(repository, state)
    for problem in problems:
        log(f"while undoing it: {problem}")
    log(f"it is undone: {what_serves(state.endpoints, state.serving)}")
    return undone


@dataclass
class _Rollout:
    """A rollout in progress."""

    manifest: Manifest
    source: Prefix
    repository: ServingRepository
    before: RolloutState | None
    clients: Sequence[TritonClient]
    log: Log

    def __post_init__(self) -> None:
        self.version = next_version(self.repository)
        self.placement = arrange(self.manifest, self.version)
        self.obsolete = obsolete_models(self.repository, self.placement.configs)
        self.state = RolloutState(
            phase="placing",
            serving=self.before.serving if self.before else None,
            previous=self.before.previous if self.before else None,
            coming=Placed(build_id=self.manifest.build_id, version=self.version),
            configs=current_configs(self.repository, [*self.placement.configs, *self.obsolete]),
            endpoints=tuple(client.url for client in self.clients),
            worker=Worker.this(),
            since=datetime.now(UTC),
        )

    def serve_again(self) -> list[EndpointResult]:
        """Load the build if the repository holds it already, as after a restart of a server; else an empty list."""
        serving = self.state.serving
        if serving is None or serving.build_id != self.manifest.build_id:
            return []
        self.log(f"{self.repository.where} already holds {serving.build_id}; loading it")
        configs = current_configs(self.repository, LOAD_ORDER)
        served = ServedBuild(self.manifest, self.repository, configs, serving.version)
        try:
            return [bring_up(client, served, self.log) for client in self.clients]
        except RolloutError as error:
            self.log(f"it does not serve as it should, so it is placed again: {error.problem}")
            return []

    def run(self) -> list[EndpointResult]:
        """Do the rollout, or undo it and raise the reason."""
        write_state(self.repository, self.state)
        try:
            results = self._place_and_load()
        except BaseException as error:
            self._give_up(error)
            raise
        self._finish()
        return results

    def _place_and_load(self) -> list[EndpointResult]:
        self.log(f"placing {self.manifest.build_id} as version {self.version} in {self.repository.where}")
        place(self.repository, self.source, self.placement, self.version)
        texts = read_configs(self.source, self.placement)
        configs = {model: serve_as(text, self.version, self.manifest.build_id) for model, text in texts.items()}
        served = ServedBuild(self.manifest, self.repository, configs, self.version)
        self._record(phase="loading", since=datetime.now(UTC))
        results = [bring_up(client, served, self.log, partial(self._touch, client.url)) for client in self.clients]
        for client, model in product(self.clients, self.obsolete):  # the servers answer without these models now
            self._touch(client.url, model)
            client.unload(model)
            self.log(f"{client.url}: {model} is unloaded: {self.manifest.build_id} has no such model")
        return results

    def _touch(self, url: str, model: str) -> None:
        """Record that a server is about to load or unload a model."""
        self._record(touched={**self.state.touched, url: (*self.state.touched.get(url, ()), model)})

    def _record(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        write_state(self.repository, self.state)

    def _give_up(self, error: BaseException) -> None:
        self.log(f"failed; putting back what served before: {error}")
        _, problems = undo(self.repository, self.state)
        if not isinstance(error, EngineryError):
            return
        now = "; ".join([*problems, what_serves(self.state.endpoints, self.state.serving)])
        raise RolloutError(
            f"{self.manifest.build_id} could not be rolled out: {error.problem}; {now}",
            subject=error.subject or self.repository.where,
            remedy=error.remedy,
            transient=error.transient and not problems,
        ) from error

    def _finish(self) -> None:
        """Record which build serves, and remove the versions and models that no rollback needs."""
        before = self.state.serving
        self.state = self.state.ended()
        self._record(serving=Placed(build_id=self.manifest.build_id, version=self.version), previous=before)
        kept = {str(self.version), str(before.version) if before else ""}
        names = {name for _, name in self.repository.entries() if name.isdecimal()}
        for name in names - kept:
            remove_version(self.repository, int(name))
        for model in self.obsolete:
            self.repository.remove(model)
        self.log(f"{self.manifest.build_id} serves at {', '.join(client.url for client in self.clients)}")
