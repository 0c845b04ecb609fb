"""Loads a build into a Triton server, and checks what the server reads, what it serves, and how it answers.

Triton may report that it has loaded a model although it kept an older one. So each load is checked. Before anything is
changed, `require_reads` checks that each server reads the repository. The builds that a server serves do not show this:
it may have just started, and two repositories may hold the same build. So a directory with a unique name is put into
the repository for a moment. A server that reads the repository lists this directory in its index.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import uuid4

from enginery.builds import BUILD_LABEL, CONFIG, Manifest, PromptResult, served_version
from enginery.core.errors import RolloutError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.triton.client import SEE_LOG, TritonClient
from enginery.triton.placement import ServingRepository, current_configs
from enginery.triton.served import KEEP

ENSEMBLE = "ensemble"
LOAD_ORDER = ("tensorrt_llm", "preprocessing", "postprocessing", "tensorrt_llm_bls", ENSEMBLE)
"""First the engine: if it does not fit, nothing else has changed yet. Last the ensemble: it takes the requests."""
AS_IT_IS = "add_special_tokens"
"""The input that is false for a text which has all of its special tokens."""
ATTEMPTS = 4
CLOCK_SECONDS = 1.1
"""Modification times in S3 are whole seconds, and Triton loads only files that are newer than those it has."""
PROBE = "enginery_probe_"
NO_BUILD = "something that names no build"
NOTHING = "no build in service"
LOOKS = 4
LOOK_SECONDS = 1.0
"""A network file system may show a new directory to another machine a moment later."""


class ServedAnswer(Frozen):
    """The answer of a server to a prompt."""

    prompt: str
    answer: str


class EndpointResult(Frozen):
    """A build in service at one server.

    Attributes:
        version: the number of the build's version directory in the model repository.
        seconds: the time that loading and checking took.
        answers: the answers to the prompts of the build's validation.
    """

    endpoint: str
    build_id: str
    version: int
    seconds: float
    answers: tuple[ServedAnswer, ...]


class ServedBuild(NamedTuple):
    """A build in a model repository, with the configuration that each of its models is served with."""

    manifest: Manifest
    repository: ServingRepository
    configs: Mapping[str, str]
    version: int


def bring_up(
    client: TritonClient, served: ServedBuild, log: Log, before_load: Callable[[str], None] = lambda _: None
) -> EndpointResult:
    """Load every model into one server, the ensemble last, and send it the prompts of the build's validation.

    `before_load` is called with the name of each model before the server loads it.

    Raises:
        RolloutError: when a model cannot be loaded, or an answer differs from the recorded one.
    """
    started = time.monotonic()
    for model in LOAD_ORDER:
        if model in served.configs:
            before_load(model)
            load_model(client, served.repository, model, served.configs[model])
            log(f"{client.url}: {model} version {served.version} is ready")
    answers = check_answers(client, served.manifest, served.configs, log)
    return EndpointResult(
        endpoint=client.url,
        build_id=served.manifest.build_id,
        version=served.version,
        seconds=round(time.monotonic() - started, 3),
        answers=answers,
    )


def load_model(client: TritonClient, repository: ServingRepository, model: str, config_text: str) -> None:
    """Write a model's configuration and load the model. Repeat until the server serves the version and build in it.

    Raises:
        RolloutError: with Triton's reason when the model does not load.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(CLOCK_SECONDS)
        if attempt or repository.read(f"{model}/{CONFIG}") != config_text.encode():
            repository.write(f"{model}/{CONFIG}", config_text.encode())
        client.load(model)
        if _is_loaded(client, model, config_text):
            return
    raise RolloutError(
        f"model {model} was loaded, but the server serves another version of it",
        subject=client.url,
        remedy=f"check that the server reads {repository.where} and is in explicit model-control mode",
    )


def check_answers(
    client: TritonClient, manifest: Manifest, configs: Mapping[str, str], log: Log
) -> tuple[ServedAnswer, ...]:
    """Send a server every prompt of the build's validation, and compare the answers with the recorded ones.

    Raises:
        RolloutError: when a model is not ready in the version and build of `configs`, or when an answer differs.
    """
    for model, text in configs.items():
        if not _is_loaded(client, model, text):
            raise RolloutError(f"model {model} is not ready", subject=client.url, remedy=SEE_LOG)
    answers = tuple(_check(client, result, log) for result in manifest.validation.results)
    log(f"{client.url}: {len(answers)} prompts answered as recorded")
    return answers


def loaded_labels(client: TritonClient, models: Collection[str] = LOAD_ORDER) -> dict[str, str | None]:
    """Loaded model -> the id of the build in its configuration; None if the configuration names no build.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    configs = {model: client.model_config(model) for model in models}
    return {
        model: config.get("parameters", {}).get(BUILD_LABEL, {}).get("string_value") or None
        for model, config in configs.items()
        if config is not None
    }


def serves(client: TritonClient) -> str:
    """What a server serves now, as text for a message: the builds that its loaded models name.

    Raises:
        RolloutError: when the server cannot be reached.
    """
    labels = loaded_labels(client)
    if ENSEMBLE not in labels:
        return "no build"
    build = labels[ENSEMBLE]
    others = [f"{model} of {label or NO_BUILD}" for model, label in labels.items() if label != build]
    return (build or NO_BUILD) + (f", but {', '.join(others)}" if others else "")


def obsolete_models(repository: ServingRepository, kept: Collection[str]) -> tuple[str, ...]:
    """The models of earlier builds that are not in `kept`, in the order in which to unload them.

    Models that do not come from a build of Enginery are left out.
    """
    others = [model for model in reversed(LOAD_ORDER) if model not in kept]
    configs = current_configs(repository, others)
    return tuple(model for model, text in configs.items() if served_version(text)[1] is not None)


def require_reads(clients: Sequence[TritonClient], repository: ServingRepository, build_id: str | None) -> None:
    """Check that every server reads the repository. Afterwards, the repository and the servers are as before.

    Args:
        clients: the servers.
        repository: the model repository that they should read.
        build_id: the build in the repository, for the error.

    Raises:
        RolloutError: when a server reads another repository. It names the build of the server and of the repository.
    """
    if not repository.exists():
        remedy = "give the directory that the Triton server was started with"
        raise RolloutError("there is no such model repository", subject=repository.where, remedy=remedy)
    probe = f"{PROBE}{uuid4().hex}"
    try:
        repository.write(f"{probe}/{KEEP}", b"")
        for client in clients:
            if not _lists(client, probe):
                raise _other_repository(client, repository, build_id)
    finally:
        repository.remove(probe)


def _lists(client: TritonClient, name: str) -> bool:
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_SECONDS)
        if any(row.get("name") == name for row in client.index()):
            return True
    return False


def _other_repository(client: TritonClient, repository: ServingRepository, build_id: str | None) -> RolloutError:
    problem = (
        f"this Triton server does not read {repository.where}: a new directory there is not in the server's index; "
        f"the server serves {serves(client)}, the repository holds {build_id or NOTHING}; nothing was changed"
    )
    remedy = "give the address of the model repository that this Triton server was started with"
    return RolloutError(problem, subject=client.url, remedy=remedy)


def _is_loaded(client: TritonClient, model: str, config_text: str) -> bool:
    """Whether a server serves the version and the build that a configuration names."""
    version, label = served_version(config_text)
    return loaded_labels(client, [model]).get(model) == label and client.ready(model, version)


def _check(client: TritonClient, result: PromptResult, log: Log) -> ServedAnswer:
    sent = result.text_sent
    payload = {"text_input": sent, "max_tokens": _max_tokens(result), "bad_words": [""], "stop_words": [""]}
    comparable = result.as_raw_text or _takes(client, AS_IT_IS)
    if not result.as_raw_text and comparable:
        payload[AS_IT_IS] = False
    got = str(client.generate(ENSEMBLE, payload).get("text_output", ""))
    answer = got.removeprefix(sent)  # a build may be configured to repeat the prompt
    if not comparable:
        # The tokenizer adds a token that the chat template leaves out, and no request can say so.
        log(f"{client.url}: {result.question!r} was answered, but not compared: as text it has one more token")
    elif answer.strip() != result.got.strip():
        raise RolloutError(
            f"answers differently than in its validation: prompt {result.question!r}, "
            f"recorded {result.got!r}, got {answer!r}",
            subject=client.url,
            remedy="compare the server's software with the build's; see the server's log",
        )
    return ServedAnswer(prompt=sent, answer=answer)


def _takes(client: TritonClient, name: str) -> bool:
    """Whether requests may have this input. NVIDIA's templates do not have all of ours."""
    config = client.model_config(ENSEMBLE) or {}
    return any(one.get("name") == name for one in config.get("input", ()))


def _max_tokens(result: PromptResult) -> int:
    """The tokens of the recorded answer, and one more for the end token if the engine ended the answer itself."""
    if result.tokens is None:
        return result.max_tokens or 1
    return result.tokens if result.finish == "length" else result.tokens + 1
