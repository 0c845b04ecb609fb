"""What quantizing makes of a layer's tensors, for each algorithm, in a checkpoint for `trtllm-build`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from enginery.sources import LENGTH_BYTES, safetensors_problem

# What a safetensors file says it holds, read from its header: no weights are read, and nothing heavy is needed.


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


FP8 = frozenset({"F8_E4M3", "I8"})
"""Some releases write the same bytes as int8."""

INT8 = frozenset({"I8"})
BYTES = frozenset({"U8", "I8"})
WEIGHT_ONLY = {"W8A16": 1, "W4A16": 2}
"""Algorithm -> weights in one byte."""

AWQ_GROUP = 128
NVFP4_GROUP = 16


@dataclass(frozen=True)
class Expected:
    """A tensor that must be there.

    Attributes:
        dtypes: the number formats it may have.
        shape: its shape; None for any.
        reordered: whether its numbers may be laid out in another shape of the same size.
    """

    dtypes: frozenset[str]
    shape: tuple[int, ...] | None = None
    reordered: bool = False

    def difference(self, found: Tensor | None) -> str | None:
        """What is wrong with what was found; None when it is as expected."""
        if found is None:
            return "is missing"
        if found.dtype not in self.dtypes:
            return f"is {found}, expected {' or '.join(sorted(self.dtypes))}"
        if self.shape is None or found.shape == self.shape:
            return None
        if self.reordered and found.size == Tensor(found.dtype, self.shape).size:
            return None
        return f"is {found}, expected the shape {list(self.shape)}"


@dataclass(frozen=True)
class Linear:
    """A layer's matrix on one rank.

    Attributes:
        name: its name without `.weight`.
        rows: numbers it gives.
        columns: numbers it takes.
    """

    name: str
    rows: int
    columns: int


def linear_tensors(
    layer: Linear, algorithm: str | None, found: dict[str, Tensor], *, modelopt: bool
) -> Iterator[tuple[str, Expected]]:
    """The tensors of a quantized matrix.

    Args:
        layer: the matrix.
        algorithm: TensorRT-LLM's name of the algorithm; None where the matrix is not quantized.
        found: what the file has: some converters leave the work to the loader.
        modelopt: whether ModelOpt wrote it; the releases' own converters name and pack some of it differently.
    """
    shape = (layer.rows, layer.columns)
    weight = found.get(f"{layer.name}.weight")
    if algorithm is None or (algorithm in WEIGHT_ONLY and weight is not None and weight.dtype in FLOATS):
        yield f"{layer.name}.weight", Expected(FLOATS, shape)
    elif algorithm in WEIGHT_ONLY:
        packed = (layer.columns, layer.rows // WEIGHT_ONLY[algorithm])
        yield f"{layer.name}.weight", Expected(INT8, packed, reordered=True)
        yield f"{layer.name}.per_channel_scale", Expected(FLOATS, (layer.rows,), reordered=True)
    elif algorithm == "FP8":
        yield f"{layer.name}.weight", Expected(FP8, shape)
        yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor")
    elif modelopt:
        yield from _of_modelopt(layer, algorithm)
    else:
        yield f"{layer.name}.weight", Expected(FLOATS | FP8 | BYTES)


def _of_modelopt(layer: Linear, algorithm: str) -> Iterator[tuple[str, Expected]]:
    rows, columns = layer.rows, layer.columns
    weight, scale = f"{layer.name}.weight", f"{layer.name}.weights_scaling_factor"
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        yield weight, Expected(INT8, (rows, columns))
        yield scale, Expected(FLOATS, (rows,))
        yield from _scales(layer, "activation_scaling_factor", "prequant_scaling_factor")
    elif algorithm in ("W4A16_AWQ", "W4A8_AWQ"):
        yield weight, Expected(BYTES, (rows // 2, columns))
        yield scale, Expected(FLOATS, (rows, columns // AWQ_GROUP))
        yield f"{layer.name}.prequant_scaling_factor", Expected(FLOATS, (columns,))
        if algorithm == "W4A8_AWQ":
            yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor_2")
    elif algorithm == "NVFP4":
        yield weight, Expected(BYTES, (rows, columns // 2))
        yield scale, Expected(FP8, (rows, columns // NVFP4_GROUP))
        yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor_2")
    else:
        yield weight, Expected(FLOATS | FP8 | BYTES)


def _scales(layer: Linear, *names: str) -> Iterator[tuple[str, Expected]]:
    for name in names:
        yield f"{layer.name}.{name}", Expected(FLOATS)
