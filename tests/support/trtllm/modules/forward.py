"""A small Llama in numpy, so that the stand-in predicts what the converted model predicts."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]
LARGEST = 20_000_000
"""Bytes of the largest weights that are kept and run."""


class Llama:
    """The model in a Hugging Face directory. It remembers the last input, and knows its beginnings."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.tensors = {
            name: tensor.astype(np.float32)
            for path in sorted(directory.glob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }
        self.heads = int(self.config["num_attention_heads"])
        self.kv_heads = int(self.config.get("num_key_value_heads") or self.heads)
        self.size = int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)
        self._last: tuple[list[int], Floats] = ([], np.empty((0, 0), np.float32))

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        found = self.config.get("eos_token_id")
        return found if isinstance(found, list) else [int(found or 0)]

    def logits(self, ids: list[int]) -> Floats:
        """The logits after each token."""
        known, logits = self._last
        if known[: len(ids)] != ids:
            logits = self._run(np.array(ids))
            self._last = (ids, logits)
        return logits[: len(ids)]

    def _run(self, ids: NDArray[np.int64]) -> Floats:
        states = self.tensors["model.embed_tokens.weight"][ids]
        for layer in range(int(self.config["num_hidden_layers"])):
            name = f"model.layers.{layer}"
            states = states + self._attention(name, self._norm(f"{name}.input_layernorm", states))
            states = states + self._mlp(f"{name}.mlp", self._norm(f"{name}.post_attention_layernorm", states))
        head = self.tensors.get("lm_head.weight", self.tensors["model.embed_tokens.weight"])
        found: Floats = self._norm("model.norm", states) @ head.T
        return found

    def _norm(self, name: str, states: Floats) -> Floats:
        scale = np.sqrt((states**2).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        found: Floats = states / scale * self.tensors[f"{name}.weight"]
        return found

    def _linear(self, name: str, states: Floats) -> Floats:
        found: Floats = states @ self.tensors[f"{name}.weight"].T
        return found

    def _mlp(self, name: str, states: Floats) -> Floats:
        gate = self._linear(f"{name}.gate_proj", states)
        return self._linear(f"{name}.down_proj", gate / (1 + np.exp(-gate)) * self._linear(f"{name}.up_proj", states))

    def _attention(self, name: str, states: Floats) -> Floats:
        length, shared = len(states), self.heads // self.kv_heads
        sizes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        q, k, v = (
            self._linear(f"{name}.self_attn.{part}_proj", states).reshape(length, heads, self.size).swapaxes(0, 1)
            for part, heads in sizes.items()
        )
        k, v = np.repeat(self._rotated(k), shared, axis=0), np.repeat(v, shared, axis=0)
        scores = self._rotated(q) @ k.swapaxes(1, 2) / np.sqrt(self.size)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        return self._linear(f"{name}.self_attn.o_proj", mixed.swapaxes(0, 1).reshape(length, -1))

    def _rotated(self, states: Floats) -> Floats:
        rope = self.config.get("rope_parameters") or {}
        base = float(self.config.get("rope_theta") or rope.get("rope_theta") or 10000.0)
        angles = np.outer(np.arange(states.shape[1]), base ** (-np.arange(0, self.size, 2) / self.size))
        cos, sin = np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)
        first, second = np.split(states, 2, axis=-1)
        found: Floats = (states * cos + np.concatenate([-second, first], axis=-1) * sin).astype(np.float32)
        return found


@lru_cache
def llama(directory: Path) -> Llama | None:
    """The model in a directory; None if it is no Llama, is too large, or its weights are not plain numbers."""
    path, files = directory / "config.json", sorted(directory.glob("*.safetensors"))
    if not path.exists() or not files or sum(file.stat().st_size for file in files) > LARGEST:
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    plain = config.get("model_type") == "llama" and "quantization_config" not in config
    quantized = (directory / "hf_quant_config.json").exists()
    return Llama(directory) if plain and not quantized else None
