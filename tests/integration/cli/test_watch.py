"""Tests of `enginery releases watch`, `enginery releases listed` and `enginery diff`: their output and errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from enginery.registry import publish
from tests.support.http.package_index import PackageIndex, package_index
from tests.support.plans.watched import WHEEL, watched_spec
from tests.support.processes.command_line import Enginery, enginery
from tests.support.registry.builds import QUESTION, Build
from tests.support.s3.fixtures import bucket, server

__all__ = ["bucket", "enginery", "package_index", "server"]


@pytest.fixture
def spec_file(tmp_path: Path, package_index: PackageIndex) -> str:
    """A spec that is not watched. The index has a release for it and a release without engines."""
    package_index.add("tensorrt-llm", *(WHEEL.format(release) for release in ("1.1.0", "1.2.1", "1.4.0rc1")))
    spec = watched_spec({"name": "engine", "release": "1.1.0", "toolchain": "container"}, watch=False)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    return str(path)


def test_the_verdicts_are_a_table(enginery: Enginery, spec_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("releases", "watch", spec_file) == 0
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["spec", "target", "backend", "now", "release", "verdict", "why"]
    assert line.split()[:6] == ["tiny", "engine", "tensorrt", "1.1.0", "1.2.1", "rebuild"]


def test_previews_on_request_and_json(enginery: Enginery, spec_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("releases", "watch", spec_file, "--prereleases", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["release"], one["kind"]) for one in found] == [("1.4.0rc1", "checkpoint-only"), ("1.2.1", "rebuild")]


def test_a_missing_spec_is_one_error(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("releases", "watch", "nowhere.yaml") == 2
    assert "nowhere.yaml: there is no such file or directory" in capsys.readouterr().err


def test_the_index_is_listed_newest_first(
    enginery: Enginery, package_index: PackageIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    package_index.add("tensorrt-llm", WHEEL.format("1.1.0"), "tensorrt_llm-1.2.1.tar.gz", "tensorrt_llm-banana.tar.gz")
    package_index.add("tensorrt-llm", WHEEL.format("1.3.0"), yanked=True)
    assert enginery("releases", "listed") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["1.2.1", "source", "only"], ["1.1.0", "1", "wheels"]]
    assert lines[3] == ["withdrawn:", "1.3.0"]
    assert lines[4][-1] == "tensorrt_llm-banana.tar.gz"


def test_an_index_that_does_not_answer_is_one_error(
    enginery: Enginery, package_index: PackageIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    package_index.answer("tensorrt-llm", 502)
    assert enginery("releases", "listed", "--json") == 5
    assert "answers 502 Bad Gateway" in capsys.readouterr().err


def test_an_index_that_fails_leaves_the_verdicts_undecided(
    enginery: Enginery, spec_file: str, package_index: PackageIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    package_index.answer("tensorrt-llm", 502)
    assert enginery("releases", "watch", spec_file) == 0
    out = capsys.readouterr().out
    assert "undecided" in out
    assert "answers 502 Bad Gateway" in out


def test_two_builds_are_compared(
    enginery: Enginery, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"s3://{bucket}/engines"
    old = Build()
    new = replace(old, build_id="cpu-int4-222222222222", answers={QUESTION: "I do not know"})
    for build in (old, new):
        (tmp_path / build.build_id).mkdir()
        publish(build.context(tmp_path / build.build_id, address))
    assert enginery("diff", old.build_id, new.build_id, "--registry", address) == 0
    out = capsys.readouterr().out
    assert "cpu-int4-111111111111 -> cpu-int4-222222222222" in out
    assert "0 of 1 answers are the same" in out
    assert "I do not know" in out
    assert enginery("diff", old.build_id, new.build_id, "--registry", address, "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["said"] == "different"
