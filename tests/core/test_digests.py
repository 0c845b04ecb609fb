"""Tests of the digests of JSON and files, and of the memory for digests of files."""

import hashlib
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.core import digests
from enginery.core.errors import StoreError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


@given(VALUES)
def test_canonical_json_says_the_value(value: Any) -> None:
    assert json.loads(digests.canonical_json(value)) == value


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=6))
def test_the_order_of_fields_does_not_matter(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digests.canonical_json(turned) == digests.canonical_json(value)
    assert digests.json_digest(turned) == digests.json_digest(value)


@given(VALUES, VALUES)
def test_different_json_has_different_digests(one: Any, other: Any) -> None:
    same = digests.canonical_json(one) == digests.canonical_json(other)
    assert (digests.json_digest(one) == digests.json_digest(other)) == same


def test_canonical_json_has_no_white_space_and_keeps_unicode() -> None:
    assert digests.canonical_json({"b": [1, 2], "a": "ü"}) == '{"a":"ü","b":[1,2]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": -float("inf")}])
def test_what_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        digests.canonical_json(value)


@given(st.binary(max_size=5000))
def test_a_file_has_the_digest_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(data)
    assert digests.file_digest(path) == digests.bytes_digest(data) == hashlib.sha256(data).hexdigest()


def test_git_names_a_file_as_git_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert digests.git_blob_name(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    read: list[Path] = []
    real = digests.file_digest

    def counted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(digests, "file_digest", counted)
    return read


def settled(path: Path, data: bytes, *, age: float = 60.0) -> Path:
    """A file that was last changed `age` seconds ago."""
    path.write_bytes(data)
    changed = path.stat().st_mtime - age
    os.utime(path, (changed, changed))
    return path


def test_a_file_is_read_once(home: Path, readings: list[Path], tmp_path: Path) -> None:
    path = settled(tmp_path / "weights", b"abc")
    found = {digests.remembered_digest(path) for _ in range(3)}
    assert found == {digests.bytes_digest(b"abc")}
    assert readings == [path]


def test_a_renamed_file_is_still_known(home: Path, readings: list[Path], tmp_path: Path) -> None:
    path = settled(tmp_path / "weights", b"abc")
    digests.remembered_digest(path)
    moved = path.rename(tmp_path / "moved")
    assert digests.remembered_digest(moved) == digests.bytes_digest(b"abc")
    assert readings == [path]


@pytest.mark.parametrize("data", [b"abd", b"abcd"])
def test_a_changed_file_is_read_again(home: Path, readings: list[Path], tmp_path: Path, data: bytes) -> None:
    path = settled(tmp_path / "weights", b"abc")
    digests.remembered_digest(path)
    settled(path, data, age=30.0)
    assert digests.remembered_digest(path) == digests.bytes_digest(data)
    assert digests.remembered_digest(path) == digests.bytes_digest(data)
    assert len(readings) == 2


def test_a_file_changed_just_now_is_not_remembered(home: Path, readings: list[Path], tmp_path: Path) -> None:
    path = settled(tmp_path / "weights", b"abc", age=0.0)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**12))
    digests.remembered_digest(path)
    digests.remembered_digest(path)
    assert len(readings) == 2


def test_a_file_that_keeps_changing_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = settled(tmp_path / "weights", b"abc")

    def growing(path: Path) -> str:
        with path.open("ab") as file:
            file.write(b"x")
        return "0" * 64

    monkeypatch.setattr(digests, "file_digest", growing)
    with pytest.raises(StoreError, match="changes while it is read") as caught:
        digests.remembered_digest(path)
    assert caught.value.transient


def test_a_missing_file_is_not_found(home: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digests.remembered_digest(tmp_path / "missing")


def test_many_threads_may_ask_at_once(home: Path, tmp_path: Path) -> None:
    paths = [settled(tmp_path / str(number), str(number).encode()) for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(digests.remembered_digest, paths * 3))
    assert found == [digests.bytes_digest(str(number).encode()) for number in range(20)] * 3
    with sqlite3.connect(home / "digests.sqlite") as memory:
        assert memory.execute("SELECT count(*) FROM digests").fetchone() == (20,)
    memory.close()


def test_a_damaged_digest_cache_is_named_with_a_remedy(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "digests.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a database") as caught:
        digests.remembered_digest(settled(tmp_path / "weights", b"abc"))
    assert caught.value.subject == str(home / "digests.sqlite")
    assert "remove it" in caught.value.remedy


def test_a_home_that_cannot_be_made_is_named(home: Path, tmp_path: Path) -> None:
    home.write_text("a file in the way")
    with pytest.raises(StoreError, match="cannot be used"):
        digests.remembered_digest(settled(tmp_path / "weights", b"abc"))
