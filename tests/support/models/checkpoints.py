"""Checkpoints of zeros: their files have the right headers and sizes, which is enough to check them.

The layout is written by hand here, and not taken from the code that checks it. So a mistake in that code is found.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

BYTES = {"F32": 4, "I32": 4, "U32": 4, "I64": 8, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
Shape = tuple[int, ...]
Layout = dict[str, tuple[str, Shape]]
"""Tensors by name: number format and shape."""

SOURCE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 450,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 4096,
    },
    "tie_word_embeddings": False,
}

CHECKPOINT = {
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_size": 64,
    "vocab_size": 450,
    "max_position_embeddings": 8192,
    "norm_epsilon": 1e-05,
    "position_embedding_type": "rope_gpt_neox",
    "rotary_base": 500000.0,
    "rotary_scaling": SOURCE["rope_scaling"],
    "use_parallel_embedding": True,
    "embedding_sharding_dim": 0,
    "share_embedding_table": False,
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
}


def write_tensors(path: Path, layout: Mapping[str, tuple[str, Shape]]) -> None:
    """Write a safetensors file of zeros."""
    header, end = {}, 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)


def read_header(directory: Path) -> dict[str, Any]:
    """The entries of a directory's `model.safetensors`, by the tensors' names."""
    with (directory / "model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    return header


def rewritten(path: Path, tensors: Mapping[str, str]) -> None:
    """Write a safetensors file again with these tensors: new name -> the name of the tensor that has its numbers."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    old, header, numbers = read_header(path.parent), {}, b""
    for name, source in tensors.items():
        first, last = old[source]["data_offsets"]
        header[name] = {**old[source], "data_offsets": [len(numbers), len(numbers) + last - first]}
        numbers += content[start + first : start + last]
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + numbers)


def write_source(directory: Path, layout: Layout | None = None, **changes: Any) -> Path:
    """Write a Hugging Face model: its configuration, and weights of zeros."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in {**SOURCE, **changes}.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(config))
    write_tensors(directory / "model.safetensors", layout or source_layout())
    return directory


def source_layout() -> Layout:
    """The tensors of the Hugging Face model."""
    layout: Layout = {"model.embed_tokens.weight": ("BF16", (450, 256)), "model.norm.weight": ("BF16", (256,))}
    layout["lm_head.weight"] = ("BF16", (450, 256))
    for layer in (0, 1):
        prefix = f"model.layers.{layer}"
        for name, rows, columns in matrices():
            layout[f"{prefix}.{name}.weight"] = ("BF16", (rows, columns))
        layout[f"{prefix}.input_layernorm.weight"] = ("BF16", (256,))
        layout[f"{prefix}.post_attention_layernorm.weight"] = ("BF16", (256,))
    return layout


def fp8_layout() -> Layout:
    """The tensors of that model as ModelOpt exports them in FP8."""
    layout = source_layout()
    for layer in (0, 1):
        for name, rows, columns in matrices():
            prefix = f"model.layers.{layer}.{name}"
            layout[f"{prefix}.weight"] = ("F8_E4M3", (rows, columns))
            layout[f"{prefix}.weight_scale"] = layout[f"{prefix}.input_scale"] = ("F32", ())
    return layout


def matrices() -> Iterator[tuple[str, int, int]]:
    yield "self_attn.q_proj", 256, 256
    yield "self_attn.k_proj", 128, 256
    yield "self_attn.v_proj", 128, 256
    yield "self_attn.o_proj", 256, 256
    yield "mlp.gate_proj", 512, 256
    yield "mlp.up_proj", 512, 256
    yield "mlp.down_proj", 256, 512


def rank_layout(tensor_parallel: int = 1, *, fp8: bool = False) -> Layout:
    """The tensors of a rank, for one or two ranks with tensor parallelism."""
    vocabulary, inner = -(-450 // tensor_parallel), 512 // tensor_parallel
    layout: Layout = {
        "transformer.vocab_embedding.weight": ("BF16", (vocabulary, 256)),
        "transformer.ln_f.weight": ("BF16", (256,)),
        "lm_head.weight": ("BF16", (vocabulary, 256)),
    }
    linear = {
        "attention.qkv": (512 // tensor_parallel, 256),
        "attention.dense": (256, 256 // tensor_parallel),
        "mlp.fc": (inner, 256),
        "mlp.gate": (inner, 256),
        "mlp.proj": (256, inner),
    }
    for layer in (0, 1):
        prefix = f"transformer.layers.{layer}"
        layout[f"{prefix}.input_layernorm.weight"] = ("BF16", (256,))
        layout[f"{prefix}.post_layernorm.weight"] = ("BF16", (256,))
        for name, shape in linear.items():
            layout[f"{prefix}.{name}.weight"] = ("F8_E4M3" if fp8 else "BF16", shape)
            if fp8:
                layout[f"{prefix}.{name}.activation_scaling_factor"] = ("F32", (1,))
                layout[f"{prefix}.{name}.weights_scaling_factor"] = ("F32", (1,))
    return layout


def write_checkpoint(directory: Path, tensor_parallel: int = 1, *, fp8: bool = False, **changes: Any) -> Path:
    """Write a checkpoint of that model. `changes` of its configuration: a field with the value `...` is left out."""
    directory.mkdir(parents=True, exist_ok=True)
    mapping = {"world_size": tensor_parallel, "tp_size": tensor_parallel, "pp_size": 1}
    quantization = {"quant_algo": "FP8" if fp8 else None, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    config = {**CHECKPOINT, "mapping": mapping, "quantization": quantization, **changes}
    left = {name: value for name, value in config.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(left))
    for rank in range(tensor_parallel):
        write_tensors(directory / f"rank{rank}.safetensors", rank_layout(tensor_parallel, fp8=fp8))
    return directory
