"""A served model is measured with AIPerf: the command that is run, and what is read of its result.

A double stands in for AIPerf. It writes what AIPerf 0.13.0 wrote for a real Triton 2.51.0 with the example model.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginery.core.errors import CommandError, RolloutError, UsageError
from enginery.core.process import Completed
from enginery.toolchains import Access
from enginery.triton import load
from tests.support.triton.fake import FakeTriton, running_fake_triton

RECORDED: dict[str, Any] = {
    "request_latency": {"unit": "ms", "avg": 44.8051191, "p50": 38.6192655, "p99": 90.35366891},
    "time_to_first_token": {"unit": "ms", "avg": 33.06355575, "p50": 29.1741785, "p99": 81.53478107999999},
    "inter_token_latency": {
        "unit": "ms",
        "avg": 1.691445901448659,
        "p50": 1.2191816666666664,
        "p99": 7.323109129999999,
    },
    "output_sequence_length": {"unit": "tokens", "avg": 12.4},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 473.8084913382439},
    "request_throughput": {"unit": "requests/sec", "avg": 38.21036220469709},
    "request_count": {"unit": "requests", "avg": 20.0},
    "error_summary": [],
}
STREAMED = ("time_to_first_token", "inter_token_latency")


class AiperfDouble:
    """A toolchain whose AIPerf writes a recorded result."""

    directory = Path("/toolchains/aiperf")

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.commands: list[list[str]] = []
        self.payloads: list[str] = []

    def facts(self) -> dict[str, str]:
        return {"aiperf": "0.13.0"}

    def run(self, argv: Sequence[str], access: Access, _log: object, _timeout: float) -> Completed:
        self.commands.append(list(argv))
        assert access.cwd is not None
        self.payloads.append((access.cwd / "payload.json").read_text())
        (access.cwd / load.RESULT).write_text(json.dumps(self.result))
        return Completed(tuple(argv), 1.0, 0, ("a line of AIPerf",))


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[FakeTriton]:
    with running_fake_triton(tmp_path / "models") as running:
        running.loaded["ensemble"] = (1, None)
        running.decoupled.add("ensemble")
        yield running


def measured(
    monkeypatch: pytest.MonkeyPatch, triton: FakeTriton, result: dict[str, Any], **more: Any
) -> SimpleNamespace:
    double = AiperfDouble(result)
    monkeypatch.setattr(load, "ensure", lambda _name, _log: double)
    options: dict[str, Any] = {"concurrency": (2,), "prompt_tokens": 64, "output_tokens": 32, "requests": 10} | more
    model = options.pop("model", "ensemble")
    tokenizer = options.pop("tokenizer", None)
    found = load.measure_served(triton.url + "/", model, tokenizer=tokenizer, log=print, **options)
    return SimpleNamespace(found=found, commands=double.commands, payloads=double.payloads)


def test_a_model_that_streams_is_asked_at_generate_stream_and_has_times_of_single_tokens(
    monkeypatch: pytest.MonkeyPatch, triton: FakeTriton
) -> None:
    done = measured(monkeypatch, triton, RECORDED, tokenizer=Path("/models/tiny"))
    (load_of_two,) = done.found.loads
    assert load_of_two.model_dump() == {
        "concurrency": 2,
        "requests": 20,
        "errors": 0,
        "first_ms": {"median": 29.1742, "p99": 81.5348, "mean": 33.0636},
        "gap_ms": {"median": 1.2192, "p99": 7.3231, "mean": 1.6914},
        "request_ms": {"median": 38.6193, "p99": 90.3537, "mean": 44.8051},
        "output_tokens": 12.4,
        "tokens_per_second": 473.81,
        "requests_per_second": 38.21,
    }
    assert done.found.streaming
    assert done.found.server == "triton 2.51.0"
    assert done.found.generator == "aiperf 0.13.0"
    assert done.found.client.cores > 0
    assert done.found.notes == ()
    command = " ".join(done.commands[0])
    assert f"--url {triton.url} --endpoint-type template" in command
    assert "--custom-endpoint /v2/models/ensemble/generate_stream --streaming" in command
    assert "--tokenizer /models/tiny" in command
    assert "--concurrency 2 --request-count 20" in command
    tokens = '"max_tokens": {{ max_tokens }}, "min_tokens": {{ max_tokens }}'
    assert done.payloads == ['{"text_input": {{ text|tojson }}, ' + tokens + ', "stream": true}']


def test_a_model_that_does_not_stream_has_no_times_of_single_tokens_and_a_note_says_why(
    monkeypatch: pytest.MonkeyPatch, triton: FakeTriton
) -> None:
    triton.decoupled.clear()
    result = {name: value for name, value in RECORDED.items() if name not in STREAMED}
    done = measured(monkeypatch, triton, result)
    assert done.found.loads[0].first_ms is None
    assert done.found.loads[0].gap_ms is None
    assert "set serving.decoupled" in done.found.notes[0]
    assert "--tokenizer" in done.found.notes[1]
    assert "/v2/models/ensemble/generate --extra-inputs" in " ".join(done.commands[0])
    assert "stream" not in done.payloads[0]


def test_each_number_of_requests_at_once_is_a_run_of_its_own(
    monkeypatch: pytest.MonkeyPatch, triton: FakeTriton
) -> None:
    done = measured(monkeypatch, triton, RECORDED, concurrency=(1, 8))
    assert [one.concurrency for one in done.found.loads] == [1, 8]
    assert [command[command.index("--request-count") + 1] for command in done.commands] == ["10", "80"]


def test_failed_requests_are_counted(monkeypatch: pytest.MonkeyPatch, triton: FakeTriton) -> None:
    done = measured(monkeypatch, triton, {**RECORDED, "error_summary": [{"count": 3}, {"count": 1}]})
    assert done.found.loads[0].errors == 4


def test_no_answer_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, triton: FakeTriton) -> None:
    with pytest.raises(CommandError, match="no request was answered"):
        measured(monkeypatch, triton, {"error_summary": [{"count": 20}]})


def test_a_model_that_is_not_served_is_named(monkeypatch: pytest.MonkeyPatch, triton: FakeTriton) -> None:
    with pytest.raises(UsageError, match="serves no model 'other'"):
        measured(monkeypatch, triton, RECORDED, model="other")


def test_a_server_that_is_not_ready_is_not_measured(monkeypatch: pytest.MonkeyPatch, triton: FakeTriton) -> None:
    triton.ready = False
    with pytest.raises(RolloutError, match="not ready"):
        measured(monkeypatch, triton, RECORDED)
