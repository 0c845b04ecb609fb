"""Tests of the client of Triton's HTTP API."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.builds.model_config import serve_as
from enginery.core.errors import RolloutError
from enginery.triton.client import TritonClient
from tests.support.registry.builds import ENSEMBLE_CONFIG
from tests.support.triton.fake import FakeTriton, running_fake_triton


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[FakeTriton]:
    with running_fake_triton(tmp_path / "models") as running:
        yield running


@pytest.fixture
def client(triton: FakeTriton) -> TritonClient:
    return TritonClient(triton.url + "/")


def write_ensemble(triton: FakeTriton) -> None:
    directory = triton.repository / "ensemble"
    directory.mkdir(parents=True)
    (directory / "config.pbtxt").write_text(serve_as(ENSEMBLE_CONFIG, 2, "cpu-int4-1"))


def test_a_server_that_is_not_there_is_named_and_can_be_tried_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for call in (
        lambda: TritonClient(url).require_ready(),
        lambda: TritonClient(url).index(),
        lambda: TritonClient(url).load("ensemble"),
        lambda: TritonClient(url).generate("ensemble", {}),
    ):
        with pytest.raises(RolloutError, match="cannot be reached") as caught:
            call()
        assert caught.value.transient
        assert caught.value.subject == url
        assert "rollout.endpoints" in caught.value.remedy


def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(RolloutError, match="cannot be reached"):
        TritonClient("http://no-such-host.invalid:8000").require_ready()


def test_a_server_that_does_not_answer_in_time_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = TritonClient(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RolloutError, match="cannot be reached") as caught:
            client.generate("ensemble", {}, timeout=0.1)
        assert caught.value.transient


def test_a_server_that_is_still_starting_can_be_tried_again(triton: FakeTriton, client: TritonClient) -> None:
    client.require_ready()
    triton.ready = False
    with pytest.raises(RolloutError, match="not ready") as caught:
        client.require_ready()
    assert caught.value.transient


def test_a_model_is_loaded_and_unloaded(triton: FakeTriton, client: TritonClient) -> None:
    write_ensemble(triton)
    assert not client.ready("ensemble")
    assert client.model_config("ensemble") is None
    client.load("ensemble")
    assert client.ready("ensemble")
    assert client.ready("ensemble", 2)
    assert not client.ready("ensemble", 1)
    config = client.model_config("ensemble")
    assert config is not None
    assert config["parameters"]["enginery_build"]["string_value"] == "cpu-int4-1"
    assert client.index() == [{"name": "ensemble", "version": "2"}]
    client.unload("ensemble")
    assert not client.ready("ensemble")


def test_a_model_that_does_not_load_says_why_and_is_not_tried_again(triton: FakeTriton, client: TritonClient) -> None:
    write_ensemble(triton)
    triton.refuses["ensemble"] = "out of memory"
    with pytest.raises(RolloutError, match="model ensemble failed to load: .*out of memory") as caught:
        client.load("ensemble")
    assert not caught.value.transient


def test_an_answer_is_read(triton: FakeTriton, client: TritonClient) -> None:
    answers = triton.repository / "tensorrt_llm" / "1"
    answers.mkdir(parents=True)
    (answers / "answers.json").write_text(json.dumps({"Hello?": "grüß dich"}))
    triton.loaded["tensorrt_llm"] = (1, None)
    assert client.generate("ensemble", {"text_input": "Hello?"}) == {"text_output": "grüß dich"}


@pytest.mark.parametrize(("status", "transient"), [(400, False), (503, True)])
def test_a_refused_request_says_what_the_server_said(
    triton: FakeTriton, client: TritonClient, status: int, *, transient: bool
) -> None:
    triton.generate_status = status
    with pytest.raises(RolloutError, match=f"answered {status}: .*cannot just now") as caught:
        client.generate("ensemble", {})
    assert caught.value.transient == transient


def test_many_calls_leave_no_connection_open(triton: FakeTriton, client: TritonClient) -> None:
    import psutil

    client.require_ready()
    before = len(psutil.Process().net_connections())
    for _ in range(20):
        client.require_ready()
        assert client.index() == []
    assert len(psutil.Process().net_connections()) <= before + 2
