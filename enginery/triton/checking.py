"""Asks a server the prompts of a build's own validation: it must answer as the engine did when it was checked."""

from collections.abc import Mapping

from enginery.context import Log
from enginery.errors import RolloutError
from enginery.manifest import Manifest
from enginery.steps import Frozen
from enginery.triton.client import TritonClient
from enginery.triton.loading import ENSEMBLE, is_loaded
from enginery.validation import PromptResult


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
