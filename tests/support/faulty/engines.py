"""Damages a built engine of ONNX Runtime: `python engines.py JOBS.json`. Runs in the onnxruntime toolchain.

Each job is `{"engine": directory, "output": directory, "damage": name}` with a name of `DAMAGES`, or with `"weights":
directory` in its place, to put the weights of a Hugging Face model in a float32 engine: a faulty engine in a second
that the builder needs six for.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from onnx import numpy_helper
from safetensors.numpy import load_file

Arrays = dict[str, np.ndarray]
ENGINE = "model.onnx"
DATA = "model.onnx.data"
WRONG_SCALE = 4
SPOILED = "up_proj"
"""The matrix that is spoiled. Mixed placements of int4 keep it in 4 bits in every layer."""


def arrays_of(model: onnx.ModelProto) -> Arrays:
    """The weights in a graph, by name; they can be written to."""
    return {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}


def change_engine(engine: Path, output: Path, change: Callable[[Arrays], None]) -> None:
    """Write a copy of an engine with changed weights."""
    # A store may have linked the engine's files, and onnx refuses to read data that has several links.
    shutil.copytree(engine, output)
    model = onnx.load(output / ENGINE)
    arrays = arrays_of(model)
    change(arrays)
    for each in model.graph.initializer:
        each.CopyFrom(numpy_helper.from_array(arrays[each.name], each.name))
    onnx.save(model, output / ENGINE, save_as_external_data=True, location=DATA, size_threshold=1024)


def scales_of(arrays: Arrays, layer: int, part: str = "") -> list[str]:
    """The names of the scales of a layer's quantized matrices, or of one of them, such as `down_proj`."""
    ours = re.compile(rf"model\.layers\.{layer}\..*{part}.*_scales?$")
    return sorted(filter(ours.match, arrays))


def middle(arrays: Arrays) -> int:
    """The layer before the middle."""
    layers = {int(name.split(".")[2]) for name in arrays if name.startswith("model.layers.") and ".attn." in name}
    return max(layers) // 2


def scales_of_a_matrix_wrong(arrays: Arrays) -> None:
    """All scales of one matrix are four times too large."""
    arrays[scales_of(arrays, middle(arrays), SPOILED)[0]] *= WRONG_SCALE


def scale_of_a_block_wrong(arrays: Arrays) -> None:
    """One scale of one matrix is four times too large."""
    scales = arrays[scales_of(arrays, middle(arrays), SPOILED)[0]]
    scales.flat[scales.size // 2] *= WRONG_SCALE


def layer_of_zeros(arrays: Arrays) -> None:
    """All quantized weights of one layer are zero."""
    for name in scales_of(arrays, middle(arrays)):
        arrays[name][:] = 0


def layers_swapped(arrays: Arrays) -> None:
    """Two layers have each other's quantized up projection, with everything that belongs to it."""
    layer = middle(arrays)
    for this in [name for name in arrays if re.match(rf"model\.layers\.{layer}\..*{SPOILED}", name)]:
        following = this.replace(f".{layer}.", f".{layer + 1}.", 1)
        arrays[this], arrays[following] = arrays[following], arrays[this]


def not_a_number(arrays: Arrays) -> None:
    """The output layer, or one scale of it, is NaN for one token.

    A NaN before an int4 matrix is lost: the kernel quantizes its input.
    """
    name = next(each for each in arrays if each.startswith("lm_head") and arrays[each].dtype.kind == "f")
    arrays[name].flat[0] = np.nan


DAMAGES: dict[str, Callable[[Arrays], None]] = {
    "scales of a matrix wrong": scales_of_a_matrix_wrong,
    "scale of a block wrong": scale_of_a_block_wrong,
    "layer of zeros": layer_of_zeros,
    "layers swapped": layers_swapped,
    "not a number": not_a_number,
}


def with_weights(weights: Path) -> Callable[[Arrays], None]:
    """A change that puts the weights of a Hugging Face model in the place of a float32 engine's own."""
    tensors = load_file(weights / "model.safetensors")
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))

    def change(arrays: Arrays) -> None:
        for name, array in arrays.items():
            found = _array_of(name, tensors, config, array)
            if found.shape != array.shape:
                raise ValueError(f"{name} is {array.shape} in the engine, and {found.shape} in the weights")
            arrays[name] = np.ascontiguousarray(found, array.dtype)

    return change


def _array_of(name: str, tensors: Arrays, config: dict[str, float], array: np.ndarray) -> np.ndarray:
    if name in ("cos_cache", "sin_cache"):
        return _rotations(name, config["rope_theta"], array.shape)
    if "qkv_proj" in name:
        layer = name.split(".")[2]
        parts = [tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv"]
        return np.concatenate(parts).T
    if "final_norm" in name:
        return tensors["model.norm.weight"]
    if name.startswith("lm_head"):
        return tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).T
    plain = name.replace(".attn.", ".self_attn.").replace(".MatMul.", ".")
    return tensors[plain].T if ".MatMul." in name else tensors[plain]


def _rotations(name: str, base: float, shape: tuple[int, ...]) -> np.ndarray:
    positions, half = shape
    angles = np.outer(np.arange(positions), base ** (-np.arange(half, dtype=np.float32) / half))
    rotations: np.ndarray = np.cos(angles) if name == "cos_cache" else np.sin(angles)
    return rotations


def main(jobs: Path) -> None:
    """Do the jobs of a file."""
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        change = with_weights(Path(job["weights"])) if "weights" in job else DAMAGES[job["damage"]]
        change_engine(Path(job["engine"]), Path(job["output"]), change)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
