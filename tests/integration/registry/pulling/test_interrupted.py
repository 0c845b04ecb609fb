"""Tests of pulls that are killed, run at the same time, or use a failing S3, and of a real Triton with a pull."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from enginery.core.s3 import download
from enginery.dev.triton import start_triton
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.upkeep.verifying import verify_directory
from enginery.triton.client import TritonClient
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.registry.pulls import ENGINE, EngineBuild, some_bytes
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[4]
FIRST, SECOND = (f"cpu-int4-{number * 12}" for number in "12")
MB = 1 << 20
KILLS = 4
PULL = """
import sys
from pathlib import Path
from enginery.core.s3 import download as s3_download
from enginery.registry import Registry
from enginery.registry.pulling import pull

s3_download.RANGE_BYTES = 1 << 20
address, build, to, link = sys.argv[1:]
registry = Registry(address)
manifest = registry.manifest("tiny-llama", build)
print("ready", flush=True)
sys.stdin.readline()  # wait for the test
print(pull(registry, manifest, Path(to), link=Path(link) if link else None).fetched)
"""


class Puller:
    """A process that pulls on request."""

    def __init__(self, address: str, build: str, to: Path, link: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PULL, address, build, str(to), str(link or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=dict(os.environ),
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def fetched(self) -> int:
        """Wait until the pull has succeeded. Returns the number of fetched bytes."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        return int(out)

    def kill_at(self, proxy: Proxy, requests: int) -> None:
        """Kill the process after this number of requests, or when it has ended."""
        wait_until(lambda: len(proxy.requests) >= requests or self.process.poll() is not None, seconds=60)
        self.kill()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)


def state(directory: Path) -> str | None:
    """The build in the directory, which must be complete. None if there is none."""
    if not (directory / "model_repository").exists():
        assert not (directory / "manifest.json").exists()
        return None
    assert verify_directory(directory) == []
    return str(json.loads((directory / "manifest.json").read_text())["build_id"])


@pytest.mark.parametrize("cached", [False, True])
def test_a_pull_that_is_killed_at_any_moment_leaves_the_old_build_or_the_new_one_whole(
    address: str, proxy: Proxy, tmp_path: Path, *, cached: bool
) -> None:
    registry = Registry(address)
    old = EngineBuild(engine=some_bytes(9 * MB, seed=1), mount="/models").publish(address)
    new = EngineBuild(build_id=SECOND, engine=some_bytes(9 * MB, seed=2), answers={"Who?": "x"}, mount="/models")
    new.publish(address)
    models, link = tmp_path / "models", tmp_path / "cache" if cached else None
    pull(registry, old, models)
    chance = random.Random(7)
    seen = set()
    for _ in range(KILLS):
        puller = Puller(address, SECOND, models, link)
        puller.wait_until_ready()
        puller.begin()
        puller.kill_at(proxy, len(proxy.requests) + chance.randrange(1, 22))
        seen.add(state(models))
        assert seen <= {FIRST, SECOND}
    assert FIRST in seen
    pull(registry, registry.manifest("tiny-llama", SECOND), models, link=link)
    assert state(models) == SECOND
    assert sorted(path.name for path in (models / ".enginery").iterdir()) == ["digests.sqlite", "lock"]
    assert {path.name for path in (models / "builds").iterdir()} == {FIRST, SECOND}


@pytest.mark.parametrize("cached", [False, True])
def test_a_large_file_goes_on_where_a_killed_pull_broke_off(
    address: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cached: bool
) -> None:
    monkeypatch.setattr(download, "RANGE_BYTES", MB)
    engine = some_bytes(12 * MB)
    manifest = EngineBuild(engine=engine).publish(address)
    link = tmp_path / "cache" if cached else None
    puller = Puller(address, FIRST, tmp_path / "models", link)
    puller.wait_until_ready()
    proxy.fail(Fault("stall", times=3, bytes=1000, matches=lambda _, path: path.endswith(".engine")))
    puller.begin()
    wait_until(lambda: proxy.count("GET", ".engine") >= 10, seconds=60)
    puller.kill()
    before = proxy.count("GET", ".engine")
    pull(Registry(address), manifest, tmp_path / "models", link=link)
    assert 3 <= proxy.count("GET", ".engine") - before < 12
    assert (tmp_path / "models/current" / ENGINE).read_bytes() == engine


def test_five_pulls_at_once_on_a_machine_with_a_cache_download_once(address: str, proxy: Proxy, tmp_path: Path) -> None:
    manifest = EngineBuild(engine=some_bytes(5 * MB)).publish(address)
    pullers = [Puller(address, FIRST, tmp_path / str(number), tmp_path / "cache") for number in range(5)]
    for puller in pullers:
        puller.wait_until_ready()
    del proxy.requests[:]
    for puller in pullers:
        puller.begin()
    distinct = {file.sha256: file.size for file in manifest.files}
    assert sorted(puller.fetched() for puller in pullers) == [0] * 4 + [sum(distinct.values())]
    for file in manifest.files:
        assert proxy.count("GET", f"/{FIRST}/{file.path}") <= (5 if file.path == ENGINE else 1)  # it has five ranges
    assert proxy.count("GET", "manifest.json") == 5
    engines = [tmp_path / str(number) / "current" / ENGINE for number in range(5)]
    assert all(engine.samefile(engines[0]) for engine in engines)
    assert all(state(tmp_path / str(number)) == FIRST for number in range(5))


def test_of_two_pulls_into_one_directory_the_second_waits(address: str, proxy: Proxy, tmp_path: Path) -> None:
    Build().publish(address)
    Build(build_id=SECOND, answers={"Who?": "another"}).publish(address)
    registry, models = Registry(address), tmp_path / "models"
    hold = Fault("stall", matches=lambda _, path: path.endswith(f"{FIRST}/report.json"))
    proxy.fail(hold)
    puller = Puller(address, FIRST, models)
    puller.wait_until_ready()
    puller.begin()
    wait_until(lambda: hold.times == 0, seconds=60)
    lines: list[str] = []
    second = Thread(
        target=pull, args=(registry, registry.manifest("tiny-llama", SECOND), models), kwargs={"log": lines.append}
    )
    second.start()
    wait_until(lambda: lines)
    assert lines == [f"waiting for another pull into {models}"]
    assert state(models) is None
    puller.kill()
    second.join()
    assert state(models) == SECOND


@pytest.mark.parametrize("seed", range(2))
def test_an_s3_that_fails_one_request_in_five_still_gives_a_whole_build(
    address: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(download, "RANGE_BYTES", MB)
    engine = some_bytes(9 * MB)
    manifest = EngineBuild(engine=engine).publish(address)
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "6")  # seconds until the client gives up a server that stalls
    chance = random.Random(seed)
    ways = [Fault("answer"), Fault("answer", status=500), Fault("reset"), Fault("truncate"), Fault("stall")]
    for fault in ways:
        fault.times = 1 if fault.kind == "stall" else 1000
        fault.matches = lambda method, _: method == "GET" and chance.random() < 0.2 / len(ways)
        proxy.fail(fault)
    proxy.fail(Fault("flip", times=2, matches=lambda _, path: path.endswith("answers.json")))
    pull(Registry(address), manifest, tmp_path / "models")
    assert state(tmp_path / "models") == FIRST
    assert (tmp_path / "models/current" / ENGINE).read_bytes() == engine
    assert len(proxy.requests) > len(manifest.files)


def test_a_real_triton_serves_what_was_pulled_and_the_next_build_when_it_loads_again(
    address: str, tmp_path: Path, triton_site: Path, onnxruntime_python: Path
) -> None:
    registry, models = Registry(address), tmp_path / "models"
    first = EngineBuild().publish(address)
    second = EngineBuild(build_id=SECOND, answers={QUESTION: "neun"}).publish(address)
    pull(registry, first, models)
    parts: dict[str, Any] = {
        "triton_site": triton_site,
        "serving_python": onnxruntime_python,
        "log_file": tmp_path / "triton.log",
    }
    server = start_triton(str(models / "model_repository"), load_all=True, **parts)
    try:
        client = TritonClient(server.url)
        assert ask(client) == ANSWERS[QUESTION]
        pull(registry, second, models)
        assert ask(client) == ANSWERS[QUESTION]
        for model in ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble"):
            client.load(model)
        assert ask(client) == "neun"
    finally:
        server.service.stop()
    found = verify_directory(models)
    assert {damage.kind for damage in found} == {"bytecode"}  # because the directory was not read-only
    assert pull(registry, second, models).fetched == 0
    assert state(models) == SECOND
    assert (models / "current").readlink().name == SECOND


def ask(client: TritonClient) -> str:
    request = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
    return str(client.generate("ensemble", request)["text_output"])
