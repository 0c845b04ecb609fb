"""Tests of rollouts on a real Triton with its model repository in S3. One server is emptied for each test."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from enginery.builds.manifest import Manifest
from enginery.core import s3
from enginery.core.errors import RolloutError
from enginery.dev.triton import TritonServer, start_triton
from enginery.registry import Registry
from enginery.triton import loading
from enginery.triton.client import TritonClient
from enginery.triton.loading import LOAD_ORDER, EndpointResult
from enginery.triton.placement import BucketRepository, open_repository
from enginery.triton.rollout import roll_out_build, serving_build
from enginery.triton.state import read_state
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.s3.server import S3Server, running_s3_server
from tests.support.waiting import wait_until

FIRST, SECOND, THIRD, BROKEN, WRONG = (f"cpu-int4-{number * 12}" for number in "12345")
BUILDS = {
    FIRST: Build(build_id=FIRST),
    SECOND: Build(build_id=SECOND, answers={QUESTION: "the second"}),
    THIRD: Build(build_id=THIRD, answers={QUESTION: "the third"}),
    BROKEN: Build(build_id=BROKEN, answers={QUESTION: "the broken"}, broken="tensorrt_llm_bls"),
    WRONG: Build(build_id=WRONG, answers={QUESTION: "garbage"}, recorded=ANSWERS),
}
KEPT = ".keep"
ASK_SECONDS = 0.05
"""Seconds between two of the many requests. Without a pause they would use half a processor."""
REQUEST = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}

ROLL_OUT = """
import sys
from enginery.registry import Registry
from enginery.triton.rollout import roll_out_build

address, reference, endpoint, repository = sys.argv[1:]
registry = Registry(address)
log = lambda line: print(line, flush=True)
roll_out_build(registry.find(reference), registry, (endpoint,), repository, log)
"""


class Site:
    """A registry, a model repository in the same bucket, and a Triton that reads it."""

    def __init__(self, bucket: str, s3_url: str, server: TritonServer) -> None:
        self.address, self.repository = f"s3://{bucket}/prod", f"s3://{bucket}/serving/tiny"
        self.read = f"s3://{s3_url}/{bucket}/serving/tiny"
        self.url = server.url
        self.client = TritonClient(server.url)
        self.registry = Registry(self.address)
        self.lines: list[str] = []
        self._published: dict[str, Manifest] = {}

    def published(self, build_id: str) -> Manifest:
        if build_id not in self._published:
            self._published[build_id] = BUILDS[build_id].publish(self.address)
        return self._published[build_id]

    def roll_out(self, build_id: str) -> list[EndpointResult]:
        manifest = self.published(build_id)
        return roll_out_build(manifest, self.registry, (self.url,), self.repository, self.lines.append)

    def ask(self) -> str:
        return str(self.client.generate("ensemble", REQUEST)["text_output"])

    def versions(self) -> set[str]:
        return {name for _, name in open_repository(self.repository).entries() if name.isdecimal()}

    def ready_versions(self) -> set[tuple[str, str]]:
        return {(row["name"], row["version"]) for row in self.client.index() if row.get("state") == "READY"}

    def empty(self) -> None:
        """Unload every model, and delete all objects but the one that keeps the prefix."""
        for model in reversed(LOAD_ORDER):
            self.client.unload(model)
        wait_until(lambda: not self.ready_versions())
        prefix = BucketRepository(s3.Address.parse(self.repository)).prefix
        for info in prefix.list():
            if info.path != KEPT:
                prefix.delete(info.path)
        self.lines.clear()


@pytest.fixture(scope="module")
def served(
    triton_site: Path, onnxruntime_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[S3Server, Site]]:
    with running_s3_server() as s3_server, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        bucket = f"engines-{uuid4().hex[:12]}"
        s3_server.create_bucket(bucket)
        open_repository(f"s3://{bucket}/serving/tiny").write(KEPT, b"")  # Triton requires that the prefix exists
        server = start_triton(
            f"s3://{s3_server.url}/{bucket}/serving/tiny",
            triton_site=triton_site,
            serving_python=onnxruntime_python,
            log_file=tmp_path_factory.mktemp("triton") / "triton.log",
        )
        try:
            yield s3_server, Site(bucket, s3_server.url, server)
        finally:
            server.service.stop()
            s3.close_clients()


@pytest.fixture
def site(served: tuple[S3Server, Site], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The site with no model loaded and an empty repository."""
    s3_server, found = served
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    found.empty()
    yield found
    s3.close_clients()


def test_each_build_takes_the_place_of_the_last_one_unless_it_fails_and_all_requests_are_answered(site: Site) -> None:
    site.roll_out(FIRST)
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST
    for build_id in (SECOND, BROKEN, WRONG):
        site.published(build_id)
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answers[site.ask()] += 1
            except RolloutError as error:
                answers[str(error)] += 1
            stop.wait(ASK_SECONDS)

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: answers[ANSWERS[QUESTION]] > 5)
        site.roll_out(SECOND)
        wait_until(lambda: answers["the second"] > 5)
        assert site.ready_versions() == {(model, "2") for model in LOAD_ORDER}
        failed = f"(?s)model tensorrt_llm_bls failed to load.*no such engine.*{SECOND} serves again"
        with pytest.raises(RolloutError, match=failed):
            site.roll_out(BROKEN)
        assert (site.ask(), serving_build(site.url)) == ("the second", SECOND)
        with pytest.raises(RolloutError, match=f"answers differently.*garbage.*{SECOND} serves again"):
            site.roll_out(WRONG)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) <= {ANSWERS[QUESTION], "the second", "the broken", "garbage"}
    assert (site.ask(), serving_build(site.url)) == ("the second", SECOND)
    site.roll_out(THIRD)
    assert site.ask() == "the third"
    assert site.versions() == {"2", "3"}


def kill_rollout(site: Site, build_id: str, moment: str) -> None:
    """Run a rollout in another process and kill it when it logs this text."""
    arguments = [site.address, build_id, site.url, site.repository]
    with subprocess.Popen([sys.executable, "-c", ROLL_OUT, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    state = read_state(open_repository(site.repository))
    assert state is not None
    assert state.phase != "done"


def test_a_rollout_that_is_killed_is_undone_or_done_again_by_the_next(site: Site) -> None:
    site.roll_out(FIRST)
    site.published(SECOND)
    kill_rollout(site, SECOND, "placing")
    assert site.ask() == ANSWERS[QUESTION]
    site.roll_out(SECOND)
    assert any(f"the rollout of {SECOND} died" in line for line in site.lines)
    assert site.ask() == "the second"
    assert site.versions() == {"1", "2"}
    site.published(THIRD)
    kill_rollout(site, THIRD, "tensorrt_llm_bls version 3")
    assert site.ask() in {"the second", "the third"}
    site.roll_out(THIRD)
    assert any(f"the rollout of {THIRD} died" in line for line in site.lines)
    assert site.ask() == "the third"
    assert site.versions() == {"2", "3"}


def contents(prefix: str) -> dict[str, bytes | None]:
    repository = BucketRepository(s3.Address.parse(prefix))
    return {info.path: repository.read(info.path) for info in repository.prefix.list()}


def test_another_repository_than_the_server_reads_is_refused_and_one_that_starts_again_gets_its_build_back(
    site: Site, triton_site: Path, onnxruntime_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.05)
    other = site.repository.replace("/serving/tiny", "/serving/other")
    open_repository(other).write(KEPT, b"")

    def refused(build_id: str, serves: str) -> None:
        manifest = site.published(build_id)
        with pytest.raises(RolloutError, match=f"does not read {other}.*serves {serves}"):
            roll_out_build(manifest, site.registry, (site.url,), other, site.lines.append)
        assert contents(other) == {KEPT: b""}

    refused(FIRST, "no build")
    assert site.ready_versions() == set()
    assert contents(site.repository) == {KEPT: b""}
    site.roll_out(FIRST)
    before = contents(site.repository)
    refused(SECOND, FIRST)
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST
    assert site.ready_versions() == {(model, "1") for model in LOAD_ORDER}
    assert contents(site.repository) == before

    log_file = tmp_path / "again.log"
    again = start_triton(site.read, triton_site=triton_site, serving_python=onnxruntime_python, log_file=log_file)
    try:
        assert not any(TritonClient(again.url).ready(model) for model in LOAD_ORDER)  # it loads them only on request
        assert serving_build(again.url) is None
        manifest = site.published(FIRST)
        (result,) = roll_out_build(manifest, site.registry, (again.url,), site.repository, site.lines.append)
        assert result.version == 1
        assert serving_build(again.url) == FIRST
    finally:
        again.service.stop()
