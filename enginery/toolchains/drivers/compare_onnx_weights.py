"""Compares the weights in an engine of ONNX Runtime with those of the model it was built from.

Runs in the release's own environment and needs nothing of Enginery's. Matrices are dequantized. The output has for each
compared matrix or norm its error relative to the original, and what the engine's values look like if they are others.
Weights whose names or shapes are not understood are not compared, and are listed.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
import numpy as np
import onnx  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from weight_values import (  # type: ignore[import-not-found,unused-ignore]  # beside it
    MOST_VALUES,
    layers_in,
    likeness,
    neighbours,
    relative,
    worst_block,
)

Array = np.ndarray[Any, np.dtype[Any]]
Rows = slice
"""Which rows of a matrix are read: all, or some at even distances."""

BLOCK = 32
"""The values whose error is looked at together, in a matrix that is not quantized."""
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
VALUES_IN_BYTE = {4: 2, 8: 1}
PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class Compared:
    """How near a weight of the engine is to the original.

    Attributes:
        name: the original's name.
        bits: bits of a quantized value, or of a float.
        error: the norm of the difference, relative to the original's norm.
        worst: the largest such error of a block of values.
        block: where that block is, such as `row 3, columns 32 to 63`.
        share: the share of the values that were compared.
        looks: what the engine's values are instead, as far as that can be told; empty if they are as they should be.
    """

    name: str
    bits: int
    error: float
    worst: float
    block: str
    share: float
    looks: str = ""


class Weights:
    """The original weights: `model.safetensors`, or the files of an index. They are read when they are needed."""

    def __init__(self, directory: Path) -> None:
        self._found: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in sorted(directory.glob("*.safetensors")):
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
            entries = ((name, entry) for name, entry in header.items() if name != "__metadata__")
            self._found |= {name: (file, 8 + size, entry) for name, entry in entries}

    @property
    def layers(self) -> set[int]:
        """The numbers of the layers that have matrices."""
        return {layer for name in self._found for layer in layers_in(name)}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A weight's shape; None if there is no such weight, or it is not of a known float."""
        parts = self._parts(name)
        shapes = [tuple(self._found[part][2]["shape"]) for part in parts]
        if not shapes or any(self._found[part][2]["dtype"] not in DTYPES for part in parts):
            return None
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def read(self, name: str, rows: Rows = slice(None)) -> Array:
        """A weight, or some of its rows, in float32."""
        found = [self._mapped(part) for part in self._parts(name)]
        if len(found) == 1:
            return found[0][rows].astype(np.float32)
        chosen = np.arange(sum(len(part) for part in found))[rows]
        starts = np.cumsum([0, *(len(part) for part in found)])
        return np.concatenate(
            [
                part[chosen[(chosen >= start) & (chosen < start + len(part))] - start].astype(np.float32)
                for part, start in zip(found, starts, strict=False)
            ]
        )

    def _mapped(self, name: str) -> Array:
        file, start, entry = self._found[name]
        begin, _ = entry["data_offsets"]
        return np.memmap(file, DTYPES[entry["dtype"]], "r", start + begin, tuple(entry["shape"]))

    def _parts(self, name: str) -> list[str]:
        """The weights that one matrix of an engine is put together from: mostly one."""
        if name == "lm_head.weight" and name not in self._found:
            name = "model.embed_tokens.weight"
        if name in self._found:
            return [name]
        for whole, parts in PACKED.items():
            each = [name.replace(whole, part) for part in parts]
            if whole in name and all(part in self._found for part in each):
                return each
        return []


class Graph:
    """An engine's graph. Its weights are read when they are needed."""

    def __init__(self, engine: Path) -> None:
        self._directory = engine
        described = json.loads((engine / "genai_config.json").read_text(encoding="utf-8"))
        model = onnx.load(engine / described["model"]["decoder"]["filename"], load_external_data=False)
        self.nodes = list(model.graph.node)
        self._tensors = {each.name: each for each in model.graph.initializer}

    def has(self, name: str) -> bool:
        """Whether there is such a weight in the graph."""
        return name in self._tensors

    def read(self, name: str) -> Array:
        """A weight as it is in the graph."""
        tensor = self._tensors[name]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" not in entries:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        place = self._directory / entries["location"]
        return np.memmap(place, dtype, "r", int(entries.get("offset", 0)), tuple(tensor.dims))


@dataclass(frozen=True)
class Found:
    """A weight in the graph: its original's name, its bits and block, its shape as in the original, and how to read it.

    Attributes:
        read: returns the chosen rows of it in float32.
    """

    name: str
    bits: int
    block: int
    shape: tuple[int, ...]
    read: Callable[[Rows], Array]


def original_name(name: str) -> str:
    """The name that a weight of the graph has in a Hugging Face model."""
    name = re.sub(r"\.MatMul\.weight\w*$", ".weight", name).replace(".attn.", ".self_attn.")
    name = name.replace("_norm.layernorm.", "_norm.")
    return re.sub(r"^model\.layers\.\d+\.final_norm_layernorm", "model.norm", name)


Reader = Callable[[Graph, Any], Found | None]


def weights_in(graph: Graph) -> Iterator[Found]:
    """The matrices and norms of a graph."""
    readers: dict[str, Reader] = {
        "MatMulNBits": quantized,
        "MatMul": transposed,
        "Gather": lambda graph, node: plain(graph, node.input[0]),
        "SimplifiedLayerNormalization": lambda graph, node: plain(graph, node.input[1]),
        "SkipSimplifiedLayerNormalization": lambda graph, node: plain(graph, node.input[2]),
    }
    for node in graph.nodes:
        found = readers[node.op_type](graph, node) if node.op_type in readers else None
        if found is not None:
            yield found


def plain(graph: Graph, name: str) -> Found | None:
    """A weight that is stored as in the original."""
    if not graph.has(name):
        return None
    array = graph.read(name)
    bits = array.dtype.itemsize * 8
    return Found(original_name(name), bits, BLOCK, array.shape, lambda rows: array[rows].astype(np.float32))


def transposed(graph: Graph, node: Any) -> Found | None:
    """A matrix in floats: its rows are the original's columns."""
    name = node.input[1]
    if not graph.has(name):
        return None
    array = graph.read(name).T
    bits = array.dtype.itemsize * 8
    return Found(original_name(name), bits, BLOCK, array.shape, lambda rows: array[rows].astype(np.float32))


def quantized(graph: Graph, node: Any) -> Found | None:
    """A matrix in 4 or 8 bits, with a scale for each block of a row and perhaps a zero point."""
    options = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    rows, columns, bits, block = (options[name] for name in ("N", "K", "bits", "block_size"))
    inputs = [*node.input, *([""] * 3)]  # the fifth is the order of the columns, which GPTQ may change
    packed, scales, zeros = (name if graph.has(name) else "" for name in inputs[1:4])
    unknown = bits not in VALUES_IN_BYTE or any(inputs[4:5]) or (inputs[3] and not zeros) or reordered(options)
    if unknown or not packed or not scales:
        return None
    blocks = math.ceil(columns / block)

    def read(chosen: Rows) -> Array:
        values = unpacked(graph.read(packed).reshape(rows, -1)[chosen], bits).reshape(-1, blocks, block)
        scale = graph.read(scales).reshape(rows, blocks)[chosen].astype(np.float32)
        middle = np.full((rows, blocks), 1 << (bits - 1), np.float32)
        offset = (zero_points(graph.read(zeros), rows, blocks, bits) if zeros else middle)[chosen]
        exact = (values - offset[..., None]) * scale[..., None]
        return np.asarray(exact.reshape(len(exact), -1)[:, :columns])

    return Found(original_name(packed), bits, block, (rows, columns), read)


def reordered(options: dict[str, Any]) -> bool:
    """Whether the bytes are in the order of one kernel, and not in that of the graph."""
    return any(value for name, value in options.items() if "prepack" in name)


def unpacked(packed: Array, bits: int) -> Array:
    """The values in bytes, as floats; of two values in a byte the first is in the low half."""
    if VALUES_IN_BYTE[bits] == 1:
        return packed.astype(np.float32)
    halves = np.stack((packed & 15, packed >> 4), axis=-1)
    return halves.reshape(len(packed), -1).astype(np.float32)


def zero_points(stored: Array, rows: int, blocks: int, bits: int) -> Array:
    """The zero point of each block: floats, or packed like the values with each row at a byte of its own."""
    if stored.dtype != np.uint8:
        return stored.reshape(rows, blocks).astype(np.float32)
    return unpacked(stored.reshape(rows, -1), bits)[:, :blocks]


def compare(found: Found, weights: Weights) -> Compared:
    """Compare a weight of the engine with its original."""
    rows = found.shape[0]
    step = max(1, math.ceil(math.prod(found.shape) / MOST_VALUES)) if len(found.shape) > 1 else 1
    chosen = slice(None, None, step)
    ours, original = found.read(chosen), weights.read(found.name, chosen)
    if len(found.shape) == 1 and np.abs(ours - original - 1).max() < np.abs(ours - original).max():
        original = original + 1  # a norm that is stored without the one that the model adds
    error = relative(ours, original)
    worst, at = worst_block(ours, original, found.block)
    row, columns = at[0] * step, f"{at[1]} to {at[2]}"
    place = f"row {row}, columns {columns}" if len(found.shape) > 1 else f"values {columns}"
    others = (
        (name, partial(weights.read, name, chosen))
        for name in neighbours(found.name)
        if weights.shape(name) == found.shape
    )
    looks = likeness(ours, original, others, whole=step == 1)
    share = len(range(rows)[chosen]) / rows
    return Compared(found.name, found.bits, error, worst, place, share, looks)


def rotary_base(graph: Graph, config: dict[str, Any]) -> Compared | None:
    """Compare the base of the rotary embedding; None if the model has none, or stretches its positions."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = config.get("rope_theta") or rope.get("rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not graph.has("sin_cache") or not isinstance(base, int | float) or kind != "default":
        return None
    angles = np.arcsin(np.clip(graph.read("sin_cache")[1].astype(np.float64), -1, 1))
    middle = len(angles) // 2  # in 16 bits, the first angles tell the base badly, and the last ones are too small
    if not middle or not angles[middle] > 0:
        return None
    ours = float(angles[middle]) ** (-len(angles) / middle)
    error = abs(ours / base - 1)
    return Compared("rotary base", 32, error, error, "", 1.0, f"{ours:.4g} in place of {base:.4g}")


def main() -> None:
    """Compare everything that can be compared."""
    parser = argparse.ArgumentParser(description="Compare an engine's weights with those of its model.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's directory")
    parser.add_argument("--weights", type=Path, required=True, help="the Hugging Face model")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    graph, weights = Graph(arguments.engine), Weights(arguments.weights)
    compared, skipped = [], []
    for found in weights_in(graph):
        if weights.shape(found.name) == found.shape:
            compared.append(asdict(compare(found, weights)))
        else:
            skipped.append(found.name)
    config = json.loads((arguments.weights / "config.json").read_text(encoding="utf-8"))
    rotary = rotary_base(graph, config)
    compared += [asdict(rotary)] if rotary else []
    print(f"weights compared: {len(compared)}, not compared: {len(skipped)}", flush=True)  # noqa: T201  for the log
    found_layers = {layer for weight in compared for layer in layers_in(weight["name"])}
    written = {
        "architecture": next(iter(config.get("architectures") or []), ""),
        "compared": compared,
        "skipped": sorted(set(skipped)),
        "lost_layers": sorted(weights.layers & set(range(config.get("num_hidden_layers", 0))) - found_layers),
    }
    arguments.output.write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
