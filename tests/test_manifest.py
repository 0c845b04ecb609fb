import json
from datetime import UTC, datetime
from typing import Any

import pytest

from enginery.errors import RegistryError
from enginery.manifest import BuildTarget, Manifest, build_id, read_manifest
from enginery.records import FileRecord
from enginery.steps import Stage
from tests.support.builds import ANSWERS, QUESTION, a_report
from tests.support.records import a_chain


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


def test_a_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(RegistryError, match=r"target\.precision"):
        read_manifest(altered(target={"name": "x", "gpu": "cpu", "backend": "onnxruntime", "release": "1"}))
