"""Tests of the planted faults: each spoils what it says, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.faulty.models import FAULTS, HEAD, Model, read_model, write_faulty
from tests.support.paths import TINY_LLAMA

LAYER = "model.layers.0."
NEXT = "model.layers.1."
CHANGED = {
    "tensor missing": {f"{LAYER}mlp.down_proj.weight"},
    "tensor zeroed": {f"{LAYER}mlp.down_proj.weight"},
    "tensor swapped": {f"{LAYER}mlp.down_proj.weight", f"{NEXT}mlp.down_proj.weight"},
    "tensor transposed": {f"{LAYER}self_attn.o_proj.weight"},
    "tensor scaled": {f"{LAYER}mlp.down_proj.weight"},
    "MLP zeroed": {f"{LAYER}mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
    "attention zeroed": {f"{LAYER}self_attn.o_proj.weight"},
    "KV heads in the wrong order": {f"{LAYER}self_attn.{part}_proj.weight" for part in "kv"},
    "norm lost": {f"{LAYER}input_layernorm.weight"},
    "rotary base wrong": {"config.json"},
    "head permuted": {HEAD},
    "head of another model": {HEAD},
    "head tied": {HEAD},
    "embedding permuted": {"model.embed_tokens.weight"},
    "another tokenizer": {"tokenizer.json"},
    "wrong chat template": {"tokenizer_config.json"},
}


@pytest.fixture(scope="module")
def good() -> Model:
    return read_model(TINY_LLAMA)


def differences(good: Model, faulty: Model) -> set[str]:
    files = {
        "config.json": good.config == faulty.config,
        "tokenizer.json": good.tokenizer == faulty.tokenizer,
        "tokenizer_config.json": good.tokenizer_config == faulty.tokenizer_config,
    }
    tensors = good.tensors.keys() | faulty.tensors.keys()
    return {name for name, same in files.items() if not same} | {
        name
        for name in tensors
        if name not in faulty.tensors or not np.array_equal(good.tensors[name], faulty.tensors[name])
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_spoils_what_it_says_and_nothing_else(fault: str, good: Model, tmp_path: Path) -> None:
    faulty = read_model(write_faulty(TINY_LLAMA, tmp_path / "faulty", fault))
    assert differences(good, faulty) == CHANGED[fault]


def test_a_fault_can_be_in_any_layer(good: Model, tmp_path: Path) -> None:
    faulty = read_model(write_faulty(TINY_LLAMA, tmp_path / "faulty", "tensor zeroed", layer=1))
    assert differences(good, faulty) == {f"{NEXT}mlp.down_proj.weight"}


def test_another_tokenizer_has_the_same_pieces_and_special_tokens(good: Model, tmp_path: Path) -> None:
    faulty = read_model(write_faulty(TINY_LLAMA, tmp_path / "faulty", "another tokenizer"))
    ours, others = (model.tokenizer["model"]["vocab"] for model in (good, faulty))
    assert sorted(ours) == sorted(others)
    assert sorted(ours.values()) == sorted(others.values())
    special = [token["content"] for token in good.tokenizer["added_tokens"]]
    assert [ours.get(token) for token in special] == [others.get(token) for token in special]


def test_a_model_with_a_tied_output_layer_gets_one_of_its_own(good: Model, tmp_path: Path) -> None:
    tied = write_faulty(TINY_LLAMA, tmp_path / "tied", lambda model: model.tensors.__delitem__(HEAD))
    config = json.loads((tied / "config.json").read_text(encoding="utf-8"))
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8")
    faulty = read_model(write_faulty(tied, tmp_path / "faulty", "head permuted"))
    assert faulty.tensors[HEAD].shape == good.tensors[HEAD].shape
    assert faulty.config["tie_word_embeddings"] is False
