"""Brings a build into service at one Triton server, and checks that it answers as it did when it was validated."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from enginery.builds import Manifest, PromptResult
from enginery.core.errors import RolloutError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.triton.client import TritonClient
from enginery.triton.loading import ENSEMBLE, LOAD_ORDER, is_loaded, load_model
from enginery.triton.placement import ServingRepository


class ServedAnswer(Frozen):
    """The answer of a server to a prompt."""

    prompt: str
    answer: str


class EndpointResult(Frozen):
    """A build in service at one server.

    Attributes:
        version: the number of its version directory there.
        seconds: the time that loading and checking took.
        answers: the answers to the prompts of its validation.
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


def check_answers(
    client: TritonClient, manifest: Manifest, configs: Mapping[str, str], log: Log
) -> tuple[ServedAnswer, ...]:
    """Send a server every prompt of the build's validation.

    Raises:
        RolloutError: when a model is not the one that was loaded, or an answer differs from the recorded one.
    """
    for model, text in configs.items():
        if not is_loaded(client, model, text):
            raise RolloutError(f"model {model} is not ready", subject=client.url, remedy="see the server's log")
    answers = tuple(_check(client, result) for result in manifest.validation.results)
    log(f"{client.url}: {len(answers)} prompts answered as recorded")
    return answers


def _check(client: TritonClient, result: PromptResult) -> ServedAnswer:
    payload = {"text_input": result.prompt, "max_tokens": _max_tokens(result), "bad_words": [""], "stop_words": [""]}
    got = str(client.generate(ENSEMBLE, payload).get("text_output", ""))
    answer = got.removeprefix(result.prompt)  # a build may be configured to repeat the prompt
    if answer.strip() != result.got.strip():
        raise RolloutError(
            f"answers differently than when it was checked: prompt {result.prompt!r}, "
            f"recorded {result.got!r}, got {answer!r}",
            subject=client.url,
            remedy="compare the server's software with the build's; see the server's log",
        )
    return ServedAnswer(prompt=result.prompt, answer=answer)


def _max_tokens(result: PromptResult) -> int:
    """As many tokens as were recorded, and one more for the end token if the engine ended the answer itself."""
    if result.tokens is None:
        return result.max_tokens or 1
    return result.tokens if result.finish == "length" else result.tokens + 1
