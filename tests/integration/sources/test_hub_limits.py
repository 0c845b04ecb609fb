"""Tests of a Hub that limits requests, and of download servers that refuse an address that has expired."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enginery.core.errors import SourceError
from enginery.sources import parameters, resolve, staging
from enginery.sources.rate_limits import gate_of
from enginery.spec.spec import Source
from tests.support.http.hub import HubServer
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write
from tests.support.models.downloads import plan_and_download, run_download
from tests.support.waiting import ACCEPT_INTERRUPTS, Clock

NAME = "acme/tiny"
SOURCE = Source(huggingface=NAME)
WEIGHTS = "model.safetensors"
LIMIT = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


@pytest.fixture
def clock(server: HubServer) -> Clock:
    """The clock by which requests to the Hub wait."""
    clock, gate = Clock(), gate_of(server.url)
    gate.clock, gate.sleep = clock, clock.sleep
    return clock


@pytest.fixture
def model(server: HubServer, tmp_path: Path) -> Path:
    directory = write(model_directory(tmp_path / "model"), {WEIGHTS: safetensors(100_000)})
    server.add_model(NAME, directory)
    return directory


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("pattern", ["/api/*", "*/resolve/*"])
def test_a_plan_waits_as_long_as_the_hub_asks(
    server: HubServer, model: Path, clock: Clock, status: int, pattern: str
) -> None:
    server.refuse(status, pattern, headers={"Retry-After": "40"})
    lines: list[str] = []
    assert resolve(SOURCE, lines.append).files
    assert clock() == 40
    assert [line.partition(" (")[0] for line in lines] == ["waiting 40 s, as the Hub asked"]
    assert f"HTTP status {status}" in lines[0]


def test_the_hubs_own_header_is_obeyed_and_names_the_limit(server: HubServer, model: Path, clock: Clock) -> None:
    server.refuse(429, "/api/*", headers=LIMIT)
    lines: list[str] = []
    assert resolve(SOURCE, lines.append).files
    assert clock() == 55
    assert "too many requests (requests to its API: 500 in 5 min)" in lines[0]


@pytest.mark.parametrize("pattern", ["*/resolve/*", "/cdn/*"])
def test_a_download_waits_as_long_as_it_is_asked(
    server: HubServer, model: Path, clock: Clock, tmp_path: Path, pattern: str
) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    server.refuse(429, pattern, headers={"Retry-After": "40"})
    lines: list[str] = []
    run_download(wanted, tmp_path / "out", lines)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert clock() == 40
    assert sum("waiting 40 s, as " in line for line in lines) == 1


def test_downloads_side_by_side_wait_once(server: HubServer, tmp_path: Path) -> None:
    server.add_model(NAME, sharded_model_directory(tmp_path / "sharded", shards=6))
    wanted = parameters(resolve(SOURCE), SOURCE)
    server.refuse(429, "*/resolve/*", headers={"Retry-After": "1"}, times=None)

    class Lines(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            if "waiting 1 s" in line:
                server.heal()

    lines, before = Lines(), len(server.requests)
    run_download(wanted, tmp_path / "out", lines)
    assert sum("waiting 1 s" in line for line in lines) == 1
    tried = [seen for seen in server.requests[before:] if "/resolve/" in seen.path]
    assert len(tried) <= len(list((tmp_path / "out").iterdir())) + staging.WORKERS
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 6


def test_a_refusal_with_a_long_wait_ends_the_plan_at_once(server: HubServer, model: Path, clock: Clock) -> None:
    server.refuse(429, "/api/*", headers={"Retry-After": "86400"}, times=None)
    with pytest.raises(SourceError, match="asks to wait 24 h; Enginery waits 10 min at most") as caught:
        resolve(SOURCE)
    assert clock() == 0
    assert len(server.asked("/revision/main")) == 1
    assert not caught.value.transient
    assert "set HF_TOKEN: the Hub allows more requests when signed in" in caught.value.remedy


def test_a_token_is_not_asked_for_when_one_is_set(
    server: HubServer, model: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_reader"))
    server.refuse(429, "/api/*", headers={"Retry-After": "86400"})
    with pytest.raises(SourceError) as caught:
        resolve(SOURCE)
    assert "HF_TOKEN" not in str(caught.value)


@pytest.mark.parametrize("said", [{}, {"Retry-After": "-1"}, {"Retry-After": "soon"}, {"Retry-After": "0"}])
def test_a_limit_without_a_time_is_tried_again_as_other_failures(
    server: HubServer, model: Path, clock: Clock, said: dict[str, str]
) -> None:
    server.refuse(429, "/api/*", headers=said, times=staging.PLANNING_ATTEMPTS - 1)
    assert resolve(SOURCE).files
    server.refuse(429, "/api/*", headers=said, times=None)
    with pytest.raises(SourceError, match=r"too many requests \(requests to its API\)") as caught:
        resolve(SOURCE)
    assert "HF_TOKEN" in caught.value.remedy
    assert clock() == 0


@pytest.mark.parametrize("status", [400, 401, 403, 410])
def test_an_address_that_has_expired_is_asked_for_anew(
    server: HubServer, model: Path, tmp_path: Path, status: int
) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    server.fail("truncate", WEIGHTS, after=150_000)
    server.refuse(status, "/cdn/*")
    run_download(wanted, tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert len([seen for seen in server.asked(f"/{WEIGHTS}") if "/resolve/" in seen.path]) == 3


def test_a_download_server_that_always_refuses_is_named(server: HubServer, model: Path, tmp_path: Path) -> None:
    server.refuse(403, "/cdn/*", times=None)
    with pytest.raises(SourceError, match=r"localhost, to which the Hub redirects, refused .*403") as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert "the proxy lets requests to localhost through" in caught.value.remedy


WAITING = """
from enginery.sources import resolve
from enginery.spec.spec import Source
resolve(Source(huggingface="acme/tiny"), lambda line: print(line, flush=True))
"""


def test_a_wait_can_be_interrupted(server: HubServer, model: Path) -> None:
    server.refuse(429, "/api/models/*", headers={"Retry-After": "500"}, times=None)
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", ACCEPT_INTERRUPTS + WAITING]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("waiting 8 min 20 s, as the Hub asked")
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.communicate()
