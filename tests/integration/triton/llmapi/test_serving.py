"""Tests of the `llmapi` repository on a real Triton, with a stand-in for the package `tensorrt_llm`."""

import json
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from enginery.core import s3
from enginery.core.errors import RolloutError
from enginery.dev.triton import TritonServer, start_triton
from enginery.registry import Registry
from enginery.spec import ServingOptions
from enginery.triton.llmapi import LlmApiOptions, write_llmapi_repository
from enginery.triton.placement import open_repository
from enginery.triton.rollout import roll_out_build
from tests.support.models.directories import exported_checkpoint
from tests.support.registry.builds import Build
from tests.support.triton.client import TritonHttp
from tests.support.triton.llm_api import ANSWERS, write_fake_llm
from tests.support.waiting import wait_until

QUESTION = "How do I count to nine in French?"
NINE = ANSWERS[QUESTION]
ARGUMENTS: dict[str, Any] = {
    "max_batch_size": 4,
    "kv_cache_config": {"enable_block_reuse": True},
    "speculative_config": None,
    "cuda_graph_config": None,
}
LONG = {"text_input": "count", "sampling_param_max_tokens": 1000, "streaming": True}
TUTORIAL = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}


class Client(TritonHttp):
    """A client of the models. It also reads the requests that reached the stand-in."""

    def __init__(self, server: TritonServer, log: Path) -> None:
        super().__init__(server)
        self._heard = log

    def received(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._heard.read_text().splitlines()]

    def ask(self, text: str = QUESTION, **inputs: Any) -> str:
        return str(self.answer({"text_input": text, "max_tokens": 64, **inputs})["text_output"])

    def refusal(self, body: object, model: str = "ensemble") -> str:
        status, text = self.post(f"/v2/models/{model}/generate", body)
        assert status >= 400, text
        return str(json.loads(text)["error"])

    def stream(self, body: object, model: str = "ensemble") -> list[dict[str, Any]]:
        status, text = self.post(f"/v2/models/{model}/generate_stream", body)
        assert status == 200, text
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


def serving_python(directory: Path, *paths: Path) -> Path:
    """An interpreter that also imports from `paths`. Triton's stub finds packages only through the interpreter."""
    venv.create(directory, symlinks=True)
    site = next(directory.glob("lib/python*/site-packages"))
    (site / "more.pth").write_text("".join(f"{path}\n" for path in paths))
    return directory / "bin" / "python"


def stand_in_environment(directory: Path, token_seconds: float = 0.0) -> dict[str, str]:
    """Settings of the stand-in: its answers, its speed, and the file for the requests."""
    return {
        "FAKE_LLM_ANSWERS": json.dumps(ANSWERS | {"crash": "oh CRASH", "count": "word " * 600}),
        "FAKE_LLM_HEARD": str(directory / "heard.jsonl"),
        "FAKE_LLM_TOKEN_SECONDS": str(token_seconds),
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, onnxruntime_python: Path, triton_site: Path) -> Iterator[Any]:
    servers: list[TritonServer] = []
    packages = next(onnxruntime_python.parent.parent.glob("lib/python*/site-packages"))

    def start_serving(options: LlmApiOptions, *, token_seconds: float = 0.0) -> Client:
        directory = tmp_path_factory.mktemp("llmapi")
        python = serving_python(directory / "python", packages, write_fake_llm(directory / "stand-in"))
        checkpoint = exported_checkpoint(directory / "checkpoint")
        write_llmapi_repository(directory / "models", checkpoint=checkpoint, weights=checkpoint, options=options)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in stand_in_environment(directory, token_seconds).items():
                patch.setenv(name, value)
            server = start_triton(
                str(directory / "models"),
                triton_site=triton_site,
                serving_python=python,
                log_file=directory / "triton.log",
                load_all=True,
            )
        servers.append(server)
        return Client(server, directory / "heard.jsonl")

    yield start_serving
    for server in servers:
        server.service.stop()


@pytest.fixture(scope="module")
def plain(start: Any) -> Client:
    options = LlmApiOptions(release="1.2.1", arguments=ARGUMENTS, warm_up=(1, 3))
    client = start(options)
    assert isinstance(client, Client)
    return client


@pytest.fixture(scope="module")
def streaming(start: Any) -> Client:
    client = start(LlmApiOptions(release="1.2.1", serving=ServingOptions(decoupled=True)), token_seconds=0.05)
    assert isinstance(client, Client)
    return client


def test_the_tutorials_request_is_answered(plain: Client) -> None:
    found = plain.answer(TUTORIAL)
    assert found["text_output"] == NINE
    assert found["finish_reason"] == "stop"


def test_the_model_is_asked_with_the_arguments_and_the_place_of_its_checkpoint(plain: Client) -> None:
    (loaded,) = [event["arguments"] for event in plain.received() if "arguments" in event]
    assert loaded["max_batch_size"] == 4
    assert loaded["model"].endswith("/models/tensorrt_llm/1/checkpoint")
    assert "triton_config" not in loaded
    assert loaded["kv_cache_config"] == {"enable_block_reuse": True, "made_by": "the helper"}
    assert (loaded["speculative_config"], loaded["cuda_graph_config"]) == (None, None)


def test_it_warms_up_with_the_configured_batches_before_the_first_request(plain: Client) -> None:
    requests = [event for event in plain.received() if "prompt" in event]
    assert [event["prompt"] for event in requests[:4]] == ["Hello"] * 4
    assert requests[0]["sampling"]["max_tokens"] == 4


def test_nvidias_own_tensors_work_on_the_model_itself(plain: Client) -> None:
    body = {"text_input": QUESTION, "sampling_param_max_tokens": 2, "return_finish_reason": True}
    found = plain.answer(body, "tensorrt_llm")
    assert (found["text_output"], found["finish_reason"]) == ("un deux", "length")


def test_what_a_request_says_reaches_the_sampling_parameters(plain: Client) -> None:
    parameters = {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "seed": 7, "repetition_penalty": 1.5, "min_tokens": 2}
    plain.ask(
        "sampling", **parameters, stop_words=["x", ""], bad_words=["y"], frequency_penalty=0.25, presence_penalty=0.5
    )
    (sampling,) = [event["sampling"] for event in plain.received() if event.get("prompt") == "sampling"]
    expected = parameters | {"stop": ["x"], "bad": ["y"], "frequency_penalty": 0.25, "presence_penalty": 0.5}
    assert expected.items() <= sampling.items()


def test_a_stop_word_ends_the_answer_and_is_named(plain: Client) -> None:
    found = plain.answer({"text_input": QUESTION, "max_tokens": 64, "stop_words": ["trois"]})
    assert (found["text_output"], found["stop_reason"]) == ("un deux trois", "trois")


def test_the_prompt_comes_along_when_asked_for(plain: Client) -> None:
    assert plain.ask(exclude_input_in_output=False) == QUESTION + NINE


def test_the_answers_probability_comes_along_when_asked_for(plain: Client) -> None:
    found = plain.answer({"text_input": QUESTION, "max_tokens": 4, "return_log_probs": True})
    assert found["cum_log_probs"] == -2.0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text_input": "", "max_tokens": 4}, "text_input: is empty"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens: must be at least 1"),
        ({"text_input": "a", "max_tokens": 4, "top_p": 1.5}, "top_p: must be between 0 and 1"),
        ({"text_input": "a", "max_tokens": 4, "temperature": -1.0}, "temperature: must be at least 0"),
        ({"text_input": "a", "max_tokens": 4, "temprature": 1.0}, "temprature: there is no such input"),
        ({"text_input": "a", "max_tokens": 4, "stream": True}, "packaged without streaming"),
        ({"text_input": "too long", "max_tokens": 4}, "exceeds max_seq_len"),
        ({"max_tokens": 4}, "text_input"),
        ({"text_input": "a"}, "max_tokens"),
        ({"text_input": "a", "max_tokens": "many"}, "non-signed-integer"),
    ],
)
def test_a_bad_request_is_refused_by_what_is_wrong_with_it(plain: Client, body: object, reason: str) -> None:
    assert reason in plain.refusal(body)


def test_a_failing_engine_is_reported_to_its_client_and_others_are_answered(plain: Client) -> None:
    assert "illegal memory access" in plain.refusal({"text_input": "crash", "max_tokens": 4})
    assert plain.ask() == NINE


@pytest.mark.parametrize("model", ["plain", "streaming"])
def test_several_texts_are_answered_as_each_of_them_alone(model: str, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(model)
    texts, lengths = [QUESTION, "Is it so?", QUESTION], [9, 4, 2]
    found = client.answer({"text_input": texts, "max_tokens": lengths, "temperature": 0.0})
    alone = [client.ask(text, max_tokens=length) for text, length in zip(texts, lengths, strict=True)]
    assert found["text_output"] == alone == [NINE, "yes", "un deux"]
    assert found["finish_reason"] == ["stop", "stop", "length"]


def test_a_refusal_says_which_of_several_texts_is_wrong(plain: Client) -> None:
    assert "max_tokens: must be at least 1, is 0 (text 2 of 2)" in plain.refusal(
        {"text_input": ["a", "b"], "max_tokens": [4, 0]}
    )
    refusal = plain.refusal({"text_input": ["a", "too long"], "max_tokens": 4})
    assert "exceeds max_seq_len (text 2 of 2)" in refusal
    assert "illegal memory access" in plain.refusal({"text_input": ["a", "crash"], "max_tokens": 4})


def test_requests_are_answered_side_by_side(streaming: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: streaming.stream(TUTORIAL), range(8)))
    assert all("".join(piece["text_output"] for piece in pieces) == NINE for pieces in found)
    events = [event for event in streaming.received() if "prompt" in event]
    assert len(events) >= 8


def test_a_streamed_answer_comes_in_pieces_that_make_the_whole(streaming: Client) -> None:
    pieces = streaming.stream({"text_input": QUESTION, "max_tokens": 64, "stream": True})
    texts = [piece["text_output"] for piece in pieces]
    assert "".join(texts) == NINE
    assert len([text for text in texts if text]) == 9
    assert pieces[-1]["finish_reason"] == "stop"


def test_a_streamed_answer_begins_with_the_prompt_when_asked_for(streaming: Client) -> None:
    body = {"text_input": QUESTION, "max_tokens": 3, "stream": True, "exclude_input_in_output": False}
    texts = [piece["text_output"] for piece in streaming.stream(body)]
    assert "".join(texts) == f"{QUESTION}un deux trois"


def test_work_stops_when_the_client_goes(streaming: Client) -> None:
    """Triton reports this only to the requested model. In an ensemble, the inner models do not learn it."""
    connection = streaming.open("/v2/models/tensorrt_llm/generate_stream", LONG)
    answer = connection.getresponse()
    answer.readline()
    answer.close()
    connection.close()
    wait_until(lambda: any(event.get("aborted") for event in streaming.received()), seconds=30)
    log = streaming.server.service.log_file
    wait_until(lambda: "the client has gone" in log.read_text(), seconds=30)
    assert streaming.stream(TUTORIAL)[-1]["text_output"] == NINE


def test_another_file_can_be_named_in_the_servers_environment(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("model: checkpoint\nmax_batch_size: 99\n")
    monkeypatch.setenv("LLM_CONFIG_PATH", str(other))
    client = start(LlmApiOptions(release="1.2.1", arguments={"max_batch_size": 4}))
    (loaded,) = [event["arguments"] for event in client.received() if "arguments" in event]
    assert loaded["max_batch_size"] == 99
    assert loaded["model"].endswith("/tensorrt_llm/1/checkpoint")
    assert client.ask() == NINE


@dataclass
class LlmBuild(Build):
    """A build of the backend `pytorch` that can be published."""

    llm_class: str = "tensorrt_llm:LLM"

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        rmtree(inputs["model_repository"])
        checkpoint = exported_checkpoint(directory / "checkpoint")
        options = LlmApiOptions(release="1.2.1", warm_up=(2,), llm_class=self.llm_class)
        write_llmapi_repository(inputs["model_repository"], checkpoint=checkpoint, weights=checkpoint, options=options)
        return inputs


def test_a_build_is_served_straight_from_s3_and_one_that_does_not_load_or_answers_otherwise_is_taken_back(
    s3_server: Any, tmp_path: Path, triton_site: Path, onnxruntime_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.create_bucket("engines")
    for name, value in stand_in_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    packages = next(onnxruntime_python.parent.parent.glob("lib/python*/site-packages"))
    repository = "s3://engines/a/prefix"
    open_repository(repository).write(".keep", b"")
    server = start_triton(
        f"s3://{s3_server.url}/engines/a/prefix",
        triton_site=triton_site,
        serving_python=serving_python(tmp_path / "python", packages, write_fake_llm(tmp_path / "stand-in")),
        log_file=tmp_path / "triton.log",
    )

    def roll_out(build: LlmBuild) -> None:
        manifest = build.publish("s3://engines/prod")
        roll_out_build(manifest, Registry("s3://engines/prod"), (server.url,), repository, lambda _line: None)

    try:
        client = Client(server, tmp_path / "heard.jsonl")
        roll_out(LlmBuild(build_id="h100-111111111111"))
        assert client.answer(TUTORIAL)["text_output"] == NINE
        with pytest.raises(RolloutError, match="(?s)tensorrt_llm failed to load.*NoSuchClass"):
            roll_out(LlmBuild(build_id="h100-444444444444", llm_class="tensorrt_llm:NoSuchClass"))
        with pytest.raises(RolloutError, match="answers differently"):
            roll_out(LlmBuild(build_id="h100-222222222222", recorded={QUESTION: "never said"}))
        assert client.answer(TUTORIAL)["text_output"] == NINE
        roll_out(LlmBuild(build_id="h100-333333333333"))
        assert client.answer(TUTORIAL)["text_output"] == NINE
        loaded = [event["arguments"]["model"] for event in client.received() if "arguments" in event]
        assert loaded[-1].endswith("/2/checkpoint")
        wait_until(lambda: sum("shutdown" in event for event in client.received()) == len(loaded) - 1, seconds=30)
    finally:
        server.service.stop()
        s3.close_clients()
