"""Tests of downloads from a Hub that disconnects, sends wrong bytes, stalls or is down, and of killed downloads."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from enginery.core import progress
from enginery.core.digests import canonical_json
from enginery.core.errors import SourceError
from enginery.sources import parameters, resolve, staging
from enginery.spec.spec import Source
from tests.support.http.hub import HubServer
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write
from tests.support.models.downloads import plan_and_download, run_download
from tests.support.waiting import ACCEPT_INTERRUPTS, wait_until

NAME = "acme/tiny"
SOURCE = Source(huggingface=NAME)
WEIGHTS = "model.safetensors"
VALUES = 100_000


@pytest.fixture
def weights(server: HubServer, tmp_path: Path) -> bytes:
    """Put a model of 400 kB on the Hub. Returns the bytes of its weights."""
    content = safetensors(VALUES)
    server.add_model(NAME, write(model_directory(tmp_path / "model"), {WEIGHTS: content}))
    return content


def downloaded(tmp_path: Path) -> bytes:
    return (tmp_path / "out" / WEIGHTS).read_bytes()


def ranges(server: HubServer) -> list[str | None]:
    return [seen.range for seen in server.asked(f"/{WEIGHTS}") if "/cdn/" in seen.path]


def test_a_truncated_download_is_detected_and_goes_on_where_it_stopped(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    server.fail("truncate", WEIGHTS, after=150_000)
    lines: list[str] = []
    plan_and_download(SOURCE, tmp_path / "out", lines)
    assert downloaded(tmp_path) == weights
    assert ranges(server) == [None, "bytes=150000-"]
    assert server.bytes_sent[WEIGHTS] == len(weights)
    assert any(line.startswith(f"{WEIGHTS}: ") and "trying again" in line for line in lines)


def test_a_download_that_breaks_off_ten_times_arrives_all_the_same(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    server.fail("truncate", WEIGHTS, after=40_000, times=None)
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights
    assert len(ranges(server)) > staging.ATTEMPTS


def test_a_reset_connection_is_tried_again(server: HubServer, weights: bytes, tmp_path: Path) -> None:
    server.fail("reset", WEIGHTS, after=100_000, times=2)
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights
    assert len(ranges(server)) == 3


def test_a_download_that_never_gets_anywhere_ends_and_can_be_repeated(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    server.fail("truncate", WEIGHTS, after=0, times=None)
    with pytest.raises(SourceError, match="cannot be reached, or broke off") as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert caught.value.transient
    assert server.url in caught.value.problem
    assert len(ranges(server)) == staging.ATTEMPTS
    assert not (tmp_path / "out" / WEIGHTS).exists()
    server.heal()
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights


def test_a_stalled_download_is_noticed(
    server: HubServer, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    server.fail("hold", WEIGHTS, after=100_000)
    run_download(wanted, tmp_path / "out")
    assert downloaded(tmp_path) == weights
    assert ranges(server) == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_does_not_spoil_the_file(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    server.fail("truncate", WEIGHTS, after=150_000)
    server.fail("ignore-range", WEIGHTS, times=None)
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights
    assert server.bytes_sent[WEIGHTS] == 150_000 + len(weights)


def test_wrong_bytes_are_detected_and_downloaded_again(server: HubServer, weights: bytes, tmp_path: Path) -> None:
    server.fail("corrupt", WEIGHTS)
    lines: list[str] = []
    plan_and_download(SOURCE, tmp_path / "out", lines)
    assert downloaded(tmp_path) == weights
    assert ranges(server) == [None, None]
    assert any("has the wrong SHA-256" in line for line in lines)


@pytest.mark.parametrize(("name", "message"), [(WEIGHTS, "wrong SHA-256"), ("tokenizer.json", "expected Git blob")])
def test_bytes_that_stay_wrong_are_refused_and_downloaded_again_later(
    server: HubServer, weights: bytes, tmp_path: Path, name: str, message: str
) -> None:
    server.fail("corrupt", name, times=None)
    with pytest.raises(SourceError, match=message) as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert caught.value.subject == name
    assert not caught.value.transient
    assert not (tmp_path / "out" / name).exists()
    server.heal()
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights


def test_a_spoilt_config_is_noticed_when_planning(server: HubServer, weights: bytes) -> None:
    server.fail("corrupt", "config.json")
    with pytest.raises(SourceError, match="expected Git blob") as caught:
        resolve(SOURCE)
    assert "config.json" in caught.value.subject
    assert resolve(SOURCE).files


def test_a_hub_that_is_away_for_a_while_is_waited_for(server: HubServer, weights: bytes, tmp_path: Path) -> None:
    for pattern in ("/api/models/*", "config.json", WEIGHTS):
        server.fail("unavailable", pattern, times=3)
    plan_and_download(SOURCE, tmp_path / "out")
    assert downloaded(tmp_path) == weights


def test_a_hub_that_stays_away_is_named_and_can_be_asked_later(server: HubServer, weights: bytes) -> None:
    server.fail("unavailable", times=None)
    with pytest.raises(SourceError, match="HTTP status 503") as caught:
        resolve(SOURCE)
    assert len(server.asked("/revision/main")) == staging.PLANNING_ATTEMPTS
    assert server.url in caught.value.problem
    assert caught.value.transient


def test_a_hub_that_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HubServer
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="the Hub at http://127.0.0.1:9 cannot be reached") as caught:
        resolve(SOURCE)
    assert caught.value.transient
    assert "HF_ENDPOINT" in caught.value.remedy


def test_offline_mode_is_respected_and_named(
    server: HubServer, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set") as caught:
        resolve(SOURCE)
    assert not caught.value.transient
    assert server.requests == []


def test_an_endpoint_that_is_no_address_is_reported(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.com")
    with pytest.raises(SourceError, match="is not a web address") as caught:
        resolve(SOURCE)
    assert caught.value.subject == "HF_ENDPOINT=hub.example.com"


def test_a_login_page_is_not_taken_for_the_hub(server: HubServer, weights: bytes) -> None:
    server.fail("not-json", times=None)
    with pytest.raises(SourceError, match="answered, but not as a Hub does") as caught:
        resolve(SOURCE)
    assert not caught.value.transient
    assert "proxy" in caught.value.remedy


def test_a_name_the_hub_cannot_have_is_reported(server: HubServer) -> None:
    with pytest.raises(SourceError, match="is not the name of a repository"):
        resolve(Source(huggingface="acme--x/..tiny"))


def test_files_are_downloaded_side_by_side(server: HubServer, tmp_path: Path) -> None:
    server.add_model(NAME, sharded_model_directory(tmp_path / "model", shards=6))
    wanted = parameters(resolve(SOURCE), SOURCE)
    gate = server.fail("hold", "*.safetensors", after=1, times=None)
    worker = threading.Thread(target=run_download, args=(wanted, tmp_path / "out"))
    worker.start()
    wait_until(lambda: len([seen for seen in server.requests if "/cdn/" in seen.path]) == staging.WORKERS)
    gate.release.set()
    worker.join()
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 6


def test_a_slow_download_tells_how_far_it_is(
    server: HubServer, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.05)
    server.fail("slow", WEIGHTS, bytes_per_second=1_000_000, times=None)
    lines: list[str] = []
    plan_and_download(SOURCE, tmp_path / "out", lines)
    shown = [line for line in lines if f"under way: {WEIGHTS}" in line]
    assert len(shown) >= 3
    assert all("of 400." in line and "%" in line and "/s" in line for line in shown)


def test_nothing_else_is_printed(
    server: HubServer,
    weights: bytes,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        plan_and_download(SOURCE, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


DOWNLOADER = """
import json, sys
from pathlib import Path
from tests.support.models.downloads import run_download
run_download(json.loads(sys.argv[1]), Path(sys.argv[2]))
"""


def start_downloader(wanted: dict[str, object], output: Path) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", ACCEPT_INTERRUPTS + DOWNLOADER, canonical_json(wanted).decode(), str(output)]
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE)


def test_a_killed_download_goes_on_where_it_stopped(server: HubServer, weights: bytes, tmp_path: Path) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    part = staging.downloads_dir() / str(wanted["commit"]) / f"{WEIGHTS}.part"
    server.fail("hold", WEIGHTS, after=250_000)
    process = start_downloader(dict(wanted), tmp_path / "killed")
    try:
        wait_until(lambda: part.exists() and part.stat().st_size == 250_000, seconds=60)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "killed" / WEIGHTS).exists()
    run_download(wanted, tmp_path / "out")
    assert downloaded(tmp_path) == weights
    assert ranges(server) == [None, "bytes=250000-"]
    assert server.bytes_sent[WEIGHTS] == len(weights)


def test_an_interrupted_download_ends_at_once_and_keeps_what_came(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    part = staging.downloads_dir() / str(wanted["commit"]) / f"{WEIGHTS}.part"
    server.fail("slow", WEIGHTS, bytes_per_second=20_000, times=None)
    process = start_downloader(dict(wanted), tmp_path / "interrupted")
    wait_until(lambda: part.exists() and part.stat().st_size > 0, seconds=60)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert 0 < part.stat().st_size < len(weights)
    server.heal()
    run_download(wanted, tmp_path / "out")
    assert downloaded(tmp_path) == weights
