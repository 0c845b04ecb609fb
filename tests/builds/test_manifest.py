"""Tests of manifests: their facts, their schemas, and what is refused."""

import json
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from enginery.builds.manifest import (
    MANIFEST_SCHEMA,
    BuildTarget,
    EngineFacts,
    License,
    Manifest,
    build_id,
    read_manifest,
)
from enginery.builds.report import html_report
from enginery.cli.output import print_manifest
from enginery.core.errors import RegistryError
from enginery.store.steps import FileRecord, Stage
from enginery.triton.launch import launch_of_engine, launch_of_llmapi
from tests.support.registry.builds import ANSWERS, QUESTION, a_report
from tests.support.speeds import a_speed
from tests.support.store.records import a_chain, a_record


def a_manifest(*paths: str) -> Manifest:
    facts = {"gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "int4"}
    named = paths or ("model_repository/ensemble/config.pbtxt", "report.json")
    return Manifest(
        model="tiny-llama",
        build_id="cpu-int4-0123456789ab",
        target=BuildTarget(name="cpu-int4", **facts),
        created=datetime(2026, 11, 22, tzinfo=UTC),
        enginery="0.1.0",
        registry="s3://engines/prod",
        channel="candidate",
        files=tuple(FileRecord(path=path, sha256="0" * 64, size=10) for path in named),
        steps=a_chain(),
        validation=a_report(ANSWERS),
    )


def launched(backend: str, launch: JsonValue) -> Manifest:
    """A build for two GPUs. Its package step recorded these facts about the launch."""
    manifest = a_manifest()
    target = manifest.target.model_copy(update={"backend": backend, "tensor_parallel": 2})
    package = a_record(Stage.PACKAGE, facts={"launch": launch})
    return manifest.model_copy(update={"target": target, "steps": (*manifest.steps[:-1], package)})


def altered(**changes: Any) -> bytes:
    return json.dumps(json.loads(a_manifest().to_json()) | changes).encode()


def test_a_build_id_is_known_from_the_keys_alone() -> None:
    name = build_id("cpu-int4", "a" * 64, "b" * 64)
    assert name == build_id("cpu-int4", "a" * 64, "b" * 64)
    assert name.startswith("cpu-int4-")
    assert len(name) == len("cpu-int4-") + 12


@pytest.mark.parametrize("keys", [("c" * 64, "b" * 64), ("a" * 64, "c" * 64), ("b" * 64, "a" * 64)])
def test_other_steps_make_another_build_id(keys: tuple[str, str]) -> None:
    assert build_id("cpu-int4", *keys) != build_id("cpu-int4", "a" * 64, "b" * 64)


def test_a_manifest_reads_what_it_writes() -> None:
    manifest = a_manifest()
    assert read_manifest(manifest.to_json()) == manifest


def test_a_manifest_knows_its_size_its_model_files_and_its_answers() -> None:
    manifest = a_manifest()
    assert manifest.size == 20
    assert [file.path for file in manifest.model_files] == ["model_repository/ensemble/config.pbtxt"]
    assert manifest.validation.results[0].prompt == QUESTION
    assert manifest.validation.results[0].got == ANSWERS[QUESTION]


def test_a_manifest_finds_the_step_of_a_stage() -> None:
    manifest = a_manifest()
    build = manifest.step(Stage.BUILD)
    assert build is not None
    assert build.host == "builder-1"
    assert manifest.step(Stage.ROLLOUT) is None


def test_world_size_and_launch_are_in_the_manifest_of_every_build_that_must_be_launched() -> None:
    launches = {
        "tensorrt": launch_of_engine("0.16.0", 2, "/models").facts(),
        "pytorch": launch_of_llmapi("1.2.1", 2).facts(),
    }
    for backend, launch in launches.items():
        read = read_manifest(launched(backend, launch).to_json())
        assert read.launch == launch
        assert read.launch["world_size"] == read.target.world_size == read.described["world_size"] == 2
        assert "tritonserver" in str(read.described["launch.command"])


def test_a_build_that_any_triton_serves_tells_only_its_world_size() -> None:
    manifest = read_manifest(a_manifest().to_json())
    assert manifest.launch == {}
    assert manifest.described["world_size"] == 1
    assert not [name for name in manifest.described if name.startswith("launch")]


@pytest.mark.parametrize("launch", [None, "mpirun", 3])
def test_a_package_step_that_says_nothing_of_launching_is_read(launch: JsonValue) -> None:
    assert launched("tensorrt", launch).launch == {}


def test_a_manifest_without_parallelism_is_of_one_gpu() -> None:
    plain = json.loads(a_manifest().to_json())
    del plain["target"]["tensor_parallel"], plain["target"]["pipeline_parallel"]
    assert read_manifest(json.dumps(plain).encode()).target.world_size == 1


def test_showing_a_build_prints_how_to_launch_it_uncut(capsys: pytest.CaptureFixture[str]) -> None:
    launch = launch_of_engine("0.16.0", 8, "/models").facts()
    manifest = launched("tensorrt", launch)
    print_manifest(manifest)
    shown = capsys.readouterr().out.splitlines()
    assert escape(str(launch["command"])) in html_report(manifest)
    assert f"  launch.command: {launch['command']}" in shown
    assert "  world_size: 2" in shown


@pytest.mark.parametrize(
    "path", ["../up", "model_repository/../../up", "/etc/passwd", "a//b", "./a", "a/.", "", "a\\..\\b"]
)
def test_a_path_outside_the_build_is_refused(path: str) -> None:
    data = altered(files=[{"path": path, "sha256": "0" * 64, "size": 1}])
    with pytest.raises(RegistryError, match="not a path inside the build"):
        read_manifest(data)


@pytest.mark.parametrize("paths", [("a/b", "a/b"), ("a/Config", "a/config")])
def test_paths_that_are_one_file_on_some_systems_are_refused(paths: tuple[str, str]) -> None:
    data = altered(files=[{"path": path, "sha256": "0" * 64, "size": 1} for path in paths])
    with pytest.raises(RegistryError, match="upper and lower case"):
        read_manifest(data)


@pytest.mark.parametrize(
    "paths",
    [
        ("a/b", "A/B"),
        ("caf\u00e9", "cafe\u0301"),
        ("manifest.json", "x"),
        ("Manifest.JSON", "x"),
        ("a", "a/b"),
        ("A", "a/b"),
    ],
)
def test_files_that_cannot_all_be_written_into_one_directory_are_refused(paths: tuple[str, str]) -> None:
    data = altered(files=[{"path": path, "sha256": "0" * 64, "size": 1} for path in paths])
    with pytest.raises(RegistryError, match="not a valid manifest: files: "):
        read_manifest(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", -1, "size of 'a/b' is negative: -1"),
        ("size", "many", r"files\.1\.size"),
        ("sha256", "0" * 63, "sha256 of 'a/b' is not 64 hex digits"),
        ("sha256", "0" * 65, "sha256 of 'a/b' is not 64 hex digits"),
        ("sha256", "G" * 64, "sha256 of 'a/b' is not 64 hex digits"),
        ("sha256", "A" * 64, "in lower case"),
        ("sha256", "0" * 64 + "\n", "sha256 of 'a/b' is not 64 hex digits"),
        ("path", "a\nb", "not a path inside the build"),
        ("path", "a\u0000b", "not a path inside the build"),
        ("more", 1, r"files\.1\.more"),
    ],
)
def test_a_file_record_that_is_not_sound_is_refused_by_its_place_and_field(
    field: str, value: Any, message: str
) -> None:
    file = {"path": "a/b", "sha256": "0" * 64, "size": 1, field: value}
    with pytest.raises(RegistryError, match=message) as caught:
        read_manifest(altered(files=[{"path": "first", "sha256": "0" * 64, "size": 1}, file]))
    assert "files.1" in caught.value.problem


@pytest.mark.parametrize("name", ["../x", "a/b", ".."])
def test_a_build_id_that_is_a_path_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match="build_id"):
        read_manifest(altered(build_id=name))


def test_a_manifest_of_a_newer_schema_asks_for_an_upgrade() -> None:
    with pytest.raises(RegistryError, match="newer Enginery") as caught:
        read_manifest(altered(schema_version=99, whatever="new"), subject="s3://engines/x/manifest.json")
    assert caught.value.remedy == "upgrade Enginery"
    assert caught.value.subject == "s3://engines/x/manifest.json"


@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b"{}", b'{"schema_version": "one"}', b"\xff"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(RegistryError, match="is not"):
        read_manifest(data)


GOLDEN = Path(__file__).parents[1] / "golden" / "manifest_schema_1.json"


def test_a_recorded_manifest_of_schema_1_is_read_with_what_its_steps_tell() -> None:
    assert json.loads(GOLDEN.read_bytes())["schema_version"] == 1
    manifest = read_manifest(GOLDEN.read_bytes())
    assert manifest.engine.compute_capability == "9.0"
    assert manifest.engine.tensorrt == "10.7.0"
    assert manifest.engine.limits == {
        "max_batch_size": 64,
        "max_input_len": 1024,
        "max_seq_len": 8192,
        "max_num_tokens": 8192,
        "max_beam_width": 1,
    }
    assert manifest.license == License(id="", files=("license/LICENSE",))
    assert manifest.bytes_per_gpu == 8300


def test_a_manifest_of_schema_1_has_the_present_schema_when_it_is_written_again() -> None:
    manifest = read_manifest(GOLDEN.read_bytes())
    assert manifest.schema_version == MANIFEST_SCHEMA
    assert read_manifest(manifest.to_json()) == manifest


def test_a_manifest_of_schema_2_keeps_its_facts_and_has_no_speed() -> None:
    made = a_manifest("model_repository/t/1/rank0.engine", "report.html")
    older = made.model_copy(update={"schema_version": 2, "engine": EngineFacts(tensorrt="9.9")})
    found = read_manifest(older.to_json())
    assert found.engine.tensorrt == "9.9"
    assert found.speed is None
    assert found.schema_version == MANIFEST_SCHEMA


def test_a_manifest_keeps_the_speed() -> None:
    made = a_manifest("model_repository/t/1/rank0.engine").model_copy(update={"speed": a_speed()})
    assert read_manifest(made.to_json()).speed == a_speed()


def test_a_manifest_says_what_decides_where_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    print_manifest(read_manifest(GOLDEN.read_bytes()))
    shown = capsys.readouterr().out
    for line in ("compute_capability: 9.0", "tensorrt: 10.7.0", "limits.max_seq_len: 8192", "world_size: 2"):
        assert f"  {line}\n" in shown


def test_the_memory_of_each_gpu_is_that_of_the_largest_rank_or_a_share_of_the_weights() -> None:
    engine = a_manifest("model_repository/t/1/rank0.engine", "model_repository/t/1/tokenizer.json", "report.html")
    assert engine.bytes_per_gpu == 10
    shared = a_manifest("model_repository/t/1/a.safetensors", "model_repository/t/1/b.safetensors", "report.html")
    two = shared.target.model_copy(update={"tensor_parallel": 2})
    assert shared.model_copy(update={"target": two}).bytes_per_gpu == 10


def test_a_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(RegistryError, match=r"target\.precision"):
        read_manifest(altered(target={"name": "x", "gpu": "cpu", "backend": "onnxruntime", "release": "1"}))
