"""Tests of requests of the kinds that people report trouble with, on a real Triton: an answer or a clear refusal.

The model has no token for padding, so the token that fills up shorter rows is a word: " Saturday".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tests.support.triton.client import FiveModels

QUESTION = "How do I count to nine in French?"
SHORTER = "What is the capital of France?"
JAPANESE = "What does a cat say in Japanese?"
FILLER = " Saturday"
ENTRY_POINTS = ("ensemble", "tensorrt_llm_bls")

ANSWERED_AS_USUAL: Mapping[str, Mapping[str, Any]] = {
    "more tokens than the model has": {"max_tokens": 100_000},
    "an empty stop word": {"stop_words": ""},
    "no stop words": {"stop_words": []},
    "an empty bad word": {"bad_words": [""]},
    "an end id in a list": {"end_id": [1]},
    "temperature 0 as an integer": {"temperature": 0},
    "a temperature that is almost 0": {"temperature": 1e-30, "top_k": 5},
    "a temperature that is no normal number": {"temperature": 1e-45, "top_k": 5},
    "log probabilities": {"return_log_probs": True},
}
ANSWERED_SOMEHOW: Mapping[str, Mapping[str, Any]] = {
    "an empty text": {"text_input": ""},
    "a space": {"text_input": " "},
    "a NUL": {"text_input": "cat \x00?", "max_tokens": 5},
    "the filler": {"text_input": FILLER},
    "the filler several times": {"text_input": FILLER * 3},
    "no end": {"end_id": -1},
    "more candidates than the model has tokens": {"top_k": 1_000_000, "random_seed": 1},
    "a seed of 64 bits": {"top_k": 5, "random_seed": 2**63},
    "a least length that the model does not have": {"min_length": 100_000},
    "a tiny penalty": {"repetition_penalty": 1e-40},
    "a huge penalty": {"frequency_penalty": 1e38, "top_k": 5},
}
REFUSED: Mapping[str, tuple[Mapping[str, Any] | bytes, str]] = {
    "no tokens": ({"max_tokens": 0}, "max_tokens: must be at least 1, is 0"),
    "a negative length": ({"max_tokens": -5}, "max_tokens: must be at least 1, is -5"),
    "a length of more than 32 bits": ({"max_tokens": 2**31}, "max_tokens: must be at least 1, is -2147483648"),
    "no length": (b'{"text_input": "a"}', "missing required input(s) ['max_tokens']"),
    "a prompt that is too long": ({"text_input": "un " * 400}, "text_input: has 402 tokens and leaves no room"),
    "two texts with one length": ({"text_input": ["a", "b"]}, "'text_input' batch size does not match other inputs"),
    "not UTF-8": (b'{"text_input": "cat \xff?", "max_tokens": 5}', "text_input: is not UTF-8"),
    "an end id of more than 32 bits": ({"end_id": 5_000_000_000}, "end_id: must be a token of the model, 0 to 447, or"),
    "an end id beyond the vocabulary": ({"end_id": 448}, "end_id: must be a token of the model"),
    "a negative temperature": ({"temperature": -1.0}, "temperature: must be at least 0, is -1"),
    "a temperature that is no number": (
        b'{"text_input": "a", "max_tokens": 5, "temperature": NaN}',
        "temperature: must be a number, is nan",
    ),
    "a probability of more than 1": ({"top_p": 1.5}, "top_p: must be between 0 and 1, is 1.5"),
    "beams": ({"beam_width": 4}, "beam_width: 4 is not supported"),
    "a penalty of more than 32 bits": ({"repetition_penalty": 1e308}, "repetition_penalty: must be a number, is inf"),
    "a misspelt name": ({"temprature": 0.5}, "temprature: there is no such input"),
}
REFUSED_BY_TRITON: Mapping[str, tuple[Mapping[str, Any] | bytes, str]] = {
    "a length in quotes": ({"max_tokens": "40"}, "Unable to parse 'data'"),
    "a negative seed": ({"top_k": 5, "random_seed": -1}, "Unable to parse 'data'"),
    "half a character": (b'{"text_input": "cat \\ud83d?", "max_tokens": 5}', "surrogate pair in string is invalid"),
    "no JSON": (b"{", "failed to parse the request JSON buffer"),
}
"""Triton's own front end reads a request before our models do. What it cannot read has the status 400 or 500."""


def body(given: Mapping[str, Any] | bytes) -> object:
    return given if isinstance(given, bytes) else {"text_input": QUESTION, "max_tokens": 40, **given}


@pytest.fixture
def usual(streaming: FiveModels) -> str:
    return streaming.ask(QUESTION, max_tokens=40)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("what", ANSWERED_AS_USUAL)
def test_what_changes_nothing_is_answered_as_usual(streaming: FiveModels, usual: str, model: str, what: str) -> None:
    assert streaming.answer(body(ANSWERED_AS_USUAL[what]), model)["text_output"] == usual


@pytest.mark.parametrize("what", ANSWERED_SOMEHOW)
def test_what_is_odd_but_possible_is_answered(streaming: FiveModels, what: str) -> None:
    assert streaming.answer(body(ANSWERED_SOMEHOW[what]))["text_output"].strip()


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_by_name_and_the_server_goes_on(
    streaming: FiveModels, usual: str, model: str, what: str
) -> None:
    given, sentence = REFUSED[what]
    refusal = streaming.refusal(body(given), model)
    assert sentence in refusal
    assert "Traceback" not in refusal
    assert streaming.ask(QUESTION, max_tokens=40, model=model) == usual


@pytest.mark.parametrize("what", REFUSED_BY_TRITON)
def test_what_triton_itself_cannot_read_does_not_stop_the_server(streaming: FiveModels, usual: str, what: str) -> None:
    given, sentence = REFUSED_BY_TRITON[what]
    status, text = streaming.post("/v2/models/ensemble/generate", body(given))
    assert (status in {400, 500}, sentence in json.loads(text)["error"]) == (True, True)
    assert streaming.ask(QUESTION, max_tokens=40) == usual


@pytest.mark.parametrize("words", ["quatre", ["quatre"], ["six", "quatre"], [["quatre"]]])
def test_stop_words_may_be_one_or_several(streaming: FiveModels, usual: str, words: object) -> None:
    stopped = streaming.answer(body({"stop_words": words}))["text_output"]
    assert (stopped, stopped[-6:]) == (usual[: len(stopped)], "quatre")


def test_a_bad_word_may_be_alone(streaming: FiveModels, usual: str) -> None:
    found = streaming.answer(body({"bad_words": "quatre"}))["text_output"]
    assert ("quatre" in found, "quatre" in usual) == (False, True)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("text", [QUESTION, JAPANESE, FILLER, f"How do I count{FILLER}"])
def test_a_stream_is_the_whole_answer(streaming: FiveModels, model: str, text: str) -> None:
    pieces = streaming.stream(model, text_input=text, max_tokens=20)
    assert "".join(pieces) == streaming.ask(text, max_tokens=20)


@pytest.mark.parametrize(
    "text", [FILLER, FILLER * 4, f"How do I count{FILLER}", f"a{FILLER}{FILLER}", f"Say{FILLER} now", f"{FILLER} a"]
)
def test_a_prompt_that_looks_filled_is_answered_as_by_a_model_with_a_token_for_padding(
    plain: FiveModels, streaming: FiveModels, text: str
) -> None:
    assert streaming.ask(text, max_tokens=30) == plain.ask(text, max_tokens=30)


DEFAULTS: Mapping[str, Any] = {
    "max_tokens": 40,
    "temperature": 0.0,
    "top_k": 0,
    "random_seed": 1,
    "end_id": 1,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "exclude_input_in_output": True,
}
"""The inputs of each text. Triton wants the same inputs for all texts of a request."""
NO_WORDS: Mapping[str, Any] = {"stop_words": ["", ""], "bad_words": ["", ""]}
"""Two words for each text. Only `infer` can tell whose words they are: `generate` takes one list for the request."""
TEXTS: Sequence[Mapping[str, Any]] = [
    {"text_input": QUESTION},
    {"text_input": SHORTER, "max_tokens": 3},
    {"text_input": SHORTER, "end_id": -1, "max_tokens": 100},
    {"text_input": JAPANESE, "exclude_input_in_output": False},
    {"text_input": JAPANESE, "max_tokens": 1},
    {"text_input": ""},
    {"text_input": "un " * 200, "max_tokens": 10},
    {"text_input": "un " * 240, "max_tokens": 100_000},
    {"text_input": "x", "max_tokens": 240},
    {"text_input": "x", "end_id": -1, "max_tokens": 100_000},
    {"text_input": QUESTION, "temperature": 9.0, "top_k": 5, "random_seed": 12},
    {"text_input": QUESTION, "temperature": 9.0, "top_k": 5, "random_seed": 13},
    {"text_input": QUESTION, "repetition_penalty": 3.0},
    {"text_input": SHORTER, "min_tokens": 20},
    *(
        {"text_input": text, "max_tokens": 20}
        for filler in (FILLER, "<|pad|>")
        for text in (filler, filler * 3, f"How do I count{filler}{filler}", f"{filler}{filler} 😀 ニャー")
    ),
]
WITH_WORDS: Sequence[Mapping[str, Any]] = [
    {"text_input": QUESTION, "stop_words": ["six", "quatre"]},
    {"text_input": QUESTION, "stop_words": ["absent", ""]},
    {"text_input": QUESTION, "bad_words": ["trois", ""]},
    {"text_input": SHORTER, "stop_words": ["", "a"], "bad_words": ["Paris", ""]},
]


def request_of(texts: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any] = DEFAULTS) -> dict[str, list[Any]]:
    """One request with these texts."""
    rows = [{**defaults, **text} for text in texts]
    return {name: [row[name] for row in rows] for name in rows[0]}


def generated(client: FiveModels, texts: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    found = client.answer(request_of(texts), model)["text_output"]
    return [found] if isinstance(found, str) else found


def inferred(client: FiveModels, texts: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    return client.infer(request_of(texts, {**DEFAULTS, **NO_WORDS}), model)


def require_equal_answers(ask: Callable[[Sequence[Mapping[str, Any]]], list[str]], *texts: Mapping[str, Any]) -> None:
    """Each text has the same answer alone and in requests with any others, which Triton may also put together."""
    alone = [ask([text])[0] for text in texts]
    chance = Random(11)
    chosen = [chance.sample(range(len(texts)), chance.randint(2, 8)) for _ in range(12)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: ask([texts[index] for index in one]), chosen))
    assert found == [[alone[index] for index in one] for one in chosen]


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_texts_of_one_request_are_answered_as_each_of_them_alone(streaming: FiveModels, model: str) -> None:
    require_equal_answers(lambda texts: generated(streaming, texts, model), *TEXTS)


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_texts_of_one_request_have_words_of_their_own(plain: FiveModels, model: str) -> None:
    require_equal_answers(lambda texts: inferred(plain, texts, model), *TEXTS, *WITH_WORDS)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens: must be at least 1, is 0 (text 2 of 3)"),
        ({"text_input": "un " * 400}, "the model takes 256 in all (text 2 of 3)"),
        ({"temperature": -1.0}, "temperature: must be at least 0, is -1 (text 2 of 3)"),
        ({"end_id": 999}, "is 999 (text 2 of 3)"),
    ],
)
def test_a_refusal_says_which_of_several_texts_is_wrong(
    streaming: FiveModels, model: str, wrong: Mapping[str, Any], sentence: str
) -> None:
    texts = [{"text_input": "a"}, {"text_input": "b", **wrong}, {"text_input": "c"}]
    assert sentence in streaming.refusal(request_of(texts), model)


def test_several_texts_are_not_streamed(streaming: FiveModels) -> None:
    request = request_of(TEXTS[:2], {**DEFAULTS, "stream": True})
    assert "stream: one text at a time" in streaming.refusal(request)


def test_more_texts_than_the_server_takes_are_refused(streaming: FiveModels) -> None:
    assert "batch-size must be <= 8" in streaming.refusal(request_of([TEXTS[0]] * 9))
