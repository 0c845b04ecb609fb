"""Tests of reading the headers of safetensors files."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from enginery.models.headers import read_tensors

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def written(path: Path, header: object, size: int, *, text: str | None = None) -> Path:
    encoded = (json.dumps(header) if text is None else text).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(size))
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def message(path: Path) -> str:
    """What is wrong with a file."""
    found = read_tensors(path)
    assert isinstance(found, str)
    return found


def test_a_file_that_is_as_its_header_says_is_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(offsets=(8, 16)),
        **GOOD,
        "empty": entry(shape=(0,), offsets=(16, 16)),
    }
    found = read_tensors(written(tmp_path / "f", header, 16))
    assert not isinstance(found, str)
    assert set(found) == {"a", "b", "empty"}
    assert found["a"].size == 8


@pytest.mark.parametrize(
    ("header", "size", "problem"),
    [
        (GOOD, 7, "header says"),
        (GOOD, 9, "header says"),
        ({"a": entry(offsets=(4, 12))}, 12, "leave a gap before a"),
        ({**GOOD, "b": entry(offsets=(4, 12))}, 12, "overlap or leave a gap before b"),
        ({"a": entry(shape=(3,))}, 8, "a takes 8 bytes, but F32 [3] is 12"),
        ({"a": entry(dtype="BF16")}, 8, "a takes 8 bytes, but BF16 [2] is 4"),
        ({"a": entry(shape=(-2,))}, 8, "cannot be read"),
        ({"a": entry(shape="2")}, 8, "cannot be read"),
        ({"a": entry(shape=None)}, 8, "cannot be read"),
        ({"a": entry(dtype=4)}, 8, "cannot be read"),
        ({"a": entry(offsets=(0,))}, 8, "cannot be read"),
        ({"a": entry(offsets=(0.0, 8.0))}, 8, "cannot be read"),
        ({"a": {}}, 0, "cannot be read"),
        ({"a": None}, 0, "cannot be read"),
        ([], 0, "cannot be read"),
        ("text", 0, "cannot be read"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_a_problem(
    tmp_path: Path, header: object, size: int, problem: str
) -> None:
    assert problem in message(written(tmp_path / "f", header, size))


def test_a_name_that_is_there_twice_is_a_problem(tmp_path: Path) -> None:
    twice = json.dumps(GOOD)[:-1] + ", " + json.dumps(GOOD)[1:]
    assert "cannot be read" in message(written(tmp_path / "f", None, 8, text=twice))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not begin with a safetensors header"),
        (b"abc", "does not begin with a safetensors header"),
        (b"<html>please log in</html>", "does not begin with a safetensors header"),
        (b"\xff" * 16, "does not begin with a safetensors header"),
        (struct.pack("<Q", 4) + b"{{{{", "cannot be read"),
        (struct.pack("<Q", 4) + b"\xff\xfe\x00\x01", "cannot be read"),
    ],
)
def test_bytes_that_are_no_safetensors_file_are_a_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert problem in message(tmp_path / "f")


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    assert read_tensors(written(tmp_path / "f", {}, 0)) == {}


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    assert read_tensors(tmp_path / "none") == "it is missing"
