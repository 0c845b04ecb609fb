"""Tests of `enginery pull` and `enginery verify`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from enginery.cli.app import app
from enginery.core.errors import RegistryError, UsageError
from enginery.registry import NothingFits, Registry
from tests.support.registry.builds import Build
from tests.support.registry.pulls import EngineBuild, address, registry, write_file
from tests.support.s3.fixtures import bucket, server
from tests.support.toolchains import nvidia_smi

__all__ = ["address", "bucket", "registry", "server"]

BUILD = "cpu-int4-111111111111"


@pytest.fixture(autouse=True)
def published(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_REGISTRY", address)
    Build().publish(address)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=True)


@pytest.mark.parametrize(
    "words",
    [
        ("tiny-llama", "--channel", "candidate", "--gpu", "cpu"),
        ("tiny-llama", "--gpu", "cpu"),
        (f"tiny-llama/{BUILD}",),
        (BUILD,),
        ("tiny-llama@candidate/cpu-int4",),
    ],
)
def test_a_build_is_pulled_by_any_of_its_names_and_by_what_it_fits(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = run("pull", *words, "--to", str(tmp_path / "models"), "--json")
    assert ended.exit_code == 0, ended.stderr
    pulled = json.loads(ended.stdout)
    assert pulled["build_id"] == BUILD
    assert pulled["channel"] == ("candidate" if any("candidate" in word for word in words) else None)
    assert Path(pulled["model_repository"], "ensemble/config.pbtxt").is_file()
    assert f"pulling tiny-llama/{BUILD} from s3://" in ended.stderr


def test_what_was_pulled_is_reported_with_the_line_that_serves_it(address: str, tmp_path: Path) -> None:
    EngineBuild(build_id="cpu-int4-222222222222", mount="/models", engine=b"engine").publish(address)
    ended = run("pull", "cpu-int4-222222222222", "--to", str(tmp_path / "models"), "--mount", "/srv/llm")
    assert ended.exit_code == 0
    assert f"tiny-llama/cpu-int4-222222222222 is at {tmp_path}/models: " in ended.stdout
    assert "tritonserver --model-repository=/srv/llm" in ended.stdout
    assert "1 configurations name /srv/llm" in ended.stderr


def test_a_machine_whose_gpu_no_build_fits_gets_the_near_misses_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    nvidia_smi.install(monkeypatch, tmp_path / "bin", "NVIDIA L40S, 8.9, 46068")
    ended = run("pull", "tiny-llama", "--backend", "tensorrt", "--gpu", "auto", "--to", str(tmp_path / "models"))
    assert isinstance(ended.exception, NothingFits)
    assert BUILD in str(ended.exception)
    assert not (tmp_path / "models").exists()


def test_builds_that_differ_only_in_their_id_are_distinguished_by_the_option_that_the_error_names(
    address: str, tmp_path: Path
) -> None:
    other = Build(build_id="cpu-int4-222222222222")
    other.publish(address)
    ended = run(
        "pull", "tiny-llama", "--gpu", "cpu", "--build", other.build_id, "--to", str(tmp_path / "models"), "--json"
    )
    assert json.loads(ended.stdout)["build_id"] == other.build_id


def test_what_a_build_must_fit_is_not_asked_of_one_that_is_named(tmp_path: Path) -> None:
    ended = run("pull", BUILD, "--channel", "stable", "--precision", "int4", "--to", str(tmp_path / "models"))
    assert isinstance(ended.exception, UsageError)
    assert "leave out channel, precision" in str(ended.exception)


def test_a_cache_is_shared(tmp_path: Path) -> None:
    for place, fetched in (("1", True), ("2", False)):
        ended = run("pull", BUILD, "--to", str(tmp_path / place), "--link", str(tmp_path / "cache"), "--json")
        assert bool(json.loads(ended.stdout)["fetched"]) == fetched


def test_verify_says_that_all_is_as_published_here_and_in_the_registry(tmp_path: Path) -> None:
    run("pull", BUILD, "--to", str(tmp_path / "models"))
    for place in (str(tmp_path / "models"), f"tiny-llama/{BUILD}"):
        ended = run("verify", place)
        assert ended.exit_code == 0
        assert f"tiny-llama/{BUILD}: 14 files, " in ended.stdout
        assert ended.stdout.endswith("all as published\n")


def test_verify_lists_what_is_not_as_published_and_ends_with_the_exit_code_of_the_registry(
    registry: Registry, tmp_path: Path
) -> None:
    run("pull", BUILD, "--to", str(tmp_path / "models"))
    write_file(tmp_path / "models/current/report.json", b"")
    (tmp_path / "models/current/license/LICENSE").unlink()
    ended = run("verify", str(tmp_path / "models"))
    assert ended.exit_code == RegistryError.exit_code
    assert "license/LICENSE: is missing\n" in ended.stdout
    assert "report.json: has 0 bytes" in ended.stdout
    assert "2 not as published" in ended.stdout
    registry.build_prefix("tiny-llama", BUILD).put_bytes("more", b"")
    ended = run("verify", BUILD, "--json")
    assert ended.exit_code == RegistryError.exit_code
    assert json.loads(ended.stdout)["findings"] == [
        {"path": "more", "kind": "extra", "problem": "is not in the manifest"}
    ]


def test_a_directory_that_is_not_there_is_not_taken_for_a_build(tmp_path: Path) -> None:
    ended = run("verify", str(tmp_path / "models"))
    assert isinstance(ended.exception, RegistryError)
    assert "No such file or directory" in str(ended.exception)
