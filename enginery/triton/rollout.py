"""Puts a build into Triton servers, or puts back what served before.

The servers share one model repository. The build's files go there as a new version; each model's configuration is
written just before the model is loaded, so a server that is started again at any moment finds a whole model.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery.builds import ENGINE_BACKEND, Manifest, Policy, PromptResult, backend_of, read_manifest, serve_as
from enginery.core.errors import EngineryError, RolloutError
from enginery.core.files import write_atomic
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log
from enginery.registry import Registry, trusted_manifest
from enginery.store import StepContext
from enginery.triton.client import TritonClient
from enginery.triton.loading import (
    ENSEMBLE,
    LOAD_ORDER,
    build_label,
    is_loaded,
    leaving,
    load_model,
    require_reads,
    undo,
    what_serves,
)
from enginery.triton.placement import (
    BucketRepository,
    Phase,
    Placed,
    Placement,
    RolloutState,
    ServingRepository,
    arrange,
    current_configs,
    next_version,
    open_repository,
    place,
    read_configs,
    read_state,
    remove_version,
    write_state,
)

# Asks a server the prompts of a build's own validation: it must answer as the engine did when it was checked.


class ServedAnswer(Frozen):
    """What a server answered to a prompt."""

    prompt: str
    answer: str


class EndpointResult(Frozen):
    """A build in service at one server.

    Attributes:
        version: the number of its version directory there.
        seconds: how long loading and checking took.
        answers: what it answered to the prompts of its validation.
    """

    endpoint: str
    build_id: str
    version: int
    seconds: float
    answers: tuple[ServedAnswer, ...]


def check_answers(
    client: TritonClient, manifest: Manifest, configs: Mapping[str, str], log: Log
) -> tuple[ServedAnswer, ...]:
    """Ask a server every prompt of the build's validation.

    Raises:
        RolloutError: when a model is not the one that was loaded, or an answer differs from the recorded one.
    """
    for model, text in configs.items():
        if not is_loaded(client, model, text):
            raise RolloutError(f"model {model} is not ready", subject=client.url, remedy="see the server's log")
    answers = tuple(_ask(client, result) for result in manifest.validation.results)
    log(f"{client.url}: {len(answers)} prompts answered as recorded")
    return answers


def _ask(client: TritonClient, result: PromptResult) -> ServedAnswer:
    payload = {"text_input": result.prompt, "max_tokens": _room(result), "bad_words": [""], "stop_words": [""]}
    got = str(client.generate(ENSEMBLE, payload).get("text_output", ""))
    answer = got.removeprefix(result.prompt)  # a build may be told to repeat the prompt
    if answer.strip() != result.got.strip():
        raise RolloutError(
            f"answers differently than when it was checked: prompt {result.prompt!r}, "
            f"recorded {result.got!r}, got {answer!r}",
            subject=client.url,
            remedy="compare the server's software with the build's; see the server's log",
        )
    return ServedAnswer(prompt=result.prompt, answer=answer)


def _room(result: PromptResult) -> int:
    """Tokens for the answer: as many as were recorded, and one more where the engine ended it itself."""
    if result.tokens is None:
        return result.max_tokens or 1
    return result.tokens if result.finish == "length" else result.tokens + 1


RESULT = "rollout.json"


class RolloutParameters(Frozen):
    """The parameters of a rollout step."""

    model: str
    build_id: str
    endpoints: tuple[str, ...]
    model_repository: str


def rollout(context: StepContext) -> Facts:
    """Put the published build into service. The step function `rollout`; its input is `published`.

    Raises:
        RolloutError: when it cannot be done; the previous build serves again, or the message says what does.
        RegistryError: when no trusted key has signed the build, and one must have; nothing was changed.
    """
    order = RolloutParameters.model_validate(dict(context.parameters))
    published = context.inputs["published"]
    manifest = read_manifest((published / "manifest.json").read_bytes(), subject=str(published))
    registry = Registry(_registry_of(published))
    policy = Policy.from_environment()
    results = roll_out_build(manifest, registry, order.endpoints, order.model_repository, context.log, policy)
    facts: dict[str, JsonValue] = {
        "model": order.model,
        "build_id": order.build_id,
        "model_repository": order.model_repository,
        "endpoints": [result.model_dump(mode="json") for result in results],
    }
    write_atomic(context.output / RESULT, json.dumps(facts, indent=1, ensure_ascii=False))
    return facts


def _registry_of(published: Path) -> str:
    return str(json.loads((published / "published.json").read_text(encoding="utf-8"))["registry"])


def require_readable_policy(_parameters: Mapping[str, JsonValue]) -> None:
    """Make sure that the keys which a rollout is to trust can be read: asked before hours are spent on a build.

    Raises:
        UsageError: when they cannot.
    """
    Policy.from_environment()


def is_serving(parameters: Mapping[str, JsonValue]) -> bool:
    """Whether every endpoint of a rollout step serves its build now; one that cannot be reached does not."""
    order = RolloutParameters.model_validate(dict(parameters))
    try:
        return all(serving_build(endpoint) == order.build_id for endpoint in order.endpoints)
    except RolloutError:  # the rollout that follows meets it again and tells it
        return False


def serving_build(url: str) -> str | None:
    """The build that answers at a server, or None when none does or it is not one of Enginery's.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    config = TritonClient(url).model_config(ENSEMBLE)
    return build_label(config) if config else None


def roll_out_build(  # noqa: PLR0913, PLR0917  what, from where, to where, and on what condition
    manifest: Manifest,
    registry: Registry,
    endpoints: Sequence[str],
    model_repository: str,
    log: Log,
    policy: Policy = Policy(),  # noqa: B008  cannot change
) -> list[EndpointResult]:
    """Load a published build into the servers, one after the other, and check its answers in each.

    Args:
        manifest: the build.
        registry: where its files are.
        endpoints: the servers' HTTP addresses; they must be in explicit model-control mode.
        model_repository: what those servers read, a directory or `s3://…`.
        log: takes progress lines.
        policy: the keys of which one must have signed the build. Where there are any, each byte that is placed is
            compared with what was signed.

    Raises:
        RolloutError: when it cannot be done; the previous build serves again, or the message says what does.
            When a server does not read this repository, before anything is changed.
        RegistryError: when no trusted key has signed the build; nothing was changed.
    """
    if policy.required:
        manifest = trusted_manifest(registry, manifest.model, manifest.build_id, policy)
        log(f"{manifest.build_id} is signed by a trusted key")
    clients = [TritonClient(endpoint) for endpoint in endpoints]
    for client in clients:
        client.require_ready()
    repository = open_repository(model_repository, reads_copies=policy.required)
    require_loadable(manifest, registry, repository)
    require_reads(clients, repository, read_state(repository))
    state = _settled(repository, log)
    again = _serve_again(manifest, repository, state, clients, log)
    return again or _Rollout(manifest, registry, repository, state, clients, log).run()


def require_loadable(manifest: Manifest, registry: Registry, repository: ServingRepository) -> None:
    """Make sure that the servers could load the build from this repository.

    Raises:
        RolloutError: when its backend must be told where the engine is, and the repository is in S3.
    """
    if not isinstance(repository, BucketRepository):
        return
    source = registry.build_prefix(manifest.model, manifest.build_id)
    for model, text in read_configs(source, arrange(manifest, 1)).items():
        if backend_of(text) == ENGINE_BACKEND:
            raise RolloutError(
                f"{manifest.build_id} cannot be served from S3: Triton copies {model} to a place with a new name each"
                f" time, and its backend {ENGINE_BACKEND} must be told the engine's path; nothing was changed",
                subject=repository.where,
                remedy="give a directory that the server mounts at serving.mount as the model repository",
            )


def _settled(repository: ServingRepository, log: Log) -> RolloutState | None:
    """What the repository serves, after a rollout that died has been undone."""
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


def _serve_again(
    manifest: Manifest,
    repository: ServingRepository,
    state: RolloutState | None,
    clients: Sequence[TritonClient],
    log: Log,
) -> list[EndpointResult]:
    """When the repository holds this build already, as for a restarted server, load it; empty when it does not."""
    if state is None or state.serving is None or state.serving.build_id != manifest.build_id:
        return []
    log(f"{repository.where} already holds {manifest.build_id}; loading it")
    served = _Served(manifest, repository, current_configs(repository, LOAD_ORDER), state.serving.version)
    try:
        return [_bring_up(client, served, log, lambda _: None) for client in clients]
    except RolloutError as error:
        log(f"it does not serve as it should, so it is placed again: {error.problem}")
        return []


class _Served(NamedTuple):
    """A build as a model repository serves it."""

    manifest: Manifest
    repository: ServingRepository
    configs: Mapping[str, str]
    version: int


def _bring_up(client: TritonClient, served: _Served, log: Log, touching: Callable[[str], None]) -> EndpointResult:
    """Load every model into one server, the ensemble last, and ask it the build's prompts.

    `touching` is told each model's name before the server is.
    """
    started = time.monotonic()
    for model in LOAD_ORDER:
        if model in served.configs:
            touching(model)
            load_model(client, served.repository, model, served.configs[model])
            log(f"{client.url}: {model} version {served.version} is ready")
    answers = check_answers(client, served.manifest, served.configs, log)
    seconds = round(time.monotonic() - started, 3)
    return EndpointResult(
        endpoint=client.url,
        build_id=served.manifest.build_id,
        version=served.version,
        seconds=seconds,
        answers=answers,
    )


class _Rollout:
    """One rollout at work."""

    def __init__(  # noqa: PLR0913, PLR0917  all that it works on
        self,
        manifest: Manifest,
        registry: Registry,
        repository: ServingRepository,
        before: RolloutState | None,
        clients: Sequence[TritonClient],
        log: Log,
    ) -> None:
        self.manifest = manifest
        self.source = registry.build_prefix(manifest.model, manifest.build_id)
        self.repository = repository
        self.clients = clients
        self.log = log
        self.version = next_version(repository)
        self.placement: Placement = arrange(manifest, self.version)
        self.leaving = leaving(repository, self.placement.configs)
        self.state = RolloutState(
            phase="placing",
            serving=before.serving if before else None,
            previous=before.previous if before else None,
            coming=Placed(build_id=manifest.build_id, version=self.version),
            configs=current_configs(repository, [*self.placement.configs, *self.leaving]),
            endpoints=tuple(client.url for client in clients),
            worker=Worker.this(),
            since=datetime.now(UTC),
        )

    def run(self) -> list[EndpointResult]:
        """Do it, or undo it and say why."""
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
        served = _Served(self.manifest, self.repository, configs, self.version)
        self._enter("loading")
        results = [_bring_up(client, served, self.log, partial(self._touch, client.url)) for client in self.clients]
        for client in self.clients:
            self._unload_leaving(client)
        return results

    def _unload_leaving(self, client: TritonClient) -> None:
        """Unload what only builds before had: each endpoint answers without it by now."""
        for model in self.leaving:
            self._touch(client.url, model)
            client.unload(model)
            self.log(f"{client.url}: {model} is unloaded: {self.manifest.build_id} has no such model")

    def _touch(self, url: str, model: str) -> None:
        """Remember that a server is told to load a model, before it is."""
        touched = {**self.state.touched, url: (*self.state.touched.get(url, ()), model)}
        self.state = self.state.model_copy(update={"touched": touched})
        write_state(self.repository, self.state)

    def _enter(self, phase: Phase) -> None:
        self.state = self.state.model_copy(update={"phase": phase, "since": datetime.now(UTC)})
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
        """Remember what serves, and remove the versions and models that nothing goes back to."""
        before = self.state.serving
        self.state = self.state.model_copy(
            update={"serving": self.state.coming, "previous": before, "coming": None, "configs": {}, "touched": {}}
        )
        self._enter("done")
        kept = {str(self.version), str(before.version) if before else ""}
        names = {name for _, name in self.repository.entries() if name.isdecimal()}
        for name in names - kept:
            remove_version(self.repository, int(name))
        for model in self.leaving:
            self.repository.remove(model)
        self.log(f"{self.manifest.build_id} serves at {', '.join(client.url for client in self.clients)}")


# Puts back into Triton servers what served before the last rollout.


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
