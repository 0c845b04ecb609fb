"""The weights of llama-like models: read with Hugging Face's names, cut for ranks, with TensorRT-LLM's names."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Array]

DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}
NUMPY: Mapping[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Place:
    """The place of a rank: its tensor-parallel rank and its pipeline-parallel rank."""

    tp: int
    tp_size: int
    pp: int
    pp_size: int

    def layers(self, count: int) -> range:
        each = count // self.pp_size
        return range(self.pp * each, (self.pp + 1) * each)

    def cut(self, weight: Array, axis: int = 0) -> Array:
        return np.ascontiguousarray(np.split(weight, self.tp_size, axis=axis)[self.tp])


def places(tp_size: int, pp_size: int) -> list[Place]:
    return [Place(tp, tp_size, pp, pp_size) for pp in range(pp_size) for tp in range(tp_size)]


def read_file(path: Path) -> Tensors:
    """The tensors of a safetensors file, also with types that numpy does not have."""
    found: Any = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    return {name: np.frombuffer(one["data"], DTYPES[one["dtype"]]).reshape(one["shape"]) for name, one in found}


def read_model(directory: Path, dtype: str) -> Tensors:
    """All weights of a Hugging Face model, in the wanted type."""
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        names = "model.safetensors, pytorch_model.bin, tf_model.h5, model.ckpt.index or flax_model.msgpack"
        raise OSError(f"Error no file named {names} found in directory {directory}.")
    return {name: array.astype(NUMPY[dtype]) for path in paths for name, array in read_file(path).items()}


def rank_weights(model: Tensors, config: Mapping[str, Any], place: Place) -> Tensors:
    """The part of a model's weights for a rank, with TensorRT-LLM's names."""
    made: Tensors = {}
    for number, layer in enumerate(place.layers(config["num_hidden_layers"])):
        for name, array in _layer(model, config, place, f"model.layers.{layer}."):
            made[f"transformer.layers.{number}.{name}"] = array
    if place.pp == 0:
        made["transformer.vocab_embedding.weight"] = _embedding(model["model.embed_tokens.weight"], config, place)
    if place.pp == place.pp_size - 1:
        made["transformer.ln_f.weight"] = model["model.norm.weight"]
        head = model.get("lm_head.weight", model["model.embed_tokens.weight"])
        made["lm_head.weight"] = place.cut(_padded(head, place.tp_size))
    return made


def _layer(model: Tensors, config: Mapping[str, Any], place: Place, prefix: str) -> Iterator[tuple[str, Array]]:
    yield "input_layernorm.weight", model[f"{prefix}input_layernorm.weight"]
    yield "post_layernorm.weight", model[f"{prefix}post_attention_layernorm.weight"]
    for kind in ("weight", "bias"):
        if f"{prefix}self_attn.q_proj.{kind}" in model:
            yield f"attention.qkv.{kind}", _qkv(model, config, place, f"{prefix}self_attn.", kind)
    yield "attention.dense.weight", place.cut(model[f"{prefix}self_attn.o_proj.weight"], axis=1)
    if f"{prefix}mlp.gate_proj.weight" in model:
        yield "mlp.fc.weight", place.cut(model[f"{prefix}mlp.gate_proj.weight"])
        yield "mlp.gate.weight", place.cut(model[f"{prefix}mlp.up_proj.weight"])
        yield "mlp.proj.weight", place.cut(model[f"{prefix}mlp.down_proj.weight"], axis=1)
    else:
        yield from _experts(model, place, f"{prefix}block_sparse_moe.")


def _qkv(model: Tensors, config: Mapping[str, Any], place: Place, prefix: str, kind: str) -> Array:
    parts = [place.cut(model[f"{prefix}q_proj.{kind}"])]
    for name in ("k_proj", "v_proj"):
        whole = model[f"{prefix}{name}.{kind}"]
        heads = config["num_key_value_heads"]
        if heads < place.tp_size:
            by_head = whole.reshape(heads, -1, *whole.shape[1:])
            whole = np.repeat(by_head, place.tp_size // heads, axis=0).reshape(-1, *whole.shape[1:])
        parts.append(place.cut(whole))
    return np.concatenate(parts)


def _experts(model: Tensors, place: Place, prefix: str) -> Iterator[tuple[str, Array]]:
    count = sum(name.startswith(f"{prefix}experts.") and name.endswith(".w1.weight") for name in model)
    each = [{w: model[f"{prefix}experts.{one}.{w}.weight"] for w in ("w1", "w2", "w3")} for one in range(count)]
    yield "mlp.router.weight", model[f"{prefix}gate.weight"].astype(np.float32)
    yield "mlp.fc.weight", np.stack([np.concatenate([place.cut(one["w3"]), place.cut(one["w1"])]) for one in each])
    yield "mlp.proj.weight", np.stack([place.cut(one["w2"], axis=1) for one in each])


def _embedding(whole: Array, config: Mapping[str, Any], place: Place) -> Array:
    if not config.get("use_parallel_embedding"):
        return whole
    axis = config.get("embedding_sharding_dim", 0)
    return place.cut(_padded(whole, place.tp_size) if axis == 0 else whole, axis=axis)


def _padded(whole: Array, tp_size: int) -> Array:
    rows = math.ceil(whole.shape[0] / tp_size) * tp_size
    return np.pad(whole, ((0, rows - whole.shape[0]), (0, 0)))
