"""A model of the Llama architecture in numpy, written from its definition, to compare other programs with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Floats = npt.NDArray[np.float64]


class NumpyLlama:
    """The weights of a model's directory, in float64."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        weights = load_file(directory / "model.safetensors")
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}

    def logits(self, ids: list[int]) -> Floats:
        """The logits after each token."""
        states = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            states = states + self._attention(layer, self._norm(states, f"layers.{layer}.input_layernorm"))
            states = states + self._feed_forward(layer, self._norm(states, f"layers.{layer}.post_attention_layernorm"))
        found: Floats = self._norm(states, "norm") @ self.weights["lm_head.weight"].T
        return found

    def logprobs(self, ids: list[int]) -> Floats:
        """The log-probabilities of all tokens after each token."""
        logits = self.logits(ids)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return found

    def _attention(self, layer: int, states: Floats) -> Floats:
        heads, groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        query, key = (rotated(self._heads(layer, name, states), self._theta()) for name in ("q_proj", "k_proj"))
        value = self._heads(layer, "v_proj", states)
        key, value = (np.repeat(one, heads // groups, axis=0) for one in (key, value))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        scores = np.where(np.tri(len(states), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        found: Floats = mixed.transpose(1, 0, 2).reshape(len(states), -1) @ self._matrix(layer, "self_attn.o_proj")
        return found

    def _feed_forward(self, layer: int, states: Floats) -> Floats:
        gate, up = (states @ self._matrix(layer, f"mlp.{name}_proj") for name in ("gate", "up"))
        found: Floats = (gate / (1 + np.exp(-gate)) * up) @ self._matrix(layer, "mlp.down_proj")
        return found

    def _heads(self, layer: int, name: str, states: Floats) -> Floats:
        found = states @ self._matrix(layer, f"self_attn.{name}")
        return found.reshape(len(states), -1, self.config["head_dim"]).transpose(1, 0, 2)

    def _matrix(self, layer: int, name: str) -> Floats:
        return self.weights[f"model.layers.{layer}.{name}.weight"].T

    def _norm(self, states: Floats, name: str) -> Floats:
        size = np.sqrt((states**2).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        found: Floats = states / size * self.weights[f"model.{name}.weight"]
        return found

    def _theta(self) -> float:
        return float(self.config["rope_theta"])


def rotated(states: Floats, theta: float) -> Floats:
    """Heads with rotary embeddings: [heads, tokens, size]."""
    half = states.shape[-1] // 2
    angles = np.outer(np.arange(states.shape[1]), theta ** (-np.arange(half) / half))
    first, second = states[..., :half], states[..., half:]
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
