"""Rollouts on a real Triton that reads its model repository straight from S3."""

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
from enginery.triton.client import TritonClient
from enginery.triton.loading import LOAD_ORDER, EndpointResult
from enginery.triton.placement import BucketRepository, open_repository
from enginery.triton.rollout import roll_out_build, serving_build
from enginery.triton.state import read_state
from tests.support.builds import ANSWERS, QUESTION, Build
from tests.support.s3_server import S3Server
from tests.support.waiting import wait_until

FIRST, SECOND, THIRD = (f"cpu-int4-{number * 12}" for number in "123")
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

    def __init__(self, bucket: str, server: TritonServer) -> None:
        self.address, self.repository = f"s3://{bucket}/prod", f"s3://{bucket}/serving/tiny"
        self.url = server.url
        self.client = TritonClient(server.url)
        self.registry = Registry(self.address)
        self.lines: list[str] = []

    def publish(self, build: Build) -> Manifest:
        return build.publish(self.address)

    def roll_out(self, manifest: Manifest) -> list[EndpointResult]:
        return roll_out_build(manifest, self.registry, (self.url,), self.repository, self.lines.append)

    def ask(self) -> str:
        return str(self.client.generate("ensemble", REQUEST)["text_output"])

    def versions(self) -> set[str]:
        return {name for _, name in open_repository(self.repository).entries() if name.isdecimal()}

    def ready_versions(self) -> set[tuple[str, str]]:
        return {(row["name"], row["version"]) for row in self.client.index() if row.get("state") == "READY"}


@pytest.fixture
def site(s3_server: S3Server, triton_site: Path, onnxruntime_python: Path, tmp_path: Path) -> Iterator[Site]:
    bucket = f"engines-{uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    open_repository(f"s3://{bucket}/serving/tiny").write(".keep", b"")  # Triton wants the prefix to exist
    address = f"s3://{s3_server.url}/{bucket}/serving/tiny"
    server = start_triton(
        address, triton_site=triton_site, serving_python=onnxruntime_python, log_file=tmp_path / "triton.log"
    )
    try:
        yield Site(bucket, server)
    finally:
        server.service.stop()
        s3.close_clients()


def answering(answer: str) -> dict[str, str]:
    return {QUESTION: answer}


def test_the_first_build_serves_and_the_next_takes_its_place(site: Site) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST
    site.roll_out(site.publish(Build(build_id=SECOND, answers=answering("the second"))))
    assert site.ask() == "the second"
    assert serving_build(site.url) == SECOND
    assert site.ready_versions() == {(model, "2") for model in LOAD_ORDER}
    site.roll_out(site.publish(Build(build_id=THIRD, answers=answering("the third"))))
    assert site.ask() == "the third"
    assert site.versions() == {"2", "3"}


@pytest.mark.parametrize("model", ["tensorrt_llm", "postprocessing"])
def test_when_a_model_does_not_load_the_previous_build_serves_again(site: Site, model: str) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    broken = site.publish(Build(build_id=SECOND, answers=answering("the second"), broken=model))
    with pytest.raises(RolloutError, match=f"(?s)model {model} failed to load.*no such engine.*{FIRST} serves again"):
        site.roll_out(broken)
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST
    assert site.versions() == {"1"}
    assert site.ready_versions() == {(name, "1") for name in LOAD_ORDER}


def test_when_the_first_build_does_not_load_nothing_is_served_and_nothing_is_left(site: Site) -> None:
    with pytest.raises(RolloutError, match="no such engine"):
        site.roll_out(site.publish(Build(build_id=FIRST, broken="tensorrt_llm")))
    assert serving_build(site.url) is None
    assert site.ready_versions() == set()
    assert site.versions() == set()


def test_when_the_answers_differ_the_previous_build_serves_again(site: Site) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    wrong = site.publish(Build(build_id=SECOND, answers=answering("garbage"), recorded=ANSWERS))
    with pytest.raises(RolloutError, match=f"answers differently.*garbage.*{FIRST} serves again"):
        site.roll_out(wrong)
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST


def test_requests_during_a_rollout_and_a_failed_one_are_all_answered(site: Site) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    second = site.publish(Build(build_id=SECOND, answers=answering("the second")))
    broken = site.publish(Build(build_id=THIRD, answers=answering("the third"), broken="tensorrt_llm_bls"))
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answers[site.ask()] += 1
            except RolloutError as error:
                answers[str(error)] += 1

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: answers[ANSWERS[QUESTION]] > 5)
        site.roll_out(second)
        wait_until(lambda: answers["the second"] > 5)
        with pytest.raises(RolloutError):
            site.roll_out(broken)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) <= {ANSWERS[QUESTION], "the second", "the third"}
    assert site.ask() == "the second"


@pytest.mark.parametrize("moment", ["placing", "tensorrt_llm version 2 is ready", "tensorrt_llm_bls version 2"])
def test_a_rollout_that_is_killed_is_undone_or_done_again_by_the_next(site: Site, moment: str) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    second = site.publish(Build(build_id=SECOND, answers=answering("the second")))
    arguments = [site.address, SECOND, site.url, site.repository]
    with subprocess.Popen([sys.executable, "-c", ROLL_OUT, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    state = read_state(open_repository(site.repository))
    assert state is not None
    assert state.phase != "done"
    assert site.ask() in {ANSWERS[QUESTION], "the second"}
    site.roll_out(second)
    assert any(f"the rollout of {SECOND} died" in line for line in site.lines)
    assert site.ask() == "the second"
    assert site.versions() == {"1", "2"}


def test_a_server_that_was_started_again_gets_its_build_back(
    site: Site, s3_server: S3Server, triton_site: Path, onnxruntime_python: Path, tmp_path: Path
) -> None:
    manifest = site.publish(Build(build_id=FIRST))
    site.roll_out(manifest)
    address = site.repository.replace("s3://", f"s3://{s3_server.url}/")
    log_file = tmp_path / "again.log"
    again = start_triton(address, triton_site=triton_site, serving_python=onnxruntime_python, log_file=log_file)
    try:
        assert serving_build(again.url) is None
        (result,) = roll_out_build(manifest, site.registry, (again.url,), site.repository, site.lines.append)
        assert result.version == 1
        assert serving_build(again.url) == FIRST
    finally:
        again.service.stop()


def wrong_repository(site: Site) -> str:
    """Another repository in the same bucket, which exists."""
    other = site.repository.replace("/serving/tiny", "/serving/other")
    open_repository(other).write(".keep", b"")
    return other


def contents(prefix: str) -> dict[str, bytes | None]:
    repository = BucketRepository(s3.Address.parse(prefix))
    return {info.path: repository.read(info.path) for info in repository.prefix.list()}


def test_another_repository_than_the_server_reads_is_refused_and_the_server_serves_on(site: Site) -> None:
    site.roll_out(site.publish(Build(build_id=FIRST)))
    second = site.publish(Build(build_id=SECOND, answers=answering("the second")))
    other = wrong_repository(site)
    before = contents(site.repository)
    with pytest.raises(RolloutError, match=f"does not read {other}.*serves {FIRST}"):
        roll_out_build(second, site.registry, (site.url,), other, site.lines.append)
    assert site.ask() == ANSWERS[QUESTION]
    assert serving_build(site.url) == FIRST
    assert site.ready_versions() == {(model, "1") for model in LOAD_ORDER}
    assert contents(site.repository) == before
    assert contents(other) == {".keep": b""}
    site.roll_out(second)
    assert site.ask() == "the second"


def test_a_fresh_server_that_reads_another_repository_is_found_out(site: Site) -> None:
    manifest = site.publish(Build(build_id=FIRST))
    other = wrong_repository(site)
    with pytest.raises(RolloutError, match=f"does not read {other}.*serves no build"):
        roll_out_build(manifest, site.registry, (site.url,), other, site.lines.append)
    assert site.ready_versions() == set()
    assert contents(other) == contents(site.repository) == {".keep": b""}
    site.roll_out(manifest)
    assert site.ask() == ANSWERS[QUESTION]


def test_a_server_that_reads_a_directory_is_told_from_one_that_reads_another(
    site: Site, triton_site: Path, onnxruntime_python: Path, tmp_path: Path
) -> None:
    manifest = site.publish(Build(build_id=FIRST))
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.mkdir()
    wrong.mkdir()
    server = start_triton(
        str(right), triton_site=triton_site, serving_python=onnxruntime_python, log_file=tmp_path / "directory.log"
    )
    try:
        with pytest.raises(RolloutError, match=f"does not read {wrong}"):
            roll_out_build(manifest, site.registry, (server.url,), str(wrong), site.lines.append)
        assert list(wrong.iterdir()) == list(right.iterdir()) == []
        roll_out_build(manifest, site.registry, (server.url,), str(right), site.lines.append)
        assert serving_build(server.url) == FIRST
    finally:
        server.service.stop()
