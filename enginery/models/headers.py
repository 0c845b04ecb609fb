"""The tensors of a model's weight files, read from the headers of its safetensors files. No weights are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Number format -> bits of one number. All other formats have 8 bits."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats of weights that are not quantized."""

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header. The length takes this many bytes."""
LARGEST_HEADER = 100_000_000
METADATA = "__metadata__"
UNREADABLE = "its safetensors header cannot be read"


@dataclass(frozen=True)
class Tensor:
    """A tensor, as the header of its file describes it.

    Attributes:
        dtype: safetensors' name of its number format, such as `BF16` or `F8_E4M3`.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The size of its numbers in bytes."""
        return prod(self.shape) * ITEM_BITS.get(self.dtype, 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_tensors(path: Path) -> dict[str, Tensor] | str:
    """The tensors of a safetensors file by name, or what is wrong with the file, as text."""
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(LARGEST_HEADER, size):
            return "it does not begin with a safetensors header"
        content = file.read(length)
    try:
        entries = _entries(content)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return UNREADABLE
    return _problem(entries, size, LENGTH_BYTES + length) or {name: tensor for name, (tensor, _, _) in entries.items()}


Entry = tuple[Tensor, int, int]
"""A tensor, and where its bytes begin and end after the header."""


def _entries(header: bytes) -> dict[str, Entry]:
    """The tensors of a header. Raises a ValueError or one like it when the header is not as the format says."""
    found = json.loads(header, object_pairs_hook=_without_duplicates)
    return {name: _entry(about) for name, about in found.items() if name != METADATA}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _entry(about: Mapping[str, Any]) -> Entry:
    (start, end), shape, dtype = about["data_offsets"], about["shape"], about["dtype"]
    if not isinstance(dtype, str) or any(type(one) is not int or one < 0 for one in (*shape, start, end)):
        raise ValueError("a tensor is described in another way than the format says")
    return Tensor(dtype, tuple(shape)), start, end


def _problem(entries: Mapping[str, Entry], size: int, before: int) -> str | None:
    """What is wrong with the places of the tensors: they must follow each other without a gap, up to the end."""
    expected = before + max((end for _, _, end in entries.values()), default=0)
    if size != expected:
        return f"it is {size} bytes, its header says {expected}"
    position = 0
    for name, (tensor, start, end) in sorted(entries.items(), key=lambda entry: entry[1][1:]):
        if start != position:
            return f"its tensors overlap or leave a gap before {name}"
        if end - start != tensor.size:
            return f"{name} takes {end - start} bytes, but {tensor} is {tensor.size}"
        position = end
    return None


def read_all(directory: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of all safetensors files of a directory, and a sentence for each file that cannot be read."""
    tensors: dict[str, Tensor] = {}
    problems = []
    for path in sorted(directory.glob("*.safetensors")):
        found = read_tensors(path)
        if isinstance(found, str):
            problems.append(f"{path.name}: {found}")
        else:
            tensors.update(found)
    return tensors, problems
