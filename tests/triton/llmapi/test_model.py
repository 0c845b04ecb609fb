"""Tests of the served model without Triton: requests, `model.yaml` and responses."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enginery.triton.models.llm import tensorrt_llm
from enginery.triton.models.llm.engine import Engine, TextRequest, read_requests, read_settings
from enginery.triton.models.llm.tensorrt_llm import Job
from enginery.triton.models.requests import RequestError
from tests.support.triton.served import FAKE_TRITON, Beginning, FakeSender


def inputs(**values: Any) -> dict[str, Any]:
    """Tensors in Triton's form: texts as bytes, and one value as an array of one."""
    named = {"text_input": ["Hi"], **values}
    return {name: np.asarray(_encoded(value)) for name, value in named.items()}


def _encoded(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    texts = [each.encode() if isinstance(each, str) else each for each in values]
    return np.asarray(texts, dtype=np.object_) if any(isinstance(each, bytes) for each in texts) else values


def read_request(tensors: dict[str, Any], **settings: Any) -> TextRequest:
    """What a request asks of its one text."""
    (request,) = read_requests(tensors, **settings)
    return request


def sampling(**values: Any) -> dict[str, Any]:
    named = inputs(**{f"sampling_param_{name}": value for name, value in values.items()})
    return dict(read_request(named, decoupled=False, exclude_input=True).sampling)


def test_a_request_that_says_nothing_leaves_everything_to_the_runtime() -> None:
    request = read_request(inputs(), decoupled=False, exclude_input=True)
    assert (request.prompt, request.sampling, request.stream) == ("Hi", {}, False)


def test_every_sampling_parameter_is_passed_on_by_its_name() -> None:
    parameters = {"max_tokens": 5, "top_k": 3, "top_p": 0.5, "min_tokens": 2, "seed": 7, "best_of": 2}
    assert sampling(**parameters) == parameters
    assert sampling(temperature=0.5, repetition_penalty=1.5) == {"temperature": 0.5, "repetition_penalty": 1.5}
    assert sampling(frequency_penalty=-1.0, presence_penalty=-2.0) == {
        "frequency_penalty": -1.0,
        "presence_penalty": -2.0,
    }


def test_the_older_names_mean_the_same() -> None:
    assert sampling(min_length=2, random_seed=7) == {"min_tokens": 2, "seed": 7}


def test_a_temperature_of_nothing_is_the_likeliest_token() -> None:
    assert sampling(temperature=0.0, top_p=0.9) == {"top_k": 1}


def test_empty_words_are_none_and_a_stop_word_belongs_to_the_answer() -> None:
    assert sampling(stop=[""], bad=["", "x"]) == {"bad": ["x"]}
    assert sampling(stop=["a", ""]) == {"stop": ["a"], "include_stop_str_in_output": True}


def test_log_probabilities_are_asked_for_only_when_wanted() -> None:
    request = read_request(inputs(return_cumulative_logprob=True), decoupled=False, exclude_input=True)
    assert request.sampling == {"logprobs": 1}


@pytest.mark.parametrize("default", [True, False])
def test_the_request_says_whether_the_prompt_comes_along_else_the_spec(*, default: bool) -> None:
    name = "sampling_param_exclude_input_from_output"
    assert read_request(inputs(), decoupled=False, exclude_input=default).exclude_input is default
    for wanted in (True, False):
        assert read_request(inputs(**{name: wanted}), decoupled=False, exclude_input=default).exclude_input is wanted


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_tokens": 0}, "max_tokens: must be at least 1"),
        ({"top_k": -1}, "top_k: must be at least 0"),
        ({"top_p": 1.5}, "top_p: must be between 0 and 1"),
        ({"top_p": -0.5}, "top_p: must be at least 0"),
        ({"temperature": float("nan")}, "temperature: must be a number"),
        ({"presence_penalty": float("inf")}, "presence_penalty: must be a number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: must be more than 0"),
        ({"best_of": 0}, "best_of: must be at least 1"),
        ({"seed": [1, 2]}, "seed: one value, or one for each text, not 2"),
        ({"stop": [b"\xff"]}, "stop_words: is not UTF-8"),
    ],
)
def test_what_no_model_can_do_is_refused_by_its_name(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        sampling(**values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text_input": []}, "text_input: there is none"),
        ({"text_input": ["a", ""]}, r"text_input: is empty \(text 2 of 2\)"),
        ({"text_input": ["a", "b"], "sampling_param_best_of": 2}, "best_of: is for one text at a time"),
        ({"text_input": ["a", "b"], "sampling_param_top_k": [5, -1]}, r"top_k: must be at least 0.* \(text 2 of 2\)"),
        ({"text_input": ["a", "b"], "sampling_param_seed": [1, 2, 3]}, "seed: one value, or one for each text, not 3"),
        ({"text_input": [""]}, "text_input: is empty"),
        ({"streaming": True}, "packaged without streaming"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        read_request(inputs(**values), decoupled=False, exclude_input=True)


def test_several_texts_have_values_in_common_or_of_their_own() -> None:
    tensors = inputs(
        text_input=["a", "b"],
        sampling_param_max_tokens=[5, 6],
        sampling_param_top_k=3,
        sampling_param_stop=["x", "y"],
        sampling_param_exclude_input_from_output=[True, False],
    )
    one, other = read_requests(tensors, decoupled=True, exclude_input=True)
    common = {"top_k": 3, "stop": ["x", "y"], "include_stop_str_in_output": True}
    assert (one.prompt, one.sampling, one.exclude_input) == ("a", {"max_tokens": 5, **common}, True)
    assert (other.prompt, other.sampling, other.exclude_input) == ("b", {"max_tokens": 6, **common}, False)


def test_several_texts_are_not_streamed() -> None:
    with pytest.raises(RequestError, match="^stream: one text at a time"):
        read_requests(inputs(text_input=["a", "b"], streaming=[True, False]), decoupled=True, exclude_input=True)


def test_settings_are_read_with_the_checkpoint_beside_them(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    own = "triton_config:\n  warm_up: [1, 2]\n  exclude_input_from_output: false\n  llm_class: a.b:C\n"
    (tmp_path / "model.yaml").write_text(f"model: checkpoint\nmax_batch_size: 4\n{own}")
    found = read_settings(tmp_path, {})
    assert found.arguments == {"model": str(tmp_path / "checkpoint"), "max_batch_size": 4}
    assert (found.llm_class, found.warm_up, found.exclude_input) == ("a.b:C", (1, 2), False)


def test_nvidias_own_file_is_read_too(tmp_path: Path) -> None:
    text = "model: TinyLlama/TinyLlama-1.1B-Chat-v1.0\ntriton_config: {max_batch_size: 0, decoupled: false}\n"
    (tmp_path / "model.yaml").write_text(text)
    found = read_settings(tmp_path, {})
    assert found.arguments == {"model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}
    assert (found.llm_class, found.warm_up, found.exclude_input) == ("tensorrt_llm:LLM", (), True)


@pytest.mark.parametrize("content", ["[]", "", "model: a\ntriton_config: 3\n"])
def test_a_file_that_says_nothing_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.yaml").write_text(content)
    with pytest.raises(TypeError, match=r"other\.yaml: must be a mapping"):
        read_settings(tmp_path, {"LLM_CONFIG_PATH": "other.yaml"})


def test_a_file_that_names_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("max_batch_size: 4\n")
    with pytest.raises(TypeError, match=r"model\.yaml: does not name the model"):
        read_settings(tmp_path, {})


class ScriptedResult:
    """A result of the LLM API that goes through these states."""

    def __init__(self, *texts: str) -> None:
        self.states = list(texts)
        self.outputs = [SimpleNamespace(text="", finish_reason=None, stop_reason=None, cumulative_logprob=None)]
        self.finished = False
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def __aiter__(self) -> "ScriptedResult":
        return self

    async def __anext__(self) -> "ScriptedResult":
        if not self.states:
            raise StopAsyncIteration
        self.outputs[0].text = self.states.pop(0)
        self.finished = not self.states
        return self


def sent(result: Any, *, stream: bool = True, exclude_input: bool = True) -> list[tuple[str, int]]:
    """The texts of a request's responses, each with its flags."""

    sender = FakeSender()
    run(result, sender, stream=stream, exclude_input=exclude_input)
    return [(_shown(response), flags) for response, flags in sender.sent]


def run(result: Any, sender: FakeSender, *, stream: bool = True, exclude_input: bool = True) -> None:
    """Answer a request for which the LLM API has this result."""

    def generate(*_given: Any, **_named: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    tensors = inputs(streaming=stream)
    requests = read_requests(tensors, decoupled=True, exclude_input=exclude_input)
    asyncio.run(Job(FAKE_TRITON, SimpleNamespace(generate=generate), requests, sender).run())  # type: ignore[arg-type]


def _shown(response: Any) -> str:
    if response.error is not None:
        return f"{response.error.code}: {response.error.text}"
    return str(response.tensors["text_output"][0].decode())


def test_pieces_are_what_is_new_and_the_last_one_ends_the_answer() -> None:
    assert sent(ScriptedResult("un", "un deux", "un deux")) == [("un", 0), (" deux", 0), ("", 1)]


def test_a_state_without_new_text_sends_nothing_unless_it_is_the_last() -> None:
    assert sent(ScriptedResult("", "a", "a", "ab")) == [("a", 0), ("b", 1)]


def test_the_prompt_comes_with_the_first_piece_only() -> None:
    assert sent(ScriptedResult("a", "ab"), exclude_input=False) == [("Hia", 0), ("b", 1)]


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    assert sent(ScriptedResult()) == [("1: the model stopped before the answer was complete", 1)]


def test_an_answer_that_is_not_streamed_comes_whole() -> None:
    assert sent(ScriptedResult("whole"), stream=False) == [("whole", 1)]


def test_of_several_answers_none_is_sent_before_all_are_complete() -> None:
    assert sent(ScriptedResult("one", "one and", "one and two"), stream=False) == [("one and two", 1)]


def answered_together(results: dict[str, Any]) -> FakeSender:
    """The responses to one request with these texts."""

    def generate(prompt: str, *_given: Any, **_named: Any) -> Any:
        if isinstance(results[prompt], Exception):
            raise results[prompt]
        return results[prompt]

    sender = FakeSender()
    requests = read_requests(inputs(text_input=list(results)), decoupled=True, exclude_input=True)
    asyncio.run(Job(FAKE_TRITON, SimpleNamespace(generate=generate), requests, sender).run())  # type: ignore[arg-type]
    return sender


def test_several_texts_are_answered_in_one_response_in_their_order() -> None:
    results = {"slow": ScriptedResult("a", "ab", "abc"), "quick": ScriptedResult("x")}
    ((response, final),) = answered_together(results).sent
    assert response is not None
    assert (response.tensors["text_output"].tolist(), final) == ([b"abc", b"x"], 1)
    assert {len(value) for value in response.tensors.values()} == {2}


def test_a_text_that_the_runtime_refuses_ends_the_request_and_the_others_work() -> None:
    begun = ScriptedResult("a", "ab")
    ((response, _),) = answered_together({"fine": begun, "bad": ValueError("too long")}).sent
    assert (_shown(response), begun.aborted) == ("3: too long (text 2 of 2)", True)


def test_a_text_that_fails_later_ends_the_request_too() -> None:
    class Failing(ScriptedResult):
        async def __anext__(self) -> ScriptedResult:
            raise RuntimeError("out of memory")

    begun = ScriptedResult(*["a"] * 1000)
    ((response, _),) = answered_together({"bad": Failing(), "fine": begun}).sent
    assert (_shown(response), begun.aborted) == ("1: the model failed: out of memory", True)


def test_a_character_is_sent_when_it_is_whole() -> None:
    assert sent(ScriptedResult("a\ufffd", "a\ufffd", "a\u00e9", "a\u00e9\ufffd")) == [
        ("a", 0),
        ("\u00e9", 0),
        ("\ufffd", 1),
    ]


class WatchedSender(FakeSender):
    """A sender that records requests for the client's state after the last response."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = False
        self.asked_too_late = threading.Event()

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.ending = bool(flags)
        if self.ending:
            self.asked_too_late.wait(0.2)
        super().send(response, flags)

    def is_cancelled(self) -> bool:
        if self.ending:
            self.asked_too_late.set()
        return super().is_cancelled()


def test_the_clients_state_is_not_requested_after_the_last_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_llm, "CANCEL_CHECK_SECONDS", 0.0)
    sender = WatchedSender()
    run(ScriptedResult("a", "ab"), sender)
    assert [_shown(response) for response, _ in sender.sent] == ["a", "b"]
    assert not sender.asked_too_late.is_set()


def test_work_for_a_client_that_has_gone_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_llm, "CANCEL_CHECK_SECONDS", 0.0)
    sender, result = FakeSender(), ScriptedResult("a", *["ab"] * 100)
    sender.cancelled = True
    run(result, sender)
    assert result.aborted
    assert sender.sent[-1][1] == 1
    assert _shown(sender.sent[-1][0]) == "6: the client has gone"
    assert result.states


def test_a_request_that_the_runtime_refuses_is_the_clients_mistake() -> None:
    assert sent(ValueError("too long")) == [("3: too long", 1)]


def test_any_other_failure_is_the_models() -> None:
    assert sent(RuntimeError("out of memory")) == [("1: the model failed: out of memory", 1)]


class Llm:
    """The LLM API as far as an engine uses it: it keeps what it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.given: list[Any] = []

    def generate_async(self, inputs: Any, **_: Any) -> None:
        self.given.append(inputs)


class Encoding:
    """A tokenizer as the LLM API has it, which adds the token 1 in front of a text."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(Beginning().encode(text, add_special_tokens=add_special_tokens).ids)


def given_to(tokenizer: Any, prompt: str, *, special: bool = True) -> Any:
    engine = Engine.__new__(Engine)
    engine._llm, engine._sampling_params = Llm(tokenizer), dict
    engine.generate(prompt, {}, stream=False, special=special)
    return engine._llm.given[0]


def test_a_text_goes_to_the_llm_as_tokens_only_where_the_llm_would_add_one_too_many() -> None:
    assert given_to(Encoding(), "hi") == "hi"
    assert given_to(Encoding(), "^hi") == [1, 104, 105]
    assert given_to(Encoding(), "hi", special=False) == [104, 105]
    assert given_to(None, "^hi") == "^hi"
    with pytest.raises(RequestError, match="add_special_tokens: this model has no tokenizer"):
        given_to(None, "hi", special=False)


def test_a_request_may_say_that_its_text_has_all_special_tokens() -> None:
    name = "sampling_param_add_special_tokens"
    assert read_request(inputs(), decoupled=False, exclude_input=True).special
    assert read_request(inputs(**{name: True}), decoupled=False, exclude_input=True).special
    assert not read_request(inputs(**{name: False}), decoupled=False, exclude_input=True).special
