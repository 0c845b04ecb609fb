"""What a safetensors file says it holds, read from its header: no weights are read, and nothing heavy is needed."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from enginery.sources.safetensors import LENGTH_BYTES, safetensors_problem

ITEM_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16}
"""Bits of one number; 8 for the other formats there are."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats of weights that are not quantized."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as a header describes it.

    Attributes:
        dtype: safetensors' name of its number format, such as `BF16` or `F8_E4M3`.
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that its numbers take."""
        return prod(self.shape) * ITEM_BITS.get(self.dtype, 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_tensors(path: Path) -> dict[str, Tensor] | str:
    """The tensors of a safetensors file by name, or what is wrong with the file."""
    if not path.is_file():
        return "it is missing"
    problem = safetensors_problem(path)
    return problem or _described(path)


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


def _described(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    described = {name: value for name, value in header.items() if name != "__metadata__"}
    return {name: Tensor(str(value["dtype"]), tuple(value["shape"])) for name, value in described.items()}
