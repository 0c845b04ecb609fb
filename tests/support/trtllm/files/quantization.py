"""Quantized weights: tensors with the names, types and shapes of the release's scripts. The scales are not measured.

Each linear layer's weight is `[out, in]`. The weights of experts have one more dimension in front.
"""

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from tests.support.trtllm.files.weights import Array, Tensors

LINEAR = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
NVFP4_BLOCK = 16
INT8_MOST = 127.0
INT4_MOST = 8.0
"""The release divides by this, and the largest positive weight becomes 7."""
FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4_MOST = 6.0
FP8_MOST = 448.0


def quantized(tensors: Tensors, algorithm: str | None, kv_algorithm: str | None, group_size: int) -> Tensors:
    """A rank's weights, quantized by an algorithm, which has the release's name for it."""
    made: Tensors = {}
    for name, array in tensors.items():
        layer = name.removesuffix(".weight")
        if algorithm is None or not layer.endswith(LINEAR) or not name.endswith(".weight"):
            made[name] = array
            continue
        for part, value in ALGORITHMS[algorithm](np.asarray(array, np.float32), group_size, array.dtype).items():
            made[f"{layer}.{part}"] = value
    if kv_algorithm is not None:
        for name in [name for name in tensors if name.endswith("attention.qkv.weight")]:
            made[name.replace("qkv.weight", "kv_cache_scaling_factor")] = one()
    return made


def one() -> Array:
    """A scale of one."""
    return np.ones(1, np.float32)


def _rows(weight: Array, most: float) -> Array:
    """The scale of each output channel."""
    scale: Array = np.maximum(np.abs(weight).max(axis=-1), 1e-8) / most
    return scale.astype(np.float32)


def _in_int8(weight: Array, scale: Array) -> Array:
    return np.clip(np.rint(weight / scale[..., None]), -INT8_MOST, INT8_MOST).astype(np.int8)


def _weight_only(halves: int) -> Callable[[Array, int, np.dtype], Tensors]:
    def made(weight: Array, _group: int, dtype: np.dtype) -> Tensors:
        scale = _rows(weight, INT8_MOST)
        turned = np.swapaxes(_in_int8(weight, scale), -1, -2)
        if halves > 1:
            scale = _rows(weight, INT4_MOST)
            turned = np.swapaxes(np.clip(np.rint(weight / scale[..., None]), -8, 7).astype(np.int8), -1, -2)
        packed = (turned[..., ::2] & 0xF) | (turned[..., 1::2] << 4) if halves > 1 else turned
        return {"weight": np.ascontiguousarray(packed), "per_channel_scale": scale.astype(dtype)}

    return made


def _fp8(weight: Array, _group: int, _dtype: object) -> Tensors:
    scale = np.maximum(np.abs(weight).max(), 1e-8).reshape(1).astype(np.float32) / np.float32(FP8_MOST)
    stored = (weight / scale).astype(ml_dtypes.float8_e4m3fn)
    return {"weight": stored, "weights_scaling_factor": scale, "activation_scaling_factor": one()}


def _fp8_rows(weight: Array, _group: int, _dtype: object) -> Tensors:
    scale = _rows(weight, FP8_MOST)
    stored = (weight / scale[..., None]).astype(ml_dtypes.float8_e4m3fn)
    return {"weight": stored, "per_channel_scale": scale[..., None]}


def _smooth(weight: Array, _group: int, _dtype: object) -> Tensors:
    scale = _rows(weight, INT8_MOST)
    return {
        "weight": _in_int8(weight, scale),
        "weights_scaling_factor": scale,
        "prequant_scaling_factor": np.ones(weight.shape[-1], np.float32),
        "activation_scaling_factor": one(),
    }


def _awq(weight: Array, group: int, dtype: np.dtype) -> Tensors:
    grouped = weight.reshape(*weight.shape[:-1], -1, min(group, weight.shape[-1]))
    scale = _rows(grouped, 7.0)
    stored = np.rint(grouped / scale[..., None]).astype(np.int8).reshape(weight.shape)
    low, high = stored[..., ::2, :] & 0xF, stored[..., 1::2, :] & 0xF
    return {
        "weight": (low | (high << 4)).astype(np.int8),
        "weights_scaling_factor": scale.astype(dtype),
        "prequant_scaling_factor": np.ones(weight.shape[-1], dtype),
    }


def _awq_fp8(weight: Array, group: int, dtype: np.dtype) -> Tensors:
    return {**_awq(weight, group, dtype), "activation_scaling_factor": one(), "alpha": one()}


def _nvfp4(weight: Array, _group: int, _dtype: object) -> Tensors:
    blocks = weight.reshape(*weight.shape[:-1], -1, NVFP4_BLOCK)
    second = np.maximum(np.abs(weight).max(), 1e-8).reshape(1).astype(np.float32) / np.float32(FP4_MOST * FP8_MOST)
    scales = (np.maximum(np.abs(blocks).max(axis=-1), 1e-8) / FP4_MOST / second).astype(ml_dtypes.float8_e4m3fn)
    steps = np.maximum(scales.astype(np.float32), 2.0**-9) * second
    sizes = np.abs(blocks / steps[..., None])
    numbers = np.abs(sizes[..., None] - FP4).argmin(axis=-1).astype(np.uint8) | ((blocks < 0) << 3).astype(np.uint8)
    nibbles = numbers.reshape(weight.shape)
    return {
        "weight": nibbles[..., ::2] | (nibbles[..., 1::2] << 4),
        "weights_scaling_factor": scales,
        "weights_scaling_factor_2": second,
        "activation_scaling_factor": one(),
    }


ALGORITHMS: Mapping[str, Callable[..., Tensors]] = {
    "W8A16": _weight_only(1),
    "W4A16": _weight_only(2),
    "FP8": _fp8,
    "FP8_PER_CHANNEL_PER_TOKEN": _fp8_rows,
    "W4A16_AWQ": _awq,
    "W4A8_AWQ": _awq_fp8,
    "NVFP4": _nvfp4,
    **dict.fromkeys(
        (
            "W8A8_SQ_PER_CHANNEL",
            "W8A8_SQ_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
        ),
        _smooth,
    ),
}
