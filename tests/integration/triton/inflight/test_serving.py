"""Tests of the model repositories of TensorRT-LLM's releases on a real Triton.

TensorRT-LLM's C++ backend cannot be installed here. So the model `tensorrt_llm` must fail because that library is
missing, and for no other reason. The other models must load and answer correctly. With a stand-in for the engine, the
tests use the whole repository. This shows whether the five models of a release fit together. It does not test engines.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import JsonValue
from tokenizers import Tokenizer

from enginery.core import s3
from enginery.core.errors import RolloutError
from enginery.core.files import remove_tree
from enginery.dev.triton import TritonServer, start_triton
from enginery.registry import Registry
from enginery.spec.serving import ServingOptions
from enginery.triton import loading
from enginery.triton.inflight import InflightOptions, write_inflight_repository
from enginery.triton.loading import LOAD_ORDER
from enginery.triton.rollout import roll_out_build, serving_build
from tests.support.registry.builds import Build
from tests.support.s3.server import S3Server
from tests.support.triton.client import TritonHttp
from tests.support.triton.inflight import put_stand_in, write_engine
from tests.support.waiting import wait_until

QUESTION = "How do I count to nine in French?"
NINE = "un deux trois quatre cinq six sept huit neuf"
TUTORIAL = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
SEVERAL = {"text_input": [QUESTION, QUESTION], "max_tokens": [100, 3]}
RELEASES = ("0.8.0", "0.16.0", "0.19.0", "1.2.1")
PARTS = ("preprocessing", "postprocessing", "tensorrt_llm_bls")
ENTRY_POINTS = ("ensemble", "tensorrt_llm_bls")


@dataclass
class EngineBuild(Build):
    """A build with a release's model repository and the stand-in as its engine."""

    weights: Path = Path()
    mount: str = ""
    release: str = "0.16.0"

    def parameters(self, to: str, **more: JsonValue) -> dict[str, JsonValue]:
        found = super().parameters(to, **more)
        target = found["target"]
        assert isinstance(target, dict)
        return found | {"target": {**target, "backend": "tensorrt", "release": self.release}}

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        repository = inputs["model_repository"] = directory / "inflight"
        options = InflightOptions(release=self.release, serving=ServingOptions(mount=self.mount))
        engine = write_engine(directory / "engine")
        write_inflight_repository(repository, engine=engine, weights=self.weights, options=options)
        put_answers(repository, Tokenizer.from_file(str(self.weights / "tokenizer.json")))
        return inputs


def put_answers(repository: Path, tokenizer: Tokenizer) -> None:
    """Give the stand-in the answer to the article's question."""
    prompts = [tokenizer.encode(QUESTION, add_special_tokens=special).ids for special in (True, False)]
    answer = tokenizer.encode(NINE, add_special_tokens=False).ids
    put_stand_in(repository, [(prompt, answer) for prompt in prompts])


class Client(TritonHttp):
    """A client of the models. It has their tokenizer."""

    def __init__(self, server: TritonServer, tokenizer: Tokenizer) -> None:
        super().__init__(server)
        self.tokenizer = tokenizer

    def load(self, model: str) -> tuple[int, str]:
        return self.post(f"/v2/repository/models/{model}/load", {})

    def unload_all(self) -> None:
        for model in reversed(LOAD_ORDER):
            self.post(f"/v2/repository/models/{model}/unload", {})
        wait_until(lambda: not self.ready())

    def ready(self) -> list[str]:
        _, text = self.post("/v2/repository/index", {})
        return [entry["name"] for entry in json.loads(text) if entry.get("state") == "READY"]

    def infer(self, model: str, *inputs: tuple[str, str, Any]) -> dict[str, Any]:
        body = [{"name": name, "datatype": kind, "shape": shape(data), "data": data} for name, kind, data in inputs]
        status, text = self.post(f"/v2/models/{model}/infer", {"inputs": body})
        assert status == 200, text
        return {output["name"]: output["data"] for output in json.loads(text)["outputs"]}

    def stream(self, model: str, **body: object) -> list[str]:
        request = {"text_input": QUESTION, "max_tokens": 100, "stream": True, **body}
        status, text = self.post(f"/v2/models/{model}/generate_stream", request)
        assert status == 200, text
        events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        return [event["text_output"] for event in events]


def shape(data: Any) -> list[int]:
    return [len(data), *shape(data[0])] if isinstance(data, list) else []


Start = Callable[..., Client]


@pytest.fixture(scope="module")
def client(
    tiny_weights: Path, triton_site: Path, onnxruntime_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """One server for all tests. It reads the directory `models` next to its log."""
    directory = tmp_path_factory.mktemp("inflight")
    (directory / "models").mkdir()
    server = start_triton(
        str(directory / "models"),
        triton_site=triton_site,
        serving_python=onnxruntime_python,
        log_file=directory / "triton.log",
    )
    try:
        yield Client(server, Tokenizer.from_file(str(tiny_weights / "tokenizer.json")))
    finally:
        server.service.stop()


@pytest.fixture
def start(client: Client, tiny_weights: Path, tmp_path: Path) -> Start:
    """Gives the server only the models of a release, with the real `tensorrt_llm` or the stand-in."""

    def serve(release: str, *, stand_in: bool = False, **serving: Any) -> Client:
        directory = client.server.service.log_file.parent / "models"
        client.unload_all()
        remove_tree(directory)
        options = InflightOptions(release=release, serving=ServingOptions(mount=str(directory), **serving))
        engine = write_engine(tmp_path / "engine", max_beam_width=2)
        write_inflight_repository(directory, engine=engine, weights=tiny_weights, options=options)
        if stand_in:
            put_answers(directory, client.tokenizer)
        return client

    return serve


def python_models_serve_and_the_engine_lacks_only_its_backend(client: Client, release: str) -> None:
    assert client.ready() == []
    assert [client.load(model)[0] for model in PARTS] == [200] * 3

    status, refusal = client.load("tensorrt_llm")
    assert status == 400
    assert "unable to find backend library for backend 'tensorrtllm'" in refusal
    status, refusal = client.load("ensemble")
    assert status == 400
    assert "depends on 'tensorrt_llm' which has no loaded version" in refusal

    special = release != "0.8.0"  # its template does not allow it
    tokens = client.tokenizer.encode(QUESTION, add_special_tokens=special).ids
    prepared = client.infer(
        "preprocessing",
        ("QUERY", "BYTES", [[QUESTION]]),
        ("REQUEST_OUTPUT_LEN", "INT32", [[100]]),
        ("BAD_WORDS_DICT", "BYTES", [[""]]),
        ("STOP_WORDS_DICT", "BYTES", [["neuf"]]),
    )
    assert prepared["INPUT_ID"] == tokens
    assert prepared["REQUEST_INPUT_LEN"] == [len(tokens)]
    assert prepared["REQUEST_OUTPUT_LEN"] == [100]
    assert prepared["OUT_END_ID"] == [client.tokenizer.token_to_id("<|end_of_text|>")]
    assert prepared["OUT_PAD_ID"] == [client.tokenizer.token_to_id("<|pad|>")]
    assert prepared["EMBEDDING_BIAS"] == []
    assert prepared["BAD_WORDS_IDS"] == [0, -1]
    stop = client.tokenizer.encode("neuf", add_special_tokens=False).ids
    assert prepared["STOP_WORDS_IDS"][: len(stop)] == stop

    answer = client.tokenizer.encode(NINE, add_special_tokens=False).ids
    inputs = [("TOKENS_BATCH", "INT32", [[answer]]), ("SEQUENCE_LENGTH", "INT32", [[len(answer)]])]
    if release == "0.8.0":
        inputs += [("CUM_LOG_PROBS", "FP32", [[-0.5]]), ("OUTPUT_LOG_PROBS", "FP32", [[[-0.25]]])]
    shown = client.infer("postprocessing", *inputs)
    assert shown["OUTPUT"] == [NINE]
    if release == "0.8.0":
        assert (shown["OUT_CUM_LOG_PROBS"], shown["OUT_CONTEXT_LOGITS"]) == ([-0.5], [0.0])


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.13.0", "0.16.0", "0.19.0", "1.2.1"])
def test_the_engine_lacks_only_its_backend_and_with_a_stand_in_the_five_models_of_a_release_fit_together(
    start: Start, release: str
) -> None:
    client = start(release, max_beam_width=2)
    if release in RELEASES:
        python_models_serve_and_the_engine_lacks_only_its_backend(client, release)
    put_answers(client.server.service.log_file.parent / "models", client.tokenizer)
    loaded = [client.load(model) for model in LOAD_ORDER]
    assert loaded == [(200, "")] * 5
    for model in ENTRY_POINTS:
        assert client.answer(TUTORIAL, model)["text_output"] == NINE
        answer = client.answer({"text_input": QUESTION, "max_tokens": 3, "beam_width": 2}, model)
        assert answer["text_output"] == ["un deux trois", "un deux"]
        assert answer["cum_log_probs"] == [-0.5, -1.5]
    two = (("text_input", "BYTES", [[QUESTION], [QUESTION]]), ("max_tokens", "INT32", [[100], [3]]))
    assert client.infer("tensorrt_llm_bls", *two)["text_output"] == [NINE, "un deux trois"]
    status, text = client.post("/v2/models/ensemble/generate", SEVERAL)
    reason = "one text in each row" if release == "0.8.0" else "Batch size > 1 requires"
    assert (status >= 400, reason in text) == (True, True)
    status, text = client.post(
        "/v2/models/tensorrt_llm_bls/generate", {"text_input": QUESTION, "max_tokens": 3, "temprature": 1}
    )
    assert (status, "temprature: " in text) == (400, True)


@pytest.mark.parametrize("release", ["0.8.0", "1.2.1"])
def test_answers_are_streamed(start: Start, release: str) -> None:
    client = start(release, stand_in=True, decoupled=True, postprocessing_instance_count=2)
    assert [client.load(model) for model in LOAD_ORDER] == [(200, "")] * 5
    for model in ENTRY_POINTS:
        pieces = client.stream(model)
        assert "".join(pieces) == NINE
        assert len(pieces) == len(client.tokenizer.encode(NINE, add_special_tokens=False).ids)
        assert client.answer(TUTORIAL, model)["text_output"] == NINE
    if release != "0.8.0":  # there, Triton makes one row of the two texts
        assert client.answer(SEVERAL, "tensorrt_llm_bls")["text_output"] == [NINE, "un deux trois"]


def test_the_script_can_send_the_whole_text_so_far(start: Start) -> None:
    client = start("0.16.0", stand_in=True, decoupled=True, accumulate_tokens=True)
    assert [client.load(model) for model in LOAD_ORDER] == [(200, "")] * 5
    pieces = client.stream("tensorrt_llm_bls")
    assert pieces[-1] == NINE
    assert all(later.startswith(earlier) for earlier, later in pairwise(pieces))


def test_a_rollout_tells_the_engine_where_its_files_are_unless_the_server_reads_another_directory(
    s3_server: S3Server, client: Client, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.05)
    bucket = f"engines-{uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    client.unload_all()
    address, server = f"s3://{bucket}/prod", client.server
    serving, wrong = server.service.log_file.parent / "models", tmp_path / "wrong"
    remove_tree(serving)
    for directory in (serving, wrong):
        directory.mkdir()
    try:
        build = EngineBuild(build_id="h100-111111111111", weights=tiny_weights, mount=str(serving))
        manifest = build.publish(address)
        with pytest.raises(RolloutError, match=f"does not read {wrong}"):
            roll_out_build(manifest, Registry(address), [server.url], str(wrong), print)
        assert list(wrong.iterdir()) == list(serving.iterdir()) == []
        for version, build_id in enumerate(("h100-111111111111", "h100-222222222222", "h100-111111111111"), start=1):
            build = EngineBuild(build_id=build_id, weights=tiny_weights, mount=str(serving))
            (result,) = roll_out_build(build.publish(address), Registry(address), [server.url], str(serving), print)
            assert (result.version, result.answers[0].answer) == (version, NINE)
            assert serving_build(server.url) == build_id
            assert f'"{serving}/tensorrt_llm/{version}"' in (serving / "tensorrt_llm" / "config.pbtxt").read_text()
    finally:
        s3.close_clients()
