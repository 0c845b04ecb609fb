"""Faulty copies of a Hugging Face model, one for each way in which a conversion or a mistake can spoil it.

    write_faulty(model, directory, "tensor zeroed")

Only Llama-like models in one `model.safetensors` are understood. The faults of one layer are in the middle layer.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

SEED = 11
ROPE_FACTOR = 10.0
WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
SQUARE = "self_attn.o_proj"


@dataclass(frozen=True)
class Model:
    """A model in memory, which a fault changes in place.

    Attributes:
        config: what is in `config.json`.
        tensors: the weights by name.
        tokenizer: what is in `tokenizer.json`.
        tokenizer_config: what is in `tokenizer_config.json`.
        layer: the number of the layer that is spoiled.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: dict[str, Any]
    tokenizer_config: dict[str, Any]
    layer: int

    @property
    def head_size(self) -> int:
        """How many rows of a projection are one attention head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"])


Change = Callable[[Model], None]


@dataclass(frozen=True)
class Fault:
    """A fault: what it does to a model, and the same in words."""

    change: Change
    told: str


def name_of(part: str, layer: int) -> str:
    """The name of a layer's tensor, such as of `mlp.down_proj`."""
    return f"model.layers.{layer}.{part}.weight"


def tensor(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A change of one tensor of the layer."""

    def apply(model: Model) -> None:
        name = name_of(part, model.layer)
        model.tensors[name] = np.ascontiguousarray(change(model.tensors[name]))

    return apply


def several(*changes: Change) -> Change:
    """Changes one after another."""

    def apply(model: Model) -> None:
        for change in changes:
            change(model)

    return apply


def missing(part: str) -> Change:
    """The layer has no such tensor."""
    return lambda model: model.tensors.__delitem__(name_of(part, model.layer))


def zeroed(part: str) -> Change:
    """The tensor is zero."""
    return tensor(part, np.zeros_like)


def scaled(part: str, factor: float) -> Change:
    """The tensor is too large by a factor."""
    return tensor(part, lambda weight: weight * np.asarray(factor, weight.dtype))


def transposed(part: str) -> Change:
    """The tensor, which is square, has rows for columns."""
    return tensor(part, np.transpose)


def swapped(part: str) -> Change:
    """The tensor and that of the next layer are exchanged."""

    def apply(model: Model) -> None:
        this, following = name_of(part, model.layer), name_of(part, model.layer + 1)
        tensors = model.tensors
        tensors[this], tensors[following] = tensors[following], tensors[this]

    return apply


def kv_heads_in_wrong_order(model: Model) -> None:
    """The key and value heads of the layer are in reverse order, so that each query reads another head."""
    for part in ("self_attn.k_proj", "self_attn.v_proj"):
        tensor(part, lambda weight: weight.reshape(-1, model.head_size, weight.shape[1])[::-1].reshape(weight.shape))(
            model
        )


def rotary_base_wrong(model: Model) -> None:
    """Positions are rotated with another base."""
    base = model.config["rope_theta"] * ROPE_FACTOR
    model.config["rope_theta"] = base
    if "rope_parameters" in model.config:
        model.config["rope_parameters"]["rope_theta"] = base


def head_permuted(model: Model) -> None:
    """The rows of the output layer belong to other tokens."""
    _untie(model)
    model.tensors[HEAD] = _shuffled_rows(model.tensors[HEAD])


def head_of_another_model(model: Model) -> None:
    """The output layer is random, with rows as long as they were."""
    _untie(model)
    head = model.tensors[HEAD]
    other = np.random.default_rng(SEED).standard_normal(head.shape, dtype=np.float32)
    other *= np.linalg.norm(head, axis=1, keepdims=True) / np.linalg.norm(other, axis=1, keepdims=True)
    model.tensors[HEAD] = other.astype(head.dtype)


def head_tied(model: Model) -> None:
    """The embedding is used as the output layer too, although the model has one of its own."""
    model.tensors[HEAD] = model.tensors[EMBEDDING].copy()


def embedding_permuted(model: Model) -> None:
    """The rows of the embedding belong to other tokens."""
    _untie(model)
    model.tensors[EMBEDDING] = _shuffled_rows(model.tensors[EMBEDDING])


def another_tokenizer(model: Model) -> None:
    """The pieces of text have the numbers of others; those of special tokens are as they were."""
    vocabulary = model.tokenizer["model"]["vocab"]
    special = {token["id"] for token in model.tokenizer["added_tokens"]}
    ordinary = [piece for piece, number in vocabulary.items() if number not in special]
    numbers = [vocabulary[piece] for piece in ordinary]
    vocabulary.update(zip(ordinary, np.random.default_rng(SEED).permutation(numbers).tolist(), strict=True))


def wrong_chat_template(model: Model) -> None:
    """The chat template is one that the model was not trained with."""
    model.tokenizer_config["chat_template"] = (
        "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
    )


def _untie(model: Model) -> None:
    model.tensors.setdefault(HEAD, model.tensors[EMBEDDING].copy())
    model.config["tie_word_embeddings"] = False


def _shuffled_rows(weight: np.ndarray) -> np.ndarray:
    return weight[np.random.default_rng(SEED).permutation(len(weight))]


MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

FAULTS: dict[str, Fault] = {
    "tensor missing": Fault(missing("mlp.down_proj"), "a layer has no down projection"),
    "tensor zeroed": Fault(zeroed("mlp.down_proj"), "a layer's down projection is zero"),
    "tensor swapped": Fault(swapped("mlp.down_proj"), "two layers have each other's down projection"),
    "tensor transposed": Fault(transposed(SQUARE), "a layer's output projection of the attention is transposed"),
    "tensor scaled": Fault(scaled("mlp.down_proj", 2.0), "a layer's down projection is scaled by two"),
    "MLP zeroed": Fault(several(*map(zeroed, MLP)), "a layer's feed-forward part is zero"),
    "attention zeroed": Fault(zeroed(SQUARE), "a layer's attention adds nothing"),
    "KV heads in the wrong order": Fault(kv_heads_in_wrong_order, "a layer's key and value heads are reversed"),
    "norm lost": Fault(tensor("input_layernorm", np.ones_like), "a layer's norm is all ones"),
    "rotary base wrong": Fault(rotary_base_wrong, "the rotary base is ten times too large"),
    "head permuted": Fault(head_permuted, "the output layer's rows are in another order"),
    "head of another model": Fault(head_of_another_model, "the output layer is another model's"),
    "head tied": Fault(head_tied, "the embedding is used as the output layer"),
    "embedding permuted": Fault(embedding_permuted, "the embedding's rows are in another order"),
    "another tokenizer": Fault(another_tokenizer, "the tokenizer is another model's"),
    "wrong chat template": Fault(wrong_chat_template, "the chat template is another model's"),
}
"""The faults by name. A model whose output layer is the embedding has no fault `head tied`: it is so."""

TENSOR_FAULTS: dict[str, Callable[[str], Change]] = {
    "missing": missing,
    "zeroed": zeroed,
    "swapped": swapped,
    "scaled by two": lambda part: scaled(part, 2.0),
    "halved": lambda part: scaled(part, 0.5),
}
"""The faults that any tensor of a layer can have: pass the part's name, such as `self_attn.q_proj`."""


def write_faulty(model: Path, directory: Path, fault: str | Change, layer: int | None = None) -> Path:
    """Write a copy of a model with a fault, given by its name in `FAULTS` or as a change; returns the copy."""
    change = FAULTS[fault].change if isinstance(fault, str) else fault
    shutil.copytree(model, directory)
    spoiled = read_model(model, layer)
    change(spoiled)
    save_file(spoiled.tensors, directory / WEIGHTS, metadata={"format": "pt"})
    for name, contents in (
        ("config.json", spoiled.config),
        ("tokenizer.json", spoiled.tokenizer),
        ("tokenizer_config.json", spoiled.tokenizer_config),
    ):
        (directory / name).write_text(json.dumps(contents, ensure_ascii=False, indent=1), encoding="utf-8")
    return directory


def read_model(model: Path, layer: int | None = None) -> Model:
    """Read a model; the layer to spoil is the one before the middle when it is not given."""
    config, tokenizer, tokenizer_config = (
        json.loads((model / name).read_text(encoding="utf-8"))
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    return Model(
        config=config,
        tensors=load_file(model / WEIGHTS),
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        layer=(config["num_hidden_layers"] - 1) // 2 if layer is None else layer,
    )
