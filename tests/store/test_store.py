"""Tests of step records, output files, and the addresses of stores."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.core.errors import StoreError, UsageError
from enginery.store import digest_output, layout, open_store
from enginery.store.bucket import TieredStore
from enginery.store.local import LocalStore
from enginery.store.steps import FileRecord
from tests.support.store.outputs import some_record, write_output

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 100
)


@given(st.dictionaries(NAMES, st.binary(max_size=100), max_size=5))
def test_an_output_is_described_file_by_file_in_order(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    root = write_output(tmp_path_factory.mktemp("output"), files)
    found = digest_output(root)
    assert [file.path for file in found] == sorted(files)
    assert {file.path: file.size for file in found} == {name: len(data) for name, data in files.items()}


def test_equal_outputs_have_equal_descriptions(tmp_path: Path) -> None:
    one, other = write_output(tmp_path / "one"), write_output(tmp_path / "other")
    assert digest_output(one) == digest_output(other)
    (other / "config.json").write_bytes(b"{ }")
    assert digest_output(one) != digest_output(other)


def test_names_that_differ_in_case_are_different_files(tmp_path: Path) -> None:
    write_output(tmp_path, {"Model": b"1", "model": b"2", "a b\n'\"": b"3"})
    assert [file.path for file in digest_output(tmp_path)] == ["Model", "a b\n'\"", "model"]


def test_an_empty_output_is_no_files(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    assert digest_output(tmp_path) == ()


def test_links_and_pipes_in_an_output_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hosts")
    with pytest.raises(StoreError, match="symbolic link"):
        digest_output(tmp_path)
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="neither a file"):
        digest_output(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    with pytest.raises(StoreError, match="not UTF-8"):
        digest_output(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
def test_a_record_cannot_name_a_file_outside_its_output(path: str) -> None:
    with pytest.raises(StoreError, match="outside its output"):
        layout.safe_path(FileRecord(path=path, sha256="0" * 64, size=0))


@pytest.mark.parametrize("sha256", ["", "abc", "../../../../etc/passwd", "Z" * 64, "A" * 64])
def test_a_record_cannot_name_a_blob_that_is_no_digest(sha256: str) -> None:
    with pytest.raises(StoreError, match="in place of a SHA-256"):
        layout.blob_path(FileRecord(path="x", sha256=sha256, size=0))


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a.json", "k" * 200])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(StoreError, match="not a step key"):
        layout.record_path(key)


def test_a_record_reads_what_it_writes(tmp_path: Path) -> None:
    record = some_record(write_output(tmp_path))
    assert layout.parse_record(layout.record_bytes(record), record.key, "x") == record


@pytest.mark.parametrize("cut", [0, 1, 100, -10])
def test_a_damaged_record_is_absent_with_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path, cut: int) -> None:
    record = some_record(write_output(tmp_path))
    assert layout.parse_record(layout.record_bytes(record)[:cut], record.key, "steps/x.json") is None
    assert "steps/x.json is damaged" in caplog.text


def test_the_record_of_another_step_is_absent_with_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    record = some_record(write_output(tmp_path))
    assert layout.parse_record(layout.record_bytes(record), "another", "steps/x.json") is None
    assert "another step" in caplog.text


@pytest.mark.parametrize("extra", ["", '"news": 1,'])
def test_a_record_of_a_newer_enginery_is_an_error(tmp_path: Path, extra: str) -> None:
    record = some_record(write_output(tmp_path))
    newer = layout.record_bytes(record).replace(b'"record_schema": 1,', f'"record_schema": 2,{extra}'.encode())
    with pytest.raises(StoreError, match="newer Enginery"):
        layout.parse_record(newer, record.key, "steps/x.json")


def local_root(address: str | None) -> Path:
    store = open_store(address)
    assert isinstance(store, LocalStore)
    return store.root


def test_a_store_is_a_directory_or_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "home"))
    assert local_root(None) == tmp_path / "home" / "store"
    assert local_root(str(tmp_path / "mine")) == tmp_path / "mine"
    tiered = open_store("s3://engines/store")
    assert isinstance(tiered, TieredStore)
    assert tiered.local.root == tmp_path / "home" / "store"
    assert str(tiered.remote.prefix.address) == "s3://engines/store"
    assert list(tmp_path.iterdir()) == []


def test_a_relative_store_does_not_move_with_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_root("mine") == tmp_path / "mine"


@pytest.mark.parametrize("address", ["", "http://engines/store", "s3://", "gs://x"])
def test_what_is_no_store_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        open_store(address)


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a directory"):
        open_store(str(tmp_path / "file"))
