"""Tests of the check of a checkpoint's tensors: names, shapes and number formats on each rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.backends.checkpoints.configuration import CheckpointError, CheckpointExpectation
from enginery.backends.checkpoints.verify import verify_checkpoint
from tests.support.models.checkpoints import (
    Layout,
    rank_layout,
    source_layout,
    write_checkpoint,
    write_source,
    write_tensors,
)

FP8_TWICE = CheckpointExpectation("bfloat16", "FP8", tensor_parallel=2)
PLAIN = CheckpointExpectation("bfloat16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def differences(checkpoint: Path, source: Path, expected: CheckpointExpectation) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(checkpoint, source, expected)
    return caught.value.differences


def changed(checkpoint: Path, rank: int, change: Callable[[Layout], None], *, ranks: int = 2, fp8: bool = True) -> Path:
    """A copy of the checkpoint in which one file has another header."""
    layout = rank_layout(ranks, fp8=fp8)
    change(layout)
    write_tensors(checkpoint / f"rank{rank}.safetensors", layout)
    return checkpoint


def test_two_ranks_in_fp8_are_verified(tmp_path: Path, source: Path) -> None:
    facts = verify_checkpoint(write_checkpoint(tmp_path / "made", 2, fp8=True), source, FP8_TWICE)
    assert (facts["ranks"], facts["tensors"], facts["quant_algo"]) == (2, 74, "FP8")


def test_a_missing_rank_is_named(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", 2, fp8=True)
    (made / "rank1.safetensors").unlink()
    assert differences(made, source, FP8_TWICE) == ("rank1.safetensors: it is missing",)


def test_a_rank_too_many_is_named(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made")
    write_tensors(made / "rank1.safetensors", rank_layout())
    assert differences(made, source, PLAIN) == ("rank1.safetensors: there should be 1 ranks only",)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_rank_is_named(tmp_path: Path, source: Path, kept: int) -> None:
    made = write_checkpoint(tmp_path / "made", 2, fp8=True)
    whole = (made / "rank1.safetensors").read_bytes()
    (made / "rank1.safetensors").write_bytes(whole[:kept])
    found = differences(made, source, FP8_TWICE)
    assert len(found) == 1
    assert found[0].startswith("rank1.safetensors: it")


@pytest.mark.parametrize("name", sorted(rank_layout(2, fp8=True)))
def test_any_missing_tensor_is_named(tmp_path: Path, source: Path, name: str) -> None:
    made = changed(write_checkpoint(tmp_path / "made", 2, fp8=True), 1, lambda layout: layout.__delitem__(name))
    assert differences(made, source, FP8_TWICE) == (f"rank1.safetensors: {name} is missing",)


@pytest.mark.parametrize("name", sorted(rank_layout(2)))
def test_any_tensor_that_was_not_shared_out_right_is_named(tmp_path: Path, source: Path, name: str) -> None:
    def doubled(layout: Layout) -> None:
        dtype, shape = layout[name]
        layout[name] = (dtype, (shape[0] * 2, *shape[1:]))

    made = changed(write_checkpoint(tmp_path / "made", 2, fp8=True), 0, doubled)
    (found,) = differences(made, source, FP8_TWICE)
    assert found.startswith(f"rank0.safetensors: {name} is ")
    assert "expected the shape" in found


def test_a_matrix_split_along_the_wrong_side_is_named(tmp_path: Path, source: Path) -> None:
    name = "transformer.layers.0.attention.dense.weight"
    made = changed(
        write_checkpoint(tmp_path / "made", 2, fp8=True),
        1,
        lambda layout: layout.update({name: ("F8_E4M3", (128, 256))}),
    )
    (found,) = differences(made, source, FP8_TWICE)
    assert found == f"rank1.safetensors: {name} is F8_E4M3 [128, 256], expected the shape [256, 128]"


def test_weights_that_were_left_unquantized_are_named(tmp_path: Path, source: Path) -> None:
    name = "transformer.layers.1.mlp.fc.weight"
    made = changed(
        write_checkpoint(tmp_path / "made", 2, fp8=True), 0, lambda layout: layout.update({name: ("BF16", (256, 256))})
    )
    (found,) = differences(made, source, FP8_TWICE)
    assert f"{name} is BF16 [256, 256], expected F8_E4M3" in found


def test_another_number_format_than_asked_is_named(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", dtype="float16")
    found = differences(made, source, CheckpointExpectation("float16"))
    assert len(found) == 17
    assert all("expected F16" in line for line in found)


def test_a_quantized_cache_needs_its_scales(tmp_path: Path, source: Path) -> None:
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    made = write_checkpoint(tmp_path / "made", fp8=True, quantization=quantization)
    found = differences(made, source, CheckpointExpectation("bfloat16", "FP8", "FP8"))
    assert found == tuple(
        f"rank0.safetensors: transformer.layers.{layer}.attention.kv_cache_scaling_factor is missing"
        for layer in (0, 1)
    )


def test_a_whole_embedding_on_each_rank_is_as_good(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", 2, fp8=True, use_parallel_embedding=False)
    for rank in (0, 1):
        changed(made, rank, lambda layout: layout.update({"transformer.vocab_embedding.weight": ("BF16", (450, 256))}))
    verify_checkpoint(made, source, FP8_TWICE)


def test_an_embedding_split_along_the_hidden_side_is_as_good(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", 2, fp8=True, embedding_sharding_dim=1)
    for rank in (0, 1):
        changed(made, rank, lambda layout: layout.update({"transformer.vocab_embedding.weight": ("BF16", (450, 128))}))
    verify_checkpoint(made, source, FP8_TWICE)


def test_a_shared_embedding_needs_no_last_layer_if_the_model_has_none(tmp_path: Path) -> None:
    tied = write_source(tmp_path / "tied", tie_word_embeddings=True)
    made = write_checkpoint(tmp_path / "made", share_embedding_table=True)
    changed(made, 0, lambda layout: layout.__delitem__("lm_head.weight"), ranks=1, fp8=False)
    verify_checkpoint(made, tied, PLAIN)


def test_a_class_that_is_not_known_is_tied_if_its_weights_have_no_last_layer(tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"architectures": ["OtherForCausalLM"], "model_type": "other", "tie_word_embeddings": ...}
    own_head = source_layout()
    without = {name: value for name, value in own_head.items() if name != "lm_head.weight"}
    made = write_checkpoint(tmp_path / "made", share_embedding_table=True)
    changed(made, 0, lambda layout: layout.__delitem__("lm_head.weight"), ranks=1, fp8=False)
    verify_checkpoint(made, write_source(tmp_path / "tied", without, **unknown), PLAIN)
    (found,) = differences(made, write_source(tmp_path / "not", own_head, **unknown), PLAIN)
    assert "share_embedding_table is true" in found


def test_a_known_class_says_whether_its_last_layer_is_its_first_where_the_file_does_not(tmp_path: Path) -> None:
    gemma: dict[str, Any] = {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "tie_word_embeddings": ...}
    made = write_checkpoint(tmp_path / "made", share_embedding_table=True)
    changed(made, 0, lambda layout: layout.__delitem__("lm_head.weight"), ranks=1, fp8=False)
    verify_checkpoint(made, write_source(tmp_path / "gemma", **gemma), PLAIN)
    (found,) = differences(made, write_source(tmp_path / "llama", tie_word_embeddings=...), PLAIN)
    assert "share_embedding_table is true" in found


def test_a_last_layer_lost_on_the_way_is_named_for_a_tied_model_too(tmp_path: Path) -> None:
    tied = write_source(tmp_path / "tied", tie_word_embeddings=True)
    made = write_checkpoint(tmp_path / "made")
    changed(made, 0, lambda layout: layout.__delitem__("lm_head.weight"), ranks=1, fp8=False)
    assert differences(made, tied, PLAIN) == ("rank0.safetensors: lm_head.weight is missing",)


def test_biases_of_the_model_must_be_there(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", attention_bias=True, mlp_bias=True)
    found = differences(write_checkpoint(tmp_path / "made"), source, PLAIN)
    assert "rank0.safetensors: transformer.layers.0.attention.qkv.bias is missing" in found
    assert "rank0.safetensors: transformer.layers.1.mlp.gate.bias is missing" in found


def test_norms_of_queries_and_keys_that_a_converter_drops_are_named(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architectures=["Qwen3ForCausalLM"])
    found = differences(write_checkpoint(tmp_path / "made"), source, PLAIN)
    assert "rank0.safetensors: transformer.layers.0.attention.q_layernorm.weight is missing" in found
    assert len(found) == 4


def test_layers_are_shared_out_over_stages(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", mapping={"world_size": 2, "tp_size": 1, "pp_size": 2})
    first = {name: value for name, value in rank_layout().items() if "layers.1" not in name}
    last = dict(first)
    first.pop("lm_head.weight")
    first.pop("transformer.ln_f.weight")
    last.pop("transformer.vocab_embedding.weight")
    write_tensors(made / "rank0.safetensors", first)
    write_tensors(made / "rank1.safetensors", last)
    expected = CheckpointExpectation("bfloat16", pipeline_parallel=2)
    verify_checkpoint(made, source, expected)
    write_tensors(made / "rank1.safetensors", first)
    assert len(differences(made, source, expected)) == 2


def quantized(layout: Layout, quantize: Callable[[str, int, int], Layout]) -> Layout:
    """The layout in which every matrix of the layers is replaced."""
    kept: Layout = {}
    for name, (dtype, shape) in layout.items():
        if "layers" in name and len(shape) == 2:
            kept.update(quantize(name.removesuffix(".weight"), *shape))
        else:
            kept[name] = (dtype, shape)
    return kept


QUANTIZED: dict[str, Callable[[str, int, int], Layout]] = {
    "W8A8_SQ_PER_CHANNEL": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (rows, columns)),
        f"{name}.weights_scaling_factor": ("F32", (rows,)),
        f"{name}.activation_scaling_factor": ("F32", (1,)),
        f"{name}.prequant_scaling_factor": ("BF16", (columns,)),
    },
    "W4A16_AWQ": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (rows // 2, columns)),
        f"{name}.weights_scaling_factor": ("F32", (rows, columns // 128)),
        f"{name}.prequant_scaling_factor": ("BF16", (columns,)),
    },
    "W4A8_AWQ": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (rows // 2, columns)),
        f"{name}.weights_scaling_factor": ("F32", (rows, columns // 128)),
        f"{name}.prequant_scaling_factor": ("BF16", (columns,)),
        f"{name}.activation_scaling_factor": ("F32", (1,)),
        f"{name}.weights_scaling_factor_2": ("F32", (1,)),
    },
    "NVFP4": lambda name, rows, columns: {
        f"{name}.weight": ("U8", (rows, columns // 2)),
        f"{name}.weights_scaling_factor": ("F8_E4M3", (rows, columns // 16)),
        f"{name}.activation_scaling_factor": ("F32", ()),
        f"{name}.weights_scaling_factor_2": ("F32", ()),
    },
    "W8A16": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (columns, rows)),
        f"{name}.per_channel_scale": ("BF16", (rows,)),
    },
    "W4A16": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (columns, rows // 2)),
        f"{name}.per_channel_scale": ("BF16", (rows,)),
    },
}


def quantized_checkpoint(directory: Path, algorithm: str) -> tuple[Path, Layout]:
    quantization = {"quant_algo": algorithm, "exclude_modules": ["lm_head"]}
    made = write_checkpoint(directory, quantization=quantization)
    layout = quantized(rank_layout(), QUANTIZED[algorithm])
    write_tensors(made / "rank0.safetensors", layout)
    return made, layout


@pytest.mark.parametrize("algorithm", sorted(QUANTIZED))
def test_each_algorithm_has_its_own_tensors(tmp_path: Path, source: Path, algorithm: str) -> None:
    made, _ = quantized_checkpoint(tmp_path / "made", algorithm)
    verify_checkpoint(made, source, CheckpointExpectation("bfloat16", algorithm))


@pytest.mark.parametrize("algorithm", sorted(QUANTIZED))
def test_a_scale_of_any_algorithm_that_is_missing_is_named(tmp_path: Path, source: Path, algorithm: str) -> None:
    made, layout = quantized_checkpoint(tmp_path / "made", algorithm)
    scales = [name for name in layout if "layers.1.mlp.proj." in name and not name.endswith(".weight")]
    for scale in scales:
        left = {name: value for name, value in layout.items() if name != scale}
        write_tensors(made / "rank0.safetensors", left)
        found = differences(made, source, CheckpointExpectation("bfloat16", algorithm))
        assert found == (f"rank0.safetensors: {scale} is missing",)


@pytest.mark.parametrize("algorithm", sorted(QUANTIZED))
def test_a_packed_weight_of_another_size_is_named(tmp_path: Path, source: Path, algorithm: str) -> None:
    made, layout = quantized_checkpoint(tmp_path / "made", algorithm)
    name = "transformer.layers.0.attention.qkv.weight"
    dtype, (rows, columns) = layout[name]
    write_tensors(made / "rank0.safetensors", {**layout, name: (dtype, (rows // 2, columns))})
    (found,) = differences(made, source, CheckpointExpectation("bfloat16", algorithm))
    assert name in found


def test_weights_that_the_loader_is_to_quantize_may_be_plain(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", quantization={"quant_algo": "W4A16", "kv_cache_quant_algo": None})
    verify_checkpoint(made, source, CheckpointExpectation("bfloat16", "W4A16"))


def test_experts_are_shared_out(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architectures=["MixtralForCausalLM"], num_local_experts=4)
    layout = {name: value for name, value in rank_layout(2).items() if ".mlp." not in name}
    for layer in (0, 1):
        prefix = f"transformer.layers.{layer}.mlp"
        layout[f"{prefix}.router.weight"] = ("F32", (4, 256))
        layout[f"{prefix}.fc.weight"] = ("BF16", (4, 512, 256))
        layout[f"{prefix}.proj.weight"] = ("BF16", (4, 256, 256))
    made = write_checkpoint(tmp_path / "made", 2)
    for rank in (0, 1):
        write_tensors(made / f"rank{rank}.safetensors", layout)
    expected = CheckpointExpectation("bfloat16", tensor_parallel=2)
    verify_checkpoint(made, source, expected)
    layout["transformer.layers.1.mlp.proj.weight"] = ("BF16", (3, 256, 256))
    write_tensors(made / "rank1.safetensors", layout)
    assert len(differences(made, source, expected)) == 1


def test_heads_of_keys_and_values_are_repeated_for_more_gpus_than_there_are(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    made = write_checkpoint(tmp_path / "made", 4)
    layout = rank_layout(4)
    for layer in (0, 1):
        layout[f"transformer.layers.{layer}.attention.qkv.weight"] = ("BF16", (3 * 64, 256))
    for rank in range(4):
        write_tensors(made / f"rank{rank}.safetensors", layout)
    verify_checkpoint(made, source, CheckpointExpectation("bfloat16", tensor_parallel=4))
