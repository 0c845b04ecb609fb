"""Reads the weights of checkpoints and models, in every format that the converters write, as float32.

A file is mapped into memory, and rows are read when they are needed. The formats are those of TensorRT-LLM's converters
and of ModelOpt's exports, as `tests/integration/backends` reads them from the real ones.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from enginery.models import FLOATS, Tensor, read_tensors

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I8": np.int8,
    "U8": np.uint8,
}
FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], np.float32)
"""The sixteen numbers of the format E2M1."""
LENGTH_BYTES = 8
VECTOR = 1


class Limits(NamedTuple):
    """The largest errors of a good matrix, relative to its norm.

    Attributes:
        whole: of the whole matrix.
        block: of one block of its values.
    """

    whole: float
    block: float


FLOAT = Limits(0.01, 0.05)
"""bfloat16 keeps eight bits: an error of 0.002."""
FP8 = Limits(0.1, 0.4)
"""Three bits after the first: an error of 0.026, and more for numbers near zero."""
INT8 = Limits(0.3, 0.75)
"""0.01 alone. SmoothQuant makes some columns larger, and those beside them lose bits."""
INT4 = Limits(0.45, 0.85)
"""Rounding to 15 values in groups of 128: 0.11 for normally distributed weights; AWQ's scales move errors about."""
NVFP4 = Limits(0.3, 0.7)
"""Eight numbers and their negatives, in groups of 16: 0.09."""
SCALE = Limits(0.2, 0.5)
"""The scale of a row is its largest value divided by 127 or 128, or by 7 or 8, rounded to 16 bits."""


class Files:
    """The tensors of some safetensors files."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found: dict[str, tuple[Path, int, Tensor]] = {}
        for path in paths:
            tensors = read_tensors(path)
            if isinstance(tensors, str):
                continue  # the header is checked elsewhere, with a message of its own
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                header = json.loads(file.read(length))
            for name, tensor in tensors.items():
                begin = LENGTH_BYTES + length + header[name]["data_offsets"][0]
                self._found[name] = (path, begin, tensor)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        return self._found.keys()

    def tensor(self, name: str) -> Tensor:
        """A tensor's format and shape."""
        return self._found[name][2]

    def array(self, name: str) -> npt.NDArray[Any]:
        """A tensor as it is stored, not read yet."""
        path, begin, tensor = self._found[name]
        return np.memmap(path, DTYPES[tensor.dtype], "r", begin, tensor.shape)

    def floats(self, name: str) -> Floats:
        """A small tensor in float32."""
        return np.asarray(self.array(name)).astype(np.float32)


@dataclass(frozen=True)
class Matrix:
    """A matrix or vector that can be read by rows.

    Attributes:
        shape: its shape.
        block: the columns that share a scale, or among which an error is looked for.
        limits: the largest errors of its format.
        read: returns the given rows in float32; all of a vector.
    """

    shape: tuple[int, ...]
    block: int
    limits: Limits
    read: Callable[[Rows], Floats]


def plain(files: Files, name: str) -> Matrix | None:
    """A tensor of floats; None if it is not there, or of another format."""
    if name not in files or files.tensor(name).dtype not in FLOATS:
        return None
    array = files.array(name)
    if array.ndim == VECTOR:
        return Matrix(array.shape, array.shape[0], FLOAT, lambda _: np.asarray(array).astype(np.float32))
    return Matrix(array.shape, 128, FLOAT, lambda rows: array[rows].astype(np.float32))


class Names(NamedTuple):
    """The names of the scales beside a quantized `weight`.

    Attributes:
        scale: of the weights: one, one for each row, or one for each group of a row.
        second: the scale of the scales, of NVFP4.
        smoothing: what the columns are multiplied with.
    """

    scale: str
    second: str
    smoothing: str


TENSORRT_LLM = Names("weights_scaling_factor", "weights_scaling_factor_2", "prequant_scaling_factor")
HUGGING_FACE = Names("weight_scale", "weight_scale_2", "pre_quant_scale")


def quantized(files: Files, layer: str, names: Names, *, fp8_in_bytes: bool = False) -> Matrix | None:
    """A quantized matrix; None if it is in no format that is known.

    Args:
        files: the checkpoint.
        layer: the name without `.weight`.
        names: the names of its scales.
        fp8_in_bytes: whether `I8` holds the bytes of fp8, as some releases write them.
    """
    weight, scale_name = f"{layer}.weight", f"{layer}.{names.scale}"
    row_scale = f"{layer}.per_channel_scale"
    if weight not in files:
        return None
    dtype, stored = files.tensor(weight).dtype, files.array(weight)
    if dtype in FLOATS:
        return plain(files, weight)
    if dtype == "F8_E4M3" or (dtype == "I8" and fp8_in_bytes):
        found = next((name for name in (scale_name, row_scale) if name in files), "")
        return _fp8(stored.view(ml_dtypes.float8_e4m3fn), files.floats(found)) if found else None
    if scale_name not in files:
        return None
    if dtype == "U8" and f"{layer}.{names.second}" in files and files.tensor(scale_name).dtype == "F8_E4M3":
        second = float(files.floats(f"{layer}.{names.second}").reshape(-1)[0])
        return _nvfp4(stored, files.array(scale_name), second)
    smoothing = f"{layer}.{names.smoothing}"
    columns = files.floats(smoothing) if smoothing in files else None
    scales = files.floats(scale_name)
    return _int8(stored, scales, columns) if scales.ndim == VECTOR else _int4(stored, scales, columns)


def row_scales(files: Files, layer: str, largest: float) -> Matrix | None:
    """The largest value of each row, from the scales of weights that are packed for a GPU; None without such scales."""
    name = f"{layer}.per_channel_scale"
    if name not in files:
        return None
    scales = files.floats(name).reshape(-1) * largest
    return Matrix(scales.shape, 1, SCALE, lambda _: scales)


def _fp8(stored: npt.NDArray[Any], scales: Floats) -> Matrix:
    each = scales.reshape(-1)

    def read(rows: Rows) -> Floats:
        scale = each[rows][:, None] if len(each) == len(stored) else each[:1]
        return np.asarray(stored[rows].astype(np.float32) * scale)

    return Matrix(stored.shape, 128, FP8, read)


def _int8(stored: npt.NDArray[Any], scales: Floats, smoothing: Floats | None) -> Matrix:
    def read(rows: Rows) -> Floats:
        return _smoothed(stored[rows].astype(np.float32) * scales[rows][:, None], smoothing)

    return Matrix(stored.shape, 128, INT8, read)


def _int4(stored: npt.NDArray[Any], scales: Floats, smoothing: Floats | None) -> Matrix:
    """Each byte holds two rows, the even one in its lower half. A group of a row shares a scale."""
    shape = (stored.shape[0] * 2, stored.shape[1])
    group = shape[1] // scales.shape[1]

    def read(rows: Rows) -> Floats:
        packed = stored[rows // 2].view(np.int8)
        even = (rows % 2 == 0)[:, None]
        values = np.where(even, packed << 4 >> 4, packed >> 4).astype(np.float32)
        return _smoothed(values * np.repeat(scales[rows], group, axis=1), smoothing)

    return Matrix(shape, group, INT4, read)


def _nvfp4(stored: npt.NDArray[Any], scales: npt.NDArray[Any], second: float) -> Matrix:
    """Each byte holds two columns, the even one in its lower half. Sixteen columns share a scale."""
    shape = (stored.shape[0], stored.shape[1] * 2)
    group = shape[1] // scales.shape[1]

    def read(rows: Rows) -> Floats:
        packed = stored[rows]
        values = FP4[np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(rows), -1)]
        return np.asarray(values * np.repeat(scales[rows].astype(np.float32) * second, group, axis=1))

    return Matrix(shape, group, NVFP4, read)


def _smoothed(values: Floats, smoothing: Floats | None) -> Floats:
    return values if smoothing is None else np.asarray(values * smoothing)
