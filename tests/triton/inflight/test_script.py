"""Tests of the script model around a TensorRT-LLM engine, without Triton."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enginery.triton.models import tensorrt_llm_bls
from enginery.triton.models.wiring import Step
from tests.support.triton.served import FAKE_TRITON, FakeRequest, FakeResponse, FakeTensor


def strings(*values: str) -> Any:
    return np.asarray([[value.encode() for value in values]], dtype=np.object_)


class Responses:
    """Triton's responses when one model calls another."""

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        self._outputs = outputs

    def has_error(self) -> bool:
        return "error" in self._outputs

    def error(self) -> Any:
        return SimpleNamespace(message=lambda: self._outputs["error"])

    def output_tensors(self) -> list[FakeTensor]:
        return [FakeTensor(name, np.asarray(value)) for name, value in self._outputs.items()]


class Triton:
    """A fake Triton for the script: its models answer from a list."""

    def __init__(self, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any], list[str]]] = []
        self.TritonError, self.InferenceResponse, self.Tensor = FAKE_TRITON.TritonError, FakeResponse, FakeTensor
        self.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    def InferenceRequest(self, *, model_name: str, inputs: Any, requested_output_names: list[str]) -> Any:  # noqa: N802
        given = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self.calls.append((model_name, given, requested_output_names))
        answers = [Responses(answer) for answer in self.answers.get(model_name, [])]

        def run(*, decoupled: bool = False) -> Any:
            if model_name == "postprocessing":
                text = bytes(given["TOKENS_BATCH"].reshape(-1)[: int(given["SEQUENCE_LENGTH"].reshape(-1)[0])].tolist())
                return Responses({"OUTPUT": np.asarray([[text]], dtype=np.object_)})
            return iter(answers) if decoupled else answers[0]

        return SimpleNamespace(exec=run)


STEPS = (
    Step("preprocessing", {"QUERY": "text_input"}, {"INPUT_ID": "_INPUT_ID", "OUT_END_ID": "_END"}),
    Step(
        "tensorrt_llm",
        {"input_ids": "_INPUT_ID", "end_id": "_END", "streaming": "stream", "beam_width": "beam_width"},
        {"output_ids": "_TOKENS", "sequence_length": "_LENGTH", "cum_log_probs": "cum_log_probs"},
    ),
    Step("postprocessing", {"TOKENS_BATCH": "_TOKENS", "SEQUENCE_LENGTH": "_LENGTH"}, {"OUTPUT": "text_output"}),
)


def script(answers: Sequence[Mapping[str, Any]], *, decoupled: bool) -> tuple[Any, Triton]:
    triton = Triton({"preprocessing": [{"INPUT_ID": [[1, 2]], "OUT_END_ID": [[9]]}], "tensorrt_llm": answers})
    model = tensorrt_llm_bls.TritonPythonModel()
    model.triton, model.decoupled, model.steps = triton, decoupled, STEPS
    model.outputs = frozenset({"text_output", "cum_log_probs"})
    return model, triton


def part(*tokens: int) -> dict[str, Any]:
    return {"output_ids": [[list(tokens)]], "sequence_length": [[len(tokens)]], "cum_log_probs": [[-1.0]]}


def test_the_script_asks_as_it_is_wired_and_returns_one_response() -> None:
    model, triton = script([part(97, 98)], decoupled=False)
    (response,) = model.execute([FakeRequest(text_input=strings("q"))])
    assert [name for name, _, _ in triton.calls] == ["preprocessing", "tensorrt_llm", "postprocessing"]
    assert set(triton.calls[1][1]) == {"input_ids", "end_id"}
    assert triton.calls[1][2] == ["output_ids", "sequence_length", "cum_log_probs"]
    assert set(response.tensors) == {"text_output", "cum_log_probs"}
    assert response.tensors["text_output"].tolist() == [[b"ab"]]


@pytest.mark.parametrize("decoupled", [False, True])
def test_several_texts_are_asked_one_by_one_and_answered_together(*, decoupled: bool) -> None:
    """TensorRT-LLM's backend refuses several texts, or answers each of them in a response of its own."""
    model, triton = script([part(97, 98)], decoupled=decoupled)
    model.outputs = frozenset({"text_output", "cum_log_probs", "batch_index"})
    model.steps = (STEPS[0], replace(STEPS[1], gives={**STEPS[1].gives, "batch_index": "batch_index"}), STEPS[2])
    triton.answers = {**triton.answers, "tensorrt_llm": [part(97, 98) | {"batch_index": [[0]]}]}
    query = np.asarray([[b"q"], [b"another"]], dtype=np.object_)
    request = FakeRequest(text_input=query, beam_width=[[1], [2]])
    made = model.execute([request])
    response: Any = request.sender.sent[0][0] if decoupled else made[0]
    assert response.tensors["text_output"].tolist() == [[b"ab"], [b"ab"]]
    assert response.tensors["batch_index"].tolist() == [[0], [1]]
    asked = [(name, given) for name, given, _ in triton.calls if name != "postprocessing"]
    assert [given["QUERY"].tolist() for name, given in asked if name == "preprocessing"] == [[[b"q"]], [[b"another"]]]
    assert [given["beam_width"].tolist() for name, given in asked if name == "tensorrt_llm"] == [[[1]], [[2]]]


def test_answers_of_different_sizes_are_filled_up() -> None:
    one = {
        "text_output": np.asarray([[b"a", b"b"]], dtype=np.object_),
        "output_log_probs": np.asarray([[[-1.0, -2.0]]]),
    }
    other = {"text_output": np.asarray([[b"c"]], dtype=np.object_), "output_log_probs": np.asarray([[[-3.0]]])}
    found = tensorrt_llm_bls.stacked([one, other])
    assert found["text_output"].tolist() == [[b"a", b"b"], [b"c", b""]]
    assert found["output_log_probs"].tolist() == [[[-1.0, -2.0]], [[-3.0, 0.0]]]


def test_an_error_about_one_of_several_texts_says_which_and_several_are_not_streamed() -> None:
    model, triton = script([{"error": "too long"}], decoupled=True)
    texts = np.asarray([[b"q"], [b"r"]], dtype=np.object_)
    requests = [FakeRequest(text_input=texts), FakeRequest(text_input=texts, stream=[[False], [True]])]
    model.execute(requests)
    responses: list[Any] = [request.sender.sent[0][0] for request in requests]
    errors = [response.error.message() for response in responses]
    assert errors == ["too long (text 1 of 2)", "stream: one text at a time can be streamed"]
    assert len([name for name, _, _ in triton.calls if name == "tensorrt_llm"]) == 1


def test_the_script_asks_the_engine_by_the_name_in_its_parameters() -> None:
    model, triton = script([part(97)], decoupled=False)
    model.engine_model = "another"
    triton.answers = {**triton.answers, "another": [part(99)]}
    (response,) = model.execute([FakeRequest(text_input=strings("q"))])
    assert response.tensors["text_output"].tolist() == [[b"c"]]


def sent(request: FakeRequest) -> Iterator[bytes]:
    for response, _ in request.sender.sent:
        if response is not None:
            assert response.error is None
            yield response.tensors["text_output"].reshape(-1)[0]


@pytest.mark.parametrize(("accumulates", "texts"), [(False, [b"a", b"b", b"c"]), (True, [b"a", b"ab", b"abc"])])
def test_streamed_pieces_are_new_text_or_the_text_so_far(texts: list[bytes], *, accumulates: bool) -> None:
    model, triton = script([part(97), part(98), part(99)], decoupled=True)
    model.accumulates = accumulates
    request = FakeRequest(text_input=strings("q"), stream=[[True]])
    assert model.execute([request]) is None
    assert list(sent(request)) == texts
    assert triton.calls[-1][1]["TOKENS_BATCH"].tolist() == [[[97, 98, 99]]]
    assert request.sender.closed


def test_a_character_that_never_becomes_whole_is_sent_at_the_end() -> None:
    class Odd(Triton):
        def InferenceRequest(self, **wanted: Any) -> Any:  # noqa: N802  Triton's name
            made = super().InferenceRequest(**wanted)
            if wanted["model_name"] == "postprocessing":
                return SimpleNamespace(
                    exec=lambda: Responses({"OUTPUT": np.asarray([["a\ufffd".encode()]], dtype=object)})
                )
            return made

    model, triton = script([part(97)], decoupled=True)
    model.triton = Odd(triton.answers)
    request = FakeRequest(text_input=strings("q"), stream=[[True]])
    model.execute([request])
    assert list(sent(request)) == [b"a", "\ufffd".encode()]


def test_beams_are_sent_as_they_come() -> None:
    model, triton = script([part(97), part(97, 98)], decoupled=True)
    request = FakeRequest(text_input=strings("q"), stream=[[True]], beam_width=[[2]])
    model.execute([request])
    assert list(sent(request)) == [b"a", b"ab"]
    assert triton.calls[-1][1]["TOKENS_BATCH"].tolist() == [[[97, 98]]]


def test_inputs_that_nothing_takes_are_refused_by_name() -> None:
    model, triton = script([part(97)], decoupled=False)
    (response,) = model.execute([FakeRequest(text_input=strings("q"), num_draft_tokens=[[3]])])
    assert response.error.message().startswith("num_draft_tokens: ")
    assert not triton.calls


def test_an_engine_that_says_nothing_is_an_error() -> None:
    model, _ = script([{}], decoupled=False)
    (response,) = model.execute([FakeRequest(text_input=strings("q"))])
    assert response.error.message() == "tensorrt_llm gave no answer"


def test_what_the_engine_says_reaches_the_client() -> None:
    model, _ = script([{"error": "too long"}], decoupled=False)
    (response,) = model.execute([FakeRequest(text_input=strings("q"))])
    assert response.error.message() == "too long"
