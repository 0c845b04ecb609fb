"""Tests of placing a build's files in a model repository."""

from pathlib import Path

import pytest

from enginery.builds.model_config import serve_as, served_version
from enginery.core.errors import RolloutError
from enginery.store.steps import FileRecord
from enginery.triton.placement import DirectoryRepository, arrange, next_version, open_repository, remove_version
from tests.builds.test_manifest import a_manifest
from tests.support.registry.builds import ENSEMBLE_CONFIG


def test_files_go_to_the_new_version_and_configurations_stay_apart() -> None:
    manifest = a_manifest(
        "model_repository/ensemble/config.pbtxt",
        "model_repository/ensemble/1/KEEP",
        "model_repository/tensorrt_llm/config.pbtxt",
        "model_repository/tensorrt_llm/1/engine/model.onnx",
        "report.json",
    )
    placement = arrange(manifest, 7)
    assert [path for _, path in placement.files] == ["ensemble/7/KEEP", "tensorrt_llm/7/engine/model.onnx"]
    assert set(placement.configs) == {"ensemble", "tensorrt_llm"}


@pytest.mark.parametrize(
    "path", ["model_repository/ensemble/labels.txt", "model_repository/ensemble/2/x", "model_repository/x"]
)
def test_a_file_outside_the_version_directory_is_refused(path: str) -> None:
    manifest = a_manifest("model_repository/ensemble/config.pbtxt", path)
    with pytest.raises(RolloutError, match="neither config.pbtxt nor in the version directory"):
        arrange(manifest, 2)


def test_a_build_without_an_ensemble_is_refused() -> None:
    with pytest.raises(RolloutError, match="no ensemble"):
        arrange(a_manifest("model_repository/tensorrt_llm/config.pbtxt"), 1)


def test_a_configuration_serves_one_version_and_names_the_build() -> None:
    text = serve_as(ENSEMBLE_CONFIG, 3, "cpu-int4-1")
    assert served_version(text) == (3, "cpu-int4-1")
    assert served_version(serve_as(text, 4, "cpu-int4-2")) == (4, "cpu-int4-2")
    assert "ensemble_scheduling" in text


def test_a_configuration_that_says_nothing_of_versions_is_read_as_such() -> None:
    assert served_version(ENSEMBLE_CONFIG) == (None, None)


def test_the_next_version_is_above_every_models() -> None:
    class Repository(DirectoryRepository):
        def entries(self) -> set[tuple[str, str]]:
            return {("a", "1"), ("b", "9"), ("b", "10"), ("a", "config.pbtxt"), ("c", "x2")}

    assert next_version(Repository(Path("nowhere"))) == 11


def test_the_first_version_is_one(tmp_path: Path) -> None:
    assert next_version(open_repository(str(tmp_path / "missing"))) == 1


def test_removing_a_version_leaves_the_others(tmp_path: Path) -> None:
    repository = open_repository(str(tmp_path))
    for path in ("a/1/x", "a/2/deep/x", "a/config.pbtxt", "b/2/x"):
        repository.write(path, b"")
    remove_version(repository, 2)
    assert repository.entries() == {("a", "1"), ("a", "config.pbtxt")}
    assert not (tmp_path / "b").exists()


def test_a_file_that_is_not_there_reads_as_none(tmp_path: Path) -> None:
    assert open_repository(str(tmp_path)).read("a/config.pbtxt") is None


def test_a_record_of_a_file_is_what_is_brought() -> None:
    record = FileRecord(path="model_repository/ensemble/1/x", sha256="0" * 64, size=10)
    manifest = a_manifest("model_repository/ensemble/config.pbtxt", record.path)
    assert arrange(manifest, 2).files == ((record, "ensemble/2/x"),)
