"""Tests of the served models without Triton: what they read from requests, and their responses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.triton.models import postprocessing, preprocessing, tensorrt_llm, tensorrt_llm_bls
from enginery.triton.models.requests import RequestError, read_call
from enginery.triton.models.text import is_true, pack, parameter, version_directory
from tests.support.triton.served import (
    END,
    FAKE_TRITON,
    FILLER,
    VOCABULARY,
    ByteTokenizer,
    FakeError,
    FakeRequest,
    ScriptedEngine,
    decode,
)

ENGINE = ScriptedEngine({"q": "answer", "?": "é!"})
WHOLE = {"decoupled": False, "exclude_input": True}


def strings(*values: str | bytes) -> Any:
    return np.asarray([[each.encode() if isinstance(each, str) else each for each in values]], dtype=np.object_)


def call_inputs(*prompts: str, **others: Any) -> dict[str, Any]:
    width = max(map(len, prompts))
    return {
        "input_ids": np.asarray([[*text.encode(), *[0] * (width - len(text))] for text in prompts], dtype=np.int32),
        "input_lengths": np.asarray([[len(text)] for text in prompts], dtype=np.int32),
        "request_output_len": np.asarray([[9]] * len(prompts), dtype=np.int32),
        **{name: np.asarray([[value]] * len(prompts)) for name, value in others.items()},
    }


@pytest.fixture
def before() -> preprocessing.TritonPythonModel:
    model = preprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.special = FAKE_TRITON, ByteTokenizer(), True
    return model


@pytest.fixture
def after() -> postprocessing.TritonPythonModel:
    model = postprocessing.TritonPythonModel()
    model.triton, model.tokenizer, model.skip = FAKE_TRITON, ByteTokenizer(), True
    return model


@pytest.fixture
def middle() -> tensorrt_llm.TritonPythonModel:
    model = tensorrt_llm.TritonPythonModel()
    model.triton, model.tokenizer, model.engine = FAKE_TRITON, ByteTokenizer(), ENGINE
    model.max_rows, model.decoupled, model.exclude_input = 8, True, True
    return model


def test_texts_of_different_lengths_become_one_tensor(before: preprocessing.TritonPythonModel) -> None:
    query = np.asarray([[b"abc"], [b"d"]], dtype=np.object_)
    found = before.outputs({"QUERY": query, "REQUEST_OUTPUT_LEN": np.asarray([[5], [6]])})
    assert found["INPUT_ID"].tolist() == [[97, 98, 99], [100, 0, 0]]
    assert found["REQUEST_INPUT_LEN"].tolist() == [[3], [1]]
    assert found["REQUEST_OUTPUT_LEN"].tolist() == [[5], [6]]
    assert found["STOP_WORDS_IDS"].tolist() == pack([[], []]).tolist()


def test_several_texts_in_a_row_are_refused(before: preprocessing.TritonPythonModel) -> None:
    with pytest.raises(RequestError, match="^text_input: one text in each row of the batch; 2 in a row"):
        before.outputs({"QUERY": strings("a", "b"), "REQUEST_OUTPUT_LEN": np.asarray([[5]])})


def test_the_tutorials_empty_words_are_none(before: preprocessing.TritonPythonModel) -> None:
    words = {"BAD_WORDS_DICT": strings(""), "STOP_WORDS_DICT": strings("")}
    found = before.outputs({"QUERY": strings("q"), "REQUEST_OUTPUT_LEN": np.asarray([[5]]), **words})
    assert found["BAD_WORDS_IDS"].tolist() == found["STOP_WORDS_IDS"].tolist() == pack([[]]).tolist()


def test_words_of_each_kind_go_to_their_own_list(before: preprocessing.TritonPythonModel) -> None:
    words = {"BAD_WORDS_DICT": strings("b"), "STOP_WORDS_DICT": strings("s", "t")}
    found = before.outputs({"QUERY": strings("q"), "REQUEST_OUTPUT_LEN": np.asarray([[5]]), **words})
    assert found["BAD_WORDS_IDS"].tolist() == pack([[[98], [32, 98]]]).tolist()
    assert found["STOP_WORDS_IDS"].tolist() == pack([[[115], [116]]]).tolist()


@pytest.mark.parametrize(
    ("parameters", "query", "named"),
    [
        ({}, b"\xff", "text_input"),
        ({}, b"", "text_input"),
        ({"temprature": 1}, b"q", "temprature"),
    ],
)
def test_preprocessing_refuses_by_name(
    before: preprocessing.TritonPythonModel, parameters: dict[str, object], query: bytes, named: str
) -> None:
    request = FakeRequest(parameters, QUERY=strings(query), REQUEST_OUTPUT_LEN=[[5]])
    (response,) = before.execute([request])
    assert response.error.message().startswith(f"{named}: ")
    assert response.error.code == FakeError.INVALID_ARG


def test_tritons_own_parameters_are_let_through(before: preprocessing.TritonPythonModel) -> None:
    request = FakeRequest({"triton_enable_empty_final_response": True}, QUERY=strings("q"), REQUEST_OUTPUT_LEN=[[5]])
    assert before.execute([request])[0].error is None


def test_tokens_become_text_up_to_their_length(after: postprocessing.TritonPythonModel) -> None:
    tokens = np.asarray([[[97, 98, 99]], [[100, 0, 0]]])
    found = after.output({"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.asarray([[3], [1]])})
    assert found.tolist() == [[b"abc"], [b"d"]]


def test_a_piece_is_what_its_tokens_add_to_the_context(after: postprocessing.TritonPythonModel) -> None:
    inputs = {"TOKENS_BATCH": np.asarray([[[98]]]), "SEQUENCE_LENGTH": np.asarray([[1]])}
    assert after.output({**inputs, "CONTEXT_IDS": np.asarray([[97]])}).tolist() == [[b"b"]]
    assert after.output({**inputs, "CONTEXT_IDS": np.asarray([[-1]])}).tolist() == [[b"b"]]


def test_no_tokens_are_no_text(after: postprocessing.TritonPythonModel) -> None:
    inputs = {"TOKENS_BATCH": np.asarray([[[98]]]), "SEQUENCE_LENGTH": np.asarray([[0]])}
    assert after.output(inputs).tolist() == [[b""]]


def test_a_call_has_the_engines_defaults() -> None:
    call = read_call(call_inputs("q"), ENGINE, **WHOLE)
    (question,) = call.questions
    assert (question.prompt, question.max_tokens, question.echo, call.stream) == ([ord("q")], 9, False, False)
    assert question.end_ids == [END]
    assert question.sampling.greedy
    assert call.pad_ids == [FILLER]


def test_a_call_reads_every_sampling_parameter() -> None:
    inputs = call_inputs(
        "q",
        temperature=0.5,
        runtime_top_k=7,
        runtime_top_p=0.25,
        random_seed=2**64 - 1,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        min_length=3,
        end_id=65,
        pad_id=66,
        return_log_probs=True,
        exclude_input_in_output=False,
    )
    inputs["bad_words_list"] = pack([[[1, 2], [VOCABULARY + 5]]])
    inputs["stop_words_list"] = pack([[[3]]])
    call = read_call(inputs, ENGINE, **WHOLE)
    (question,) = call.questions
    sampling = question.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 7, 0.25, 2**64 - 1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.5, 0.5, -0.5)
    assert (sampling.min_tokens, sampling.bad_words, question.stop_words) == (3, [[1, 2]], [[3]])
    assert (question.end_ids, call.pad_ids, question.log_probs, question.echo) == ([65], [66], True, True)


def test_newer_names_win_over_older_ones() -> None:
    inputs = call_inputs("q", seed=1, random_seed=2, min_tokens=3, min_length=4)
    sampling = read_call(inputs, ENGINE, **WHOLE).questions[0].sampling
    assert (sampling.seed, sampling.min_tokens) == (1, 3)


def test_an_answer_is_cut_to_what_the_context_leaves() -> None:
    inputs = call_inputs("x" * (ENGINE.context_length - 4))
    assert read_call(inputs, ENGINE, **WHOLE).questions[0].max_tokens == 4


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"beam_width": 2}, "beam_width"),
        ({"beam_width": 0}, "beam_width"),
        ({"len_penalty": 0.5}, "length_penalty"),
        ({"return_context_logits": True}, "return_context_logits"),
        ({"return_generation_logits": True}, "return_generation_logits"),
        ({"streaming": True}, "stream"),
        ({"runtime_top_p": 1.01}, "top_p"),
        ({"runtime_top_p": float("nan")}, "top_p"),
        ({"runtime_top_k": -2}, "top_k"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"request_output_len": 0}, "max_tokens"),
    ],
)
def test_a_call_refuses_by_name(others: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=f"^{named}: "):
        read_call(call_inputs("q", **others), ENGINE, **WHOLE)


def test_a_prompt_must_leave_room_and_be_made_of_the_models_tokens() -> None:
    with pytest.raises(RequestError, match="leaves no room"):
        read_call(call_inputs("x" * ENGINE.context_length), ENGINE, **WHOLE)
    with pytest.raises(RequestError, match="^input_ids: "):
        read_call(call_inputs("q") | {"input_ids": np.asarray([[VOCABULARY]])}, ENGINE, **WHOLE)
    with pytest.raises(RequestError, match="is empty"):
        read_call(call_inputs("q") | {"input_lengths": np.asarray([[0]])}, ENGINE, **WHOLE)


def test_only_one_text_at_a_time_is_streamed() -> None:
    with pytest.raises(RequestError, match="^stream: one text"):
        read_call(call_inputs("q", "?", streaming=True), ENGINE, decoupled=True, exclude_input=True)


def sent_text(request: FakeRequest) -> list[str]:
    responses = [response for response, _ in request.sender.sent if response is not None]
    assert all(response.error is None for response in responses)
    lengths = [int(response.tensors["sequence_length"][0, 0]) for response in responses]
    return [
        decode([int(token) for token in response.tensors["output_ids"][0, 0, :length]])
        for response, length in zip(responses, lengths, strict=True)
    ]


def test_requests_are_answered_together_and_once(middle: tensorrt_llm.TritonPythonModel) -> None:
    requests = [FakeRequest(**call_inputs("q")), FakeRequest(**call_inputs("?"))]
    sessions = len(ENGINE.sessions)
    middle.execute(requests)
    assert [sent_text(request) for request in requests] == [["answer"], ["é!"]]
    assert all(request.sender.closed for request in requests)
    assert len(ENGINE.sessions) == sessions + 1


def test_a_short_answer_does_not_wait_for_a_long_one(middle: tensorrt_llm.TritonPythonModel) -> None:
    long, short = FakeRequest(**call_inputs("q")), FakeRequest(**call_inputs("?"))
    seen: list[bool] = []
    send = long.sender.send
    long.sender.send = lambda *given, **flags: (seen.append(short.sender.closed), send(*given, **flags))[1]  # type: ignore[func-returns-value, method-assign]
    middle.execute([long, short])
    assert seen == [True]


def test_a_wrong_request_does_not_harm_its_neighbours(middle: tensorrt_llm.TritonPythonModel) -> None:
    wrong, right = FakeRequest(**call_inputs("q", beam_width=4)), FakeRequest(**call_inputs("q"))
    middle.execute([wrong, right])
    ((refusal, final),) = wrong.sender.sent
    assert refusal is not None
    assert refusal.error is not None
    assert (refusal.error.code, final) == (FakeError.INVALID_ARG, 1)
    assert sent_text(right) == ["answer"]


def test_a_streamed_answer_comes_in_pieces_and_ends(middle: tensorrt_llm.TritonPythonModel) -> None:
    request = FakeRequest(**call_inputs("?", streaming=True))
    middle.execute([request])
    assert sent_text(request) == ["é", "!", ""]
    assert [flags for _, flags in request.sender.sent] == [0, 0, 1]


def test_a_request_of_several_rows_is_answered_at_once(middle: tensorrt_llm.TritonPythonModel) -> None:
    request = FakeRequest(**call_inputs("q", "?", pad_id=1, return_log_probs=True))
    middle.execute([request])
    ((response, _),) = request.sender.sent
    assert response is not None
    outputs = response.tensors
    assert outputs["output_ids"].tolist() == [[list(b"answer")], [[*"é!".encode(), 1, 1, 1]]]
    assert outputs["sequence_length"].tolist() == [[6], [3]]
    assert outputs["output_log_probs"].shape == (2, 1, 6)
    assert outputs["cum_log_probs"].reshape(-1) == pytest.approx(outputs["output_log_probs"].sum(axis=(1, 2)))


def test_a_client_that_has_gone_ends_the_work(
    middle: tensorrt_llm.TritonPythonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_llm, "CANCEL_CHECK_SECONDS", 0.0)
    gone, stays = FakeRequest(**call_inputs("q")), FakeRequest(**call_inputs("?"))
    gone.sender.cancelled = True
    middle.execute([gone, stays])
    assert sent_text(stays) == ["é!"]
    ((response, _),) = gone.sender.sent
    assert response is not None
    assert response.error is not None
    assert response.error.code == FakeError.CANCELLED


def failure(request: FakeRequest) -> FakeError:
    ((response, final),) = request.sender.sent
    assert response is not None
    assert response.error is not None
    assert final == 1
    return response.error


def test_an_engine_that_fails_with_one_text_answers_the_others(
    middle: tensorrt_llm.TritonPythonModel, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, right = FakeRequest(**call_inputs("no script for this")), FakeRequest(**call_inputs("q"))
    half = FakeRequest(**call_inputs("?", "no script for this either"))
    middle.execute([wrong, right, half])
    assert sent_text(right) == ["answer"]
    assert [failure(one).message()[:17] for one in (wrong, half)] == ["the engine failed"] * 2
    assert "KeyError" in capsys.readouterr().err


def test_a_request_that_cannot_be_read_is_answered_too(
    middle: tensorrt_llm.TritonPythonModel, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, right = FakeRequest(**call_inputs("q") | {"temperature": np.empty((1, 0))}), FakeRequest(**call_inputs("q"))
    middle.execute([odd, right])
    assert (failure(odd).code, sent_text(right)) == (FakeError.INTERNAL, ["answer"])
    assert "IndexError" in capsys.readouterr().err


def test_texts_of_a_request_that_do_not_fit_together_are_answered_apart(
    middle: tensorrt_llm.TritonPythonModel,
) -> None:
    ENGINE.answers["y" * 30] = "short"
    request = FakeRequest(**call_inputs("y" * 30, "q") | {"request_output_len": np.asarray([[5], [39]])})
    middle.execute([request])
    assert len(ENGINE.heads[-1]) == len(ENGINE.heads[-2]) == 1
    ((response, _),) = request.sender.sent
    assert response is not None
    assert response.tensors["sequence_length"].tolist() == [[5], [6]]


def test_more_texts_than_a_batch_has_are_answered_in_several(middle: tensorrt_llm.TritonPythonModel) -> None:
    middle.max_rows = 2
    request = FakeRequest(**call_inputs("q", "?", "q"))
    middle.execute([request])
    ((response, _),) = request.sender.sent
    assert response is not None
    assert response.tensors["sequence_length"].tolist() == [[6], [3], [6]]


def test_an_error_says_which_of_several_texts_it_is_about(before: preprocessing.TritonPythonModel) -> None:
    with pytest.raises(RequestError, match=r"^max_tokens: must be at least 1, is -2147483648 \(text 2 of 2\)$"):
        read_call(call_inputs("q", "?") | {"request_output_len": np.asarray([[9], [-(2**31)]])}, ENGINE, **WHOLE)
    query = np.asarray([[b"a"], [b"\xff"], [b"b"]], dtype=np.object_)
    with pytest.raises(RequestError, match=r"^text_input: is not UTF-8: .* \(text 2 of 3\)$"):
        before.outputs({"QUERY": query, "REQUEST_OUTPUT_LEN": np.asarray([[5]] * 3)})


@pytest.mark.parametrize("end_id", [-2, VOCABULARY])
def test_an_end_id_that_is_no_token_is_refused(end_id: int) -> None:
    with pytest.raises(RequestError, match=f"^end_id: must be a token of the model, .* is {end_id}$"):
        read_call(call_inputs("q", end_id=end_id), ENGINE, **WHOLE)


def test_each_answer_of_a_request_is_filled_with_its_own_token(middle: tensorrt_llm.TritonPythonModel) -> None:
    request = FakeRequest(**call_inputs("q", "?") | {"pad_id": np.asarray([[1], [2]])})
    middle.execute([request])
    ((response, _),) = request.sender.sent
    assert response is not None
    assert response.tensors["output_ids"].tolist() == [[list(b"answer")], [[*"é!".encode(), 2, 2, 2]]]


def test_the_prompt_comes_first_when_it_is_not_excluded(middle: tensorrt_llm.TritonPythonModel) -> None:
    middle.exclude_input = False
    whole, pieces = FakeRequest(**call_inputs("?")), FakeRequest(**call_inputs("?", streaming=True))
    middle.execute([whole, pieces])
    assert sent_text(whole) == ["?é!"]
    assert "".join(sent_text(pieces)) == "?é!"


def test_the_script_refuses_what_it_does_not_know() -> None:
    model = tensorrt_llm_bls.TritonPythonModel()
    model.triton, model.decoupled = FAKE_TRITON, False
    request = FakeRequest({"lora_task_id": 3}, text_input=strings("q"), max_tokens=[[4]])
    (response,) = model.execute([request]) or []
    assert response.error is not None
    assert response.error.message().startswith("lora_task_id: ")


def test_files_are_found_where_triton_says() -> None:
    assert version_directory({"model_repository": "/tmp/copy", "model_version": "7"}) == Path("/tmp/copy/7")


def test_parameters_have_defaults() -> None:
    config = json.loads('{"parameters": {"a": {"string_value": "True"}}}')
    assert (is_true(parameter(config, "a", "no")), is_true(parameter(config, "b", "no"))) == (True, False)
    assert parameter({}, "a", "x") == "x"
