"""Tests of the limits for answers when a server gets the prompts of the engine's validation."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from enginery.builds.manifest import Manifest
from enginery.builds.validation import PromptResult
from enginery.triton.client import TritonClient
from enginery.triton.loading import check_answers

ANSWER = "huit, neuf"


class Server:
    """A server with the recorded answers. It keeps the requests."""

    url = "http://server"

    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []

    def generate(self, _model: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.payloads.append(payload)
        return {"text_output": f" {ANSWER}\n"}


def result(**changes: Any) -> PromptResult:
    facts = {"tokens": 9, "token_ids": (), "finish": "eos", "seconds_to_first_token": None, "seconds": 0.1}
    return PromptResult(prompt="Hi", expected={}, got=ANSWER, passed=True, reason="", **(facts | changes))


@pytest.mark.parametrize(
    ("changes", "room"),
    [
        ({}, 10),
        ({"finish": "length"}, 9),
        ({"finish": "length", "max_tokens": 9}, 9),
        ({"tokens": None, "finish": "unknown", "max_tokens": 100}, 100),
    ],
)
def test_a_server_gets_as_much_room_as_the_engine_used_or_had(changes: dict[str, Any], room: int) -> None:
    server = Server()
    manifest = cast("Manifest", SimpleNamespace(validation=SimpleNamespace(results=(result(**changes),))))
    (answer,) = check_answers(cast("TritonClient", server), manifest, {}, lambda _: None)
    assert answer.answer.strip() == ANSWER
    assert [payload["max_tokens"] for payload in server.payloads] == [room]


def test_a_report_from_before_limits_were_noted_is_still_read() -> None:
    written = result().model_dump(exclude={"max_tokens"})
    assert PromptResult.model_validate(written).max_tokens is None
