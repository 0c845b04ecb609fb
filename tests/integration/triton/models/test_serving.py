"""Tests of the five models on a real Triton: requests and their answers."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from enginery.spec.serving import ServingOptions
from enginery.triton.repository import MODELS
from tests.support.triton.client import FiveModels
from tests.support.waiting import wait_until

QUESTION = "How do I count to nine in French?"
NINE = "un deux trois quatre cinq six sept huit neuf"
SHORTER = "What is the capital of France?"
JAPANESE = "What does a cat say in Japanese?"
ENTRY_POINTS = ("ensemble", "tensorrt_llm_bls")
NO_END = -1


def length(answer: dict[str, Any]) -> int:
    """The number of tokens in an answer with log probabilities. Triton writes a list of one as its element."""
    return int(np.size(answer["output_log_probs"]))


def test_all_five_models_are_served(plain: FiveModels) -> None:
    _, text = plain.post("/v2/repository/index", {})
    assert {(entry["name"], entry["state"]) for entry in json.loads(text)} == {(name, "READY") for name in MODELS}
    for name in MODELS:
        parameters = plain.get(f"/v2/models/{name}/config")["parameters"]
        assert parameters["enginery_model"] == {"string_value": "tiny"}


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_the_tutorials_body_is_answered(plain: FiveModels, model: str) -> None:
    body = b'{"text_input": "%s", "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}'
    assert NINE in plain.answer(body % QUESTION.encode(), model)["text_output"]


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_parameters_beside_the_text_are_answered_the_same(plain: FiveModels, model: str) -> None:
    body = {"text_input": QUESTION, "max_tokens": 100, "bad_words": "", "stop_words": ""}
    assert NINE in plain.answer(body, model)["text_output"]


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_max_tokens_cuts_the_answer(plain: FiveModels, model: str) -> None:
    whole, cut = plain.ask(QUESTION, model=model), plain.ask(QUESTION, model=model, max_tokens=5)
    assert whole.startswith(cut)
    assert 0 < len(cut) < len(whole)


def test_an_answer_may_ask_for_more_tokens_than_the_model_has(plain: FiveModels) -> None:
    assert plain.ask(QUESTION, max_tokens=100_000) == plain.ask(QUESTION)


@pytest.mark.parametrize(
    "greedy",
    [
        {"temperature": 0.0},
        {"top_k": 1},
        {"top_k": 1, "temperature": 5.0, "top_p": 0.9},
        {"temperature": 0, "top_k": 50, "seed": 3},
    ],
)
def test_these_take_the_likeliest_token(plain: FiveModels, greedy: dict[str, Any]) -> None:
    assert plain.ask(QUESTION, **greedy) == plain.ask(QUESTION)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("name", ["seed", "random_seed"])
def test_a_seed_makes_sampling_repeatable(plain: FiveModels, model: str, name: str) -> None:
    hot: dict[str, Any] = {"temperature": 50.0, "top_k": 0, "max_tokens": 20}
    first = plain.ask(QUESTION, model=model, **hot | {name: 18446744073709551615})
    assert plain.ask(QUESTION, model=model, **hot | {name: 18446744073709551615}) == first
    assert plain.ask(QUESTION, model=model, **hot | {name: 7}) != first


def test_without_a_seed_sampling_differs_from_call_to_call(plain: FiveModels) -> None:
    assert len({plain.ask(QUESTION, temperature=50.0, max_tokens=20) for _ in range(4)}) > 1


def test_top_k_and_top_p_keep_a_hot_sample_to_likely_tokens(plain: FiveModels) -> None:
    assert plain.ask(QUESTION, temperature=1.0, top_p=0.01, seed=5) == plain.ask(QUESTION)
    wild = plain.ask(QUESTION, temperature=1000.0, seed=5, max_tokens=20)
    assert plain.ask(QUESTION, temperature=1000.0, top_k=2, seed=5, max_tokens=20) != wild


def test_penalties_change_a_repetitive_answer(plain: FiveModels) -> None:
    usual = plain.ask(QUESTION, max_tokens=60, end_id=NO_END)
    penalties: list[dict[str, Any]]
    penalties = [{"repetition_penalty": 3.0}, {"presence_penalty": 30.0}, {"frequency_penalty": 30.0}]
    for penalty in penalties:
        assert plain.ask(QUESTION, max_tokens=60, end_id=NO_END, **penalty) != usual


@pytest.mark.parametrize("name", ["min_tokens", "min_length"])
def test_an_answer_can_be_made_longer(plain: FiveModels, name: str) -> None:
    usual = plain.answer({"text_input": SHORTER, "max_tokens": 30, "return_log_probs": True})
    longer = plain.answer({"text_input": SHORTER, "max_tokens": 30, "return_log_probs": True, name: 20})
    assert length(usual) < 20 <= length(longer)


def test_end_id_replaces_the_models_own(plain: FiveModels) -> None:
    usual = plain.answer({"text_input": SHORTER, "max_tokens": 40, "return_log_probs": True})
    endless = plain.answer({"text_input": SHORTER, "max_tokens": 40, "return_log_probs": True, "end_id": NO_END})
    assert length(endless) == 40 > length(usual)
    assert endless["text_output"].startswith(usual["text_output"])


def test_log_probabilities_are_those_of_the_chosen_tokens(plain: FiveModels) -> None:
    found = plain.answer({"text_input": QUESTION, "max_tokens": 64, "return_log_probs": True})
    each = found["output_log_probs"]
    assert all(value <= 0 for value in each)
    assert sum(each) == pytest.approx(found["cum_log_probs"], abs=1e-4)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("word", ["trois", "ois quat", " cinq", "e"])
def test_the_answer_stops_at_the_first_stop_word_in_its_text(plain: FiveModels, model: str, word: str) -> None:
    whole, stopped = plain.ask(QUESTION, model=model), plain.ask(QUESTION, model=model, stop_words=["absent", word, ""])
    assert whole.startswith(stopped)
    assert word in stopped
    assert stopped.index(word) == whole.index(word)
    assert stopped != whole


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_a_bad_word_is_never_produced(plain: FiveModels, model: str) -> None:
    assert "trois" in plain.ask(QUESTION, model=model)
    assert "trois" not in plain.ask(QUESTION, model=model, bad_words=["trois"])


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_the_prompt_can_be_part_of_the_answer(plain: FiveModels, model: str) -> None:
    assert plain.ask(QUESTION, model=model, exclude_input_in_output=False) == QUESTION + plain.ask(
        QUESTION, model=model
    )


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"beam_width": 2}, "beam_width"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"return_context_logits": True}, "return_context_logits"),
        ({"return_generation_logits": True}, "return_generation_logits"),
        ({"lora_task_id": 1}, "lora_task_id"),
        ({"prompt_vocab_size": 8}, "prompt_vocab_size"),
        ({"num_return_sequences": 3}, "num_return_sequences"),
        ({"embedding_bias_words": ["x"]}, "embedding_bias_words"),
        ({"temprature": 1}, "temprature"),
        ({"stream": True}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"temperature": -0.5}, "temperature"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"text_input": "ab " * 300}, "text_input"),
        ({"text_input": ["two", "texts"]}, "text_input"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    plain: FiveModels, model: str, wrong: dict[str, object], named: str
) -> None:
    assert named in plain.refusal({"text_input": QUESTION, "max_tokens": 8, **wrong}, model)


def test_beams_that_change_nothing_are_accepted(plain: FiveModels) -> None:
    assert plain.ask(QUESTION, beam_width=1, length_penalty=1.0, return_context_logits=False) == plain.ask(QUESTION)


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize("text", ["", " ", "\n\n", "ニャー 😀 é", "a\u0000b", "<|end_of_text|>"])
def test_any_text_is_answered(plain: FiveModels, model: str, text: str) -> None:
    assert isinstance(plain.ask(text, model=model), str)


def test_characters_of_several_bytes_come_out_whole(plain: FiveModels) -> None:
    assert "ニャー" in plain.ask(JAPANESE)


def test_text_that_is_not_utf8_is_refused(plain: FiveModels) -> None:
    body = {
        "inputs": [
            {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
            {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [8]},
        ]
    }
    header = json.dumps(body).encode()
    connection = plain.connect()
    connection.request(
        "POST",
        "/v2/models/ensemble/infer",
        header + b"\x02\x00\x00\x00\xff\xfe",
        {"Inference-Header-Content-Length": str(len(header))},
    )
    answer = connection.getresponse()
    assert (answer.status, "text_input: is not UTF-8" in answer.read().decode()) == (400, True)
    connection.close()


def test_several_texts_in_one_request_are_answered_as_if_alone(plain: FiveModels) -> None:
    from tritonclient.http import InferenceServerClient, InferInput

    texts = [QUESTION, SHORTER, JAPANESE]
    text = InferInput("text_input", [3, 1], "BYTES")
    text.set_data_from_numpy(np.array([[each] for each in texts], dtype=np.object_))
    tokens = InferInput("max_tokens", [3, 1], "INT32")
    tokens.set_data_from_numpy(np.array([[64], [64], [3]], dtype=np.int32))
    with InferenceServerClient(plain.server.url.removeprefix("http://")) as client:
        found = client.infer("ensemble", [text, tokens]).as_numpy("text_output")
    assert found is not None
    assert [value.decode() for value in found.reshape(-1)] == [
        plain.ask(QUESTION),
        plain.ask(SHORTER),
        plain.ask(JAPANESE, max_tokens=3),
    ]


MIXED: list[dict[str, Any]] = [
    {"text": QUESTION},
    {"text": SHORTER},
    {"text": JAPANESE},
    {"text": "Name the days of the week.", "max_tokens": 7},
    {"text": "x", "max_tokens": 30, "temperature": 3.0, "seed": 11},
    {"text": QUESTION, "temperature": 9.0, "top_k": 5, "seed": 12},
    {"text": QUESTION, "stop_words": ["quatre"]},
    {"text": QUESTION, "bad_words": ["deux"]},
    {"text": "Pad me <|pad|>", "max_tokens": 20},
    {"text": SHORTER, "end_id": NO_END, "max_tokens": 100},
]


def test_answers_are_the_same_in_a_batch_and_alone(start: Any) -> None:
    client = start(ServingOptions(max_batch_size=8, max_queue_delay_microseconds=50_000))
    alone = [client.ask(**request) for request in MIXED]
    with ThreadPoolExecutor(len(MIXED)) as pool:
        for _ in range(5):
            assert list(pool.map(lambda request: client.ask(**request), MIXED)) == alone
    assert max(client.batches()) > 1


def test_concurrent_clients_each_get_their_own_answer(plain: FiveModels) -> None:
    expected = {text: plain.ask(text) for text in (QUESTION, SHORTER, JAPANESE)}
    texts = list(expected) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: plain.ask(item[1], model=ENTRY_POINTS[item[0] % 2]), enumerate(texts)))
    assert found == [expected[text] for text in texts]


@pytest.mark.parametrize("model", ENTRY_POINTS)
@pytest.mark.parametrize(
    "request_body",
    [
        {"text_input": QUESTION},
        {"text_input": JAPANESE},
        {"text_input": "Write two lines about an engine."},
        {"text_input": QUESTION, "stop_words": ["ois quat"]},
        {"text_input": QUESTION, "exclude_input_in_output": False},
        {"text_input": "x", "temperature": 50.0, "seed": 1, "end_id": NO_END, "max_tokens": 200},
    ],
)
def test_streamed_pieces_join_to_the_whole_answer(
    streaming: FiveModels, model: str, request_body: dict[str, object]
) -> None:
    pieces = streaming.stream(model, **request_body)
    assert "".join(pieces) == streaming.answer({"max_tokens": 64, **request_body}, model)["text_output"]
    assert len([piece for piece in pieces if piece]) > 1 or request_body["text_input"] == JAPANESE


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_a_decoupled_model_answers_whole_too(streaming: FiveModels, model: str) -> None:
    body = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
    assert NINE in streaming.answer(body, model)["text_output"]
    assert "beam_width" in streaming.refusal({"text_input": QUESTION, "max_tokens": 8, "beam_width": 2}, model)


@pytest.mark.parametrize("model", ENTRY_POINTS)
def test_concurrent_streams_do_not_mix(streaming: FiveModels, model: str) -> None:
    texts = [QUESTION, SHORTER, JAPANESE, "Name the days of the week."] * 5
    expected = {text: streaming.ask(text) for text in texts}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda text: "".join(streaming.stream(model, text_input=text)), texts))
    assert found == [expected[text] for text in texts]


def test_a_client_that_goes_away_stops_the_generation(start: Any) -> None:
    """Triton reports this only to the requested model. In an ensemble, the inner models do not learn it."""
    client = start(ServingOptions(decoupled=True), slow=0.05)
    prompt = {"input_ids": [0, 20, 30, 40], "input_lengths": 4, "request_output_len": 200}
    body = {**prompt, "end_id": NO_END, "streaming": True}
    connection = client.open("/v2/models/tensorrt_llm/generate_stream", body)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    answer.close()
    connection.close()
    log = client.server.service.log_file
    wait_until(lambda: "the client has gone" in log.read_text(), seconds=30)
    stopped = re.search(r"stopped after (\d+) tokens", log.read_text())
    assert stopped is not None
    assert int(stopped[1]) < 200
