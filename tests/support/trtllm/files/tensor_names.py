"""The tensors that a rank of a llama-like checkpoint must have."""

import json
import struct
from pathlib import Path


def header(path: Path) -> dict[str, dict[str, object]]:
    """The tensors of a safetensors file: name -> type and shape."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
    if not 0 < size <= len(content) - 8:
        raise RuntimeError("Error while deserializing header: HeaderTooSmall")
    found: dict[str, dict[str, object]] = json.loads(content[8 : 8 + size])
    found.pop("__metadata__", None)
    if max(int(str(one["data_offsets"][1])) for one in found.values()) != len(content) - 8 - size:  # type: ignore[index]
        raise RuntimeError("Error while deserializing header: MetadataIncompleteBuffer")
    return found


def check_names(weights: Path, output: Path) -> None:
    """Check that a rank has the tensors that its place in the mapping needs."""
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))["pretrained_config"]
    rank = int(weights.stem.removeprefix("rank"))
    missing = required(config, rank) - set(header(weights))
    if missing:
        raise RuntimeError(f"Required but not provided tensors:{missing}")


def required(config: dict[str, object], rank: int) -> set[str]:
    """The names of the weights that each rank must have, whatever the quantization."""
    mapping: dict[str, int] = config["mapping"]  # type: ignore[assignment]
    stage = rank // mapping["tp_size"]
    each = int(str(config["num_hidden_layers"])) // mapping["pp_size"]
    parts = ("input_layernorm", "post_layernorm", "attention.qkv", "attention.dense", "mlp.fc", "mlp.proj")
    names = {f"transformer.layers.{layer}.{part}.weight" for layer in range(each) for part in parts}
    if stage == 0:
        names.add("transformer.vocab_embedding.weight")
    if stage == mapping["pp_size"] - 1:
        names |= {"transformer.ln_f.weight", "lm_head.weight"}
    return names
