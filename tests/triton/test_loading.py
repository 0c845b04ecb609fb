"""Tests of the limits for answers when a server gets the prompts of the engine's validation."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from enginery.builds.manifest import Manifest
from enginery.builds.validation import PromptResult
from enginery.core.errors import RolloutError
from enginery.spec.validation import Message
from enginery.triton.client import TritonClient
from enginery.triton.loading import check_answers

ANSWER = "huit, neuf"


class Server:
    """A server with the recorded answers. It keeps the requests. Its requests may have these inputs."""

    url = "http://server"

    def __init__(self, *inputs: str, answer: str = f" {ANSWER}\n") -> None:
        self.payloads: list[dict[str, Any]] = []
        self.inputs = inputs
        self.answer = answer

    def model_config(self, _model: str) -> dict[str, Any]:
        return {"input": [{"name": name} for name in self.inputs]}

    def generate(self, _model: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.payloads.append(payload)
        return {"text_output": self.answer}


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


CHAT = {"sent": "<s>[INST] Hi [/INST]", "messages": (Message(role="user", content="Hi"),)}


def checked(server: Server, log: list[str], **changes: Any) -> str:
    manifest = cast("Manifest", SimpleNamespace(validation=SimpleNamespace(results=(result(**changes),))))
    (answer,) = check_answers(cast("TritonClient", server), manifest, {}, log.append)
    return answer.prompt


def test_a_server_gets_a_chat_as_its_template_made_it() -> None:
    server = Server()
    assert checked(server, [], **CHAT) == CHAT["sent"]
    assert server.payloads[0]["text_input"] == CHAT["sent"]
    assert "add_special_tokens" not in server.payloads[0]


def test_a_text_to_which_a_tokenizer_would_add_a_token_is_sent_as_it_is_where_requests_can_say_so() -> None:
    server = Server("text_input", "add_special_tokens")
    checked(server, [], **CHAT, as_raw_text=False)
    assert server.payloads[0]["add_special_tokens"] is False
    with pytest.raises(RolloutError, match="answers differently"):
        checked(Server("add_special_tokens", answer="dix"), [], **CHAT, as_raw_text=False)


def test_where_requests_cannot_say_so_the_answer_is_not_compared_and_the_log_says_it() -> None:
    log: list[str] = []
    checked(Server("text_input", answer="dix"), log, **CHAT, as_raw_text=False)
    assert "not compared" in log[0]
