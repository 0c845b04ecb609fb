"""The weights of a checkpoint are compared with the model's, by value, in every format that converters write."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from enginery.backends.checkpoints.configuration import CheckpointError, CheckpointExpectation, HfExpectation
from enginery.backends.checkpoints.values import checkpoint_values, export_values
from enginery.backends.checkpoints.verify import verify_checkpoint, verify_hf_checkpoint
from enginery.models import ModelFacts
from tests.support.models.checkpoints import write_checkpoint, write_source
from tests.support.paths import TINY_LLAMA
from tests.support.trtllm.files import quantization, weights

FORMATS = (
    None,
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "W8A8_SQ_PER_CHANNEL",
    "W8A16",
    "W4A16",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "NVFP4",
)
CONFIG = json.loads((TINY_LLAMA / "config.json").read_text())
MODEL = ModelFacts.from_config(CONFIG)
LAYER = "transformer.layers.1"
BY_MODELOPT = {"producer": {"name": "modelopt"}}

Tensors = dict[str, Any]
Fault = Callable[[Tensors], None]


def write(  # noqa: PLR0913  each of them changes the checkpoint
    directory: Path,
    algorithm: str | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    *,
    source: Callable[[Tensors], None] = lambda _: None,
    stored: Fault = lambda _: None,
    **config: Any,
) -> Path:
    """Write a checkpoint of tiny-llama. `source` changes the weights before the conversion, `stored` after it."""
    directory.mkdir()
    model = {name: np.array(array) for name, array in weights.read_model(TINY_LLAMA, "float32").items()}
    source(model)
    about = {**CONFIG, **config}
    for rank, place in enumerate(weights.places(tensor_parallel, pipeline_parallel)):
        own = weights.rank_weights(model, about, place)
        made = {name: np.array(array) for name, array in quantization.quantized(own, algorithm, None, 64).items()}
        stored(made)
        save_file(
            {name: np.ascontiguousarray(array) for name, array in made.items()}, directory / f"rank{rank}.safetensors"
        )
    return directory


def differences(
    checkpoint: Path, algorithm: str | None = None, tensor_parallel: int = 1, pipeline_parallel: int = 1, **config: Any
) -> list[str]:
    expected = CheckpointExpectation(
        quant_algo=algorithm, tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel
    )
    return checkpoint_values(checkpoint, TINY_LLAMA, {**BY_MODELOPT, **config}, MODEL, expected)[0]


@pytest.mark.parametrize("algorithm", FORMATS)
def test_a_good_checkpoint_has_no_differences(tmp_path: Path, algorithm: str | None) -> None:
    checkpoint = write(tmp_path / "good", algorithm)
    expected = CheckpointExpectation(quant_algo=algorithm)
    found, facts = checkpoint_values(checkpoint, TINY_LLAMA, BY_MODELOPT, MODEL, expected)
    assert found == []
    assert facts["values_compared"] == 3 + 2 * 9
    assert "values_not_compared" not in facts


@pytest.mark.parametrize(("tensor_parallel", "pipeline_parallel"), [(2, 1), (4, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("algorithm", [None, "FP8", "W4A16_AWQ", "W8A16"])
def test_the_parts_of_all_ranks_are_compared(
    tmp_path: Path, algorithm: str | None, tensor_parallel: int, pipeline_parallel: int
) -> None:
    checkpoint = write(tmp_path / "good", algorithm, tensor_parallel, pipeline_parallel)
    assert differences(checkpoint, algorithm, tensor_parallel, pipeline_parallel) == []


@pytest.mark.parametrize("dimension", [0, 1])
def test_an_embedding_that_the_ranks_share_is_compared(tmp_path: Path, dimension: int) -> None:
    config: dict[str, Any] = {"use_parallel_embedding": True, "embedding_sharding_dim": dimension}
    checkpoint = write(tmp_path / "good", None, 2, **config)
    assert differences(checkpoint, None, 2, **config) == []


def exchange(first: str, second: str) -> Fault:
    def change(model: Tensors) -> None:
        model[first], model[second] = model[second], model[first]

    return change


def times(name: str, factor: float) -> Fault:
    def change(model: Tensors) -> None:
        model[name] = np.asarray(model[name] * np.float32(factor))

    return change


def transpose(name: str) -> Fault:
    def change(model: Tensors) -> None:
        model[name] = model[name].T.copy()

    return change


def reverse_heads(name: str) -> Fault:
    def change(model: Tensors) -> None:
        heads = model[name].reshape(-1, 32, model[name].shape[1])
        model[name] = heads[::-1].reshape(model[name].shape).copy()

    return change


ATTENTION, FEED_FORWARD = "model.layers.1.self_attn", "model.layers.1.mlp"
SOURCE_FAULTS: dict[str, tuple[Fault, str, str]] = {
    "zeroed": (times(f"{FEED_FORWARD}.down_proj.weight", 0), f"{FEED_FORWARD}.down_proj.weight", "all zero"),
    "scaled": (times(f"{ATTENTION}.q_proj.weight", 2), f"{ATTENTION}.q_proj.weight", "scaled by 2"),
    "transposed": (transpose(f"{ATTENTION}.o_proj.weight"), f"{ATTENTION}.o_proj.weight", "transposed"),
    "swapped": (
        exchange(f"{FEED_FORWARD}.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        f"{FEED_FORWARD}.up_proj.weight",
        "those of model.layers.0.mlp.up_proj.weight",
    ),
    "gate and up exchanged": (
        exchange(f"{FEED_FORWARD}.up_proj.weight", f"{FEED_FORWARD}.gate_proj.weight"),
        f"{FEED_FORWARD}.gate_proj.weight",
        f"those of {FEED_FORWARD}.up_proj.weight",
    ),
    "keys and values exchanged": (
        exchange(f"{ATTENTION}.k_proj.weight", f"{ATTENTION}.v_proj.weight"),
        f"{ATTENTION}.k_proj.weight",
        f"those of {ATTENTION}.v_proj.weight",
    ),
    "KV heads in another order": (
        reverse_heads(f"{ATTENTION}.k_proj.weight"),
        f"{ATTENTION}.k_proj.weight",
        "its rows in another order",
    ),
    "lm_head is the embedding": (
        lambda model: model.update({"lm_head.weight": model["model.embed_tokens.weight"]}),
        "lm_head.weight",
        "relative error",
    ),
    "a norm lost": (
        times("model.layers.1.input_layernorm.weight", 0),
        "model.layers.1.input_layernorm.weight",
        "all zero",
    ),
}


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
@pytest.mark.parametrize("algorithm", [None, "FP8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "NVFP4"])
def test_a_tensor_that_is_not_the_models_is_named_with_what_it_looks_like(
    tmp_path: Path, algorithm: str | None, fault: str
) -> None:
    change, name, looks = SOURCE_FAULTS[fault]
    found = differences(write(tmp_path / "bad", algorithm, source=change), algorithm)
    (told,) = [one for one in found if one.startswith(name)]
    assert looks in told


@pytest.mark.parametrize("fault", ["zeroed", "scaled", "swapped", "gate and up exchanged", "KV heads in another order"])
@pytest.mark.parametrize("algorithm", ["W8A16", "W4A16"])
def test_weights_that_are_packed_for_a_gpu_are_told_by_the_scales_of_their_rows(
    tmp_path: Path, algorithm: str, fault: str
) -> None:
    change, name, _ = SOURCE_FAULTS[fault]
    found = differences(write(tmp_path / "bad", algorithm, source=change), algorithm)
    assert any(one.startswith(name) for one in found)


@pytest.mark.parametrize(
    ("algorithm", "scale"),
    [
        ("FP8", "weights_scaling_factor"),
        ("FP8_PER_CHANNEL_PER_TOKEN", "per_channel_scale"),
        ("W8A8_SQ_PER_CHANNEL", "weights_scaling_factor"),
        ("W4A16_AWQ", "weights_scaling_factor"),
        ("W4A8_AWQ", "weights_scaling_factor"),
        ("W8A16", "per_channel_scale"),
    ],
)
def test_one_wrong_scale_is_found(tmp_path: Path, algorithm: str, scale: str) -> None:
    def change(made: Tensors) -> None:
        scales = made[f"{LAYER}.mlp.proj.{scale}"].reshape(-1)
        scales[len(scales) // 2] *= 3

    found = differences(write(tmp_path / "bad", algorithm, stored=change), algorithm)
    assert len(found) == 1
    assert found[0].startswith(f"{FEED_FORWARD}.down_proj.weight")


def test_one_wrong_scale_of_nvfp4_is_found(tmp_path: Path) -> None:
    def change(made: Tensors) -> None:
        scales = made[f"{LAYER}.mlp.proj.weights_scaling_factor"]
        scales[3, 2] = scales[3, 2].astype(np.float32) / 8

    (told,) = differences(write(tmp_path / "bad", "NVFP4", stored=change), "NVFP4")
    assert "row 3, columns 32 to 47" in told


def test_int4_of_one_layer_that_is_all_zero_is_found(tmp_path: Path) -> None:
    def change(made: Tensors) -> None:
        for name in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
            made[f"{LAYER}.{name}.weight"][:] = 0

    found = differences(write(tmp_path / "bad", "W4A16_AWQ", stored=change), "W4A16_AWQ")
    assert len(found) == 7
    assert all("all zero" in one for one in found)


def test_ranks_that_are_exchanged_are_found_on_each_rank(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "bad", None, 2)
    first, second = checkpoint / "rank0.safetensors", checkpoint / "rank1.safetensors"
    shutil.move(first, checkpoint / "kept")
    shutil.move(second, first)
    shutil.move(checkpoint / "kept", second)
    found = differences(checkpoint, None, 2)
    assert any("q_proj.weight on rank 0 is not the model's" in one for one in found)
    assert any("down_proj.weight on rank 1 is not the model's" in one for one in found)


def exported(directory: Path, change: Fault = lambda _: None) -> Path:
    """Write tiny-llama as ModelOpt exports it in FP8."""
    directory.mkdir()
    made: Tensors = {}
    for name, array in weights.read_model(TINY_LLAMA, "float32").items():
        if "_proj" not in name:
            made[name] = array
            continue
        stored = quantization.ALGORITHMS["FP8"](array, 1, np.dtype(np.float32))
        layer = name.removesuffix(".weight")
        made |= {name: stored["weight"], f"{layer}.weight_scale": stored["weights_scaling_factor"].reshape(())}
    made = {name: np.array(array) for name, array in made.items()}
    change(made)
    save_file(made, directory / "model.safetensors")
    return directory


def test_an_export_in_fp8_is_compared_under_its_own_names(tmp_path: Path) -> None:
    found, facts = export_values(exported(tmp_path / "good"), TINY_LLAMA)
    assert found == []
    assert facts["values_compared"] == 21


def test_a_wrong_scale_of_an_export_is_found(tmp_path: Path) -> None:
    (told,) = export_values(exported(tmp_path / "bad", times(f"{ATTENTION}.q_proj.weight_scale", 2)), TINY_LLAMA)[0]
    assert told.startswith(f"{ATTENTION}.q_proj.weight is not the model's: scaled by 2")


def test_the_error_lists_all_differences() -> None:
    error = CheckpointError(["a differs", "b differs"], subject="there", remedy="convert again")
    assert "2 differences" in str(error)


@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", "W8A8_SQ_PER_CHANNEL", "NVFP4"])
def test_weights_that_a_releases_own_script_packs_in_its_own_way_are_not_compared(
    tmp_path: Path, algorithm: str
) -> None:
    change, name, _ = SOURCE_FAULTS["zeroed"]
    checkpoint = write(tmp_path / "packed", algorithm, source=change)
    found, facts = checkpoint_values(checkpoint, TINY_LLAMA, {}, MODEL, CheckpointExpectation(quant_algo=algorithm))
    assert found == []
    assert facts["values_compared"] == 3 + 2 * 2
    assert name.replace("layers.1", "layers.0").rpartition("mlp")[0] in str(facts["values_not_compared"])


def spoil(path: Path, tensor: str) -> None:
    """Write ones over the first numbers of a tensor of zeros in bfloat16."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + length])[tensor]["data_offsets"]
    content[8 + length + begin : 8 + length + end] = b"\x80\x3f" * ((end - begin) // 2)
    path.write_bytes(content)


def test_the_check_of_a_checkpoint_stops_at_other_values(tmp_path: Path) -> None:
    source, checkpoint = write_source(tmp_path / "source"), write_checkpoint(tmp_path / "checkpoint")
    verify_checkpoint(checkpoint, source, CheckpointExpectation(dtype="bfloat16"))
    spoil(checkpoint / "rank0.safetensors", "transformer.layers.1.mlp.gate.weight")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is not the model's"):
        verify_checkpoint(checkpoint, source, CheckpointExpectation(dtype="bfloat16"))


def test_the_check_of_an_export_stops_at_other_values(tmp_path: Path) -> None:
    source, export = write_source(tmp_path / "source"), write_source(tmp_path / "export")
    verify_hf_checkpoint(export, source, HfExpectation())
    spoil(export / "model.safetensors", "model.norm.weight")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not the model's"):
        verify_hf_checkpoint(export, source, HfExpectation())


def test_a_norm_may_have_the_one_that_the_model_adds_only_in_models_that_add_it(tmp_path: Path) -> None:
    def add_one(model: Tensors) -> None:
        for name in [name for name in model if name.endswith("norm.weight")]:
            model[name] = model[name] + np.float32(1)

    checkpoint = write(tmp_path / "plus-one", source=add_one)
    gemma = replace(MODEL, architecture="GemmaForCausalLM")
    assert checkpoint_values(checkpoint, TINY_LLAMA, {}, gemma, CheckpointExpectation())[0] == []
    found = differences(checkpoint)
    assert [told.partition(" ")[0].rpartition(".")[0].rpartition(".")[2] for told in found].count("norm") == 1
    assert len(found) == 5
