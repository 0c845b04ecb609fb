"""The tensors of a model's weight files, read from the headers of its safetensors files. No weights are read."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

ITEM_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16}
"""Number format -> bits of one number. All other formats have 8 bits."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats of weights that are not quantized."""

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header. The length takes this many bytes."""
LARGEST_HEADER = 100_000_000


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


def safetensors_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file; None if its size agrees with its header. No weights are read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(LARGEST_HEADER, size):
            return "it does not begin with a safetensors header"
        header = file.read(length)
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in json.loads(header).items() if name != "__metadata__"]
        expected = LENGTH_BYTES + length + max(ends, default=0)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        return "its safetensors header cannot be read"
    return None if size == expected else f"it is {size} bytes, its header says {expected}"


def read_tensors(path: Path) -> dict[str, Tensor] | str:
    """The tensors of a safetensors file by name, or what is wrong with the file, as text."""
    if not path.is_file():
        return "it is missing"
    if problem := safetensors_problem(path):
        return problem
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: Tensor(str(value["dtype"]), tuple(value["shape"])) for name, value in header.items()}


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
