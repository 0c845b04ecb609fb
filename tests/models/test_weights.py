"""Tests of what is found wrong in the tensors of a model's files, beside a correct model of the same shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.models.headers import Tensor
from enginery.models.tensors import architecture_faults
from enginery.models.weights import whole_weights_faults
from tests.support.models.checkpoints import SOURCE, Layout, source_layout, write_source, write_tensors

LOST = "model.layers.1.mlp.down_proj.weight"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def problems(directory: Path) -> list[str]:
    return [fault.problem for fault in whole_weights_faults(directory)]


def model(directory: Path, layout: Layout, **changes: Any) -> Path:
    return write_source(directory, layout, **changes)


def sharded(directory: Path, weight_map: dict[str, str], files: dict[str, Layout]) -> Path:
    write_source(directory)
    (directory / "model.safetensors").unlink()
    for name, layout in files.items():
        write_tensors(directory / name, layout)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def halves() -> tuple[Layout, Layout]:
    layout = source_layout()
    return (
        {name: about for name, about in layout.items() if "layers.1" not in name},
        {name: about for name, about in layout.items() if "layers.1" in name},
    )


def mapped(first: Layout, second: Layout) -> dict[str, str]:
    return {**dict.fromkeys(first, FIRST), **dict.fromkeys(second, SECOND)}


def test_a_whole_model_in_one_file_or_in_two_has_no_faults(tmp_path: Path) -> None:
    assert problems(write_source(tmp_path / "one")) == []
    first, second = halves()
    assert problems(sharded(tmp_path / "two", mapped(first, second), {FIRST: first, SECOND: second})) == []


@pytest.mark.parametrize(
    ("name", "dtype"), [("model.norm.weight", "I8"), ("model.norm.weight", "F8_E4M3"), (LOST, "I64")]
)
def test_a_tensor_that_must_hold_floats_and_does_not_is_a_fault(tmp_path: Path, name: str, dtype: str) -> None:
    layout = source_layout()
    found = problems(model(tmp_path / dtype, {**layout, name: (dtype, layout[name][1])}))
    assert len(found) == 1
    assert dtype in found[0]
    assert name in found[0]


def test_other_floats_than_the_config_says_are_no_fault(tmp_path: Path) -> None:
    layout = source_layout()
    mixed = {**layout, "model.norm.weight": ("F32", layout["model.norm.weight"][1])}
    assert problems(model(tmp_path / "mixed", mixed)) == []


def test_a_missing_tensor_is_named_once_whether_an_index_names_it_or_not(tmp_path: Path) -> None:
    first, second = halves()
    weight_map = mapped(first, second)
    second.pop(LOST)
    by_index = problems(sharded(tmp_path / "index", weight_map, {FIRST: first, SECOND: second}))
    assert by_index == [f"1 tensor that model.safetensors.index.json names is not in the file: {LOST} ({SECOND})"]
    weight_map.pop(LOST)
    needed = [f"1 tensor that LlamaForCausalLM of this config.json needs is missing: {LOST}"]
    assert problems(sharded(tmp_path / "unnamed", weight_map, {FIRST: first, SECOND: second})) == needed
    single = {name: about for name, about in source_layout().items() if name != LOST}
    assert problems(model(tmp_path / "single", single)) == needed


def test_a_tensor_in_another_file_than_the_index_says_is_reported(tmp_path: Path) -> None:
    first, second = halves()
    weight_map = mapped(first, second)
    first[LOST] = second.pop(LOST)
    (found,) = problems(sharded(tmp_path, weight_map, {FIRST: first, SECOND: second}))
    assert f"not in the file: {LOST} ({SECOND})" in found


def test_a_tensor_in_two_files_is_reported_with_both(tmp_path: Path) -> None:
    first, second = halves()
    weight_map = mapped(first, second)
    first[LOST] = second[LOST]
    (found,) = problems(sharded(tmp_path, weight_map, {FIRST: first, SECOND: second}))
    assert found == f"1 tensor is in more than one file: {LOST} ({FIRST} and {SECOND})"


def test_a_tensor_that_the_index_does_not_name_is_reported_but_not_a_buffer_of_older_checkpoints(
    tmp_path: Path,
) -> None:
    first, second = halves()
    weight_map = mapped(first, second)
    second["model.layers.1.self_attn.rotary_emb.inv_freq"] = ("F32", (32,))
    assert problems(sharded(tmp_path / "harmless", weight_map, {FIRST: first, SECOND: second})) == []
    weight_map["model.layers.0.self_attn.rotary_emb.inv_freq"] = FIRST  # which the files have no more
    assert problems(sharded(tmp_path / "lost", weight_map, {FIRST: first, SECOND: second})) == []
    second["another.weight"] = ("F32", (32,))
    (found,) = problems(sharded(tmp_path / "other", weight_map, {FIRST: first, SECOND: second}))
    assert found == "1 tensor is in the files, but model.safetensors.index.json does not name it: another.weight"


@pytest.mark.parametrize(
    ("tied", "head", "complete"),
    [(False, True, True), (False, False, False), (True, True, True), (True, False, True), (..., True, True),
     (..., False, False)],
)  # fmt: skip
def test_the_output_embedding_must_be_there_unless_it_is_tied(
    tmp_path: Path, *, tied: Any, head: bool, complete: bool
) -> None:
    layout = source_layout()
    if not head:
        layout.pop("lm_head.weight")
    found = problems(model(tmp_path, layout, tie_word_embeddings=tied))
    assert (found == []) == complete
    assert complete or "lm_head.weight" in found[0]


def test_of_two_tied_embeddings_either_one_is_enough(tmp_path: Path) -> None:
    layout = source_layout()
    layout.pop("model.embed_tokens.weight")
    assert problems(model(tmp_path / "tied", layout, tie_word_embeddings=True)) == []
    assert "model.embed_tokens.weight" in problems(model(tmp_path / "untied", layout))[0]


def test_many_missing_tensors_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    layout = {name: about for name, about in source_layout().items() if "layers.1" not in name}
    (found,) = problems(model(tmp_path, layout))
    assert found.startswith("9 tensors that LlamaForCausalLM of this config.json needs are missing: model.layers.1.")
    assert found.endswith(" and 3 more")


def test_shapes_and_layers_that_config_json_does_not_describe_are_reported(tmp_path: Path) -> None:
    (shapes,) = problems(model(tmp_path / "shapes", source_layout(), vocab_size=451))
    assert shapes == (
        "2 tensors have other shapes than config.json says: model.embed_tokens.weight is [450, 256], not [451, 256],"
        " lm_head.weight is [450, 256], not [451, 256]"
    )
    (layers,) = problems(model(tmp_path / "layers", source_layout(), num_hidden_layers=1))
    assert layers == "the files have 2 layers, config.json says 1: nothing would read layer 1"


def test_a_bias_that_the_configuration_denies_is_reported_and_one_that_it_announces_is_needed(tmp_path: Path) -> None:
    biased = source_layout()
    for layer in (0, 1):
        for name, size in (("q", 256), ("k", 128), ("v", 128), ("o", 256)):
            biased[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = ("BF16", (size,))
    assert problems(model(tmp_path / "agreed", biased, attention_bias=True)) == []
    (unread,) = problems(model(tmp_path / "denied", biased))
    assert unread.startswith("8 tensors are in no LlamaForCausalLM of this config.json, so nothing would read them")
    (missing,) = problems(model(tmp_path / "announced", source_layout(), attention_bias=True))
    assert missing.startswith("8 tensors that LlamaForCausalLM of this config.json needs are missing")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.1.self_attn.k_scale",
        "model.layers.2.eh_proj.weight",
        "v_head.summary.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "vision_tower.blocks.0.attn.qkv.weight",
    ],
)
def test_tensors_that_loaders_rightly_leave_out_are_accepted(tmp_path: Path, name: str) -> None:
    assert problems(model(tmp_path, source_layout() | {name: ("F32", (8,))})) == []


def test_the_width_of_a_bloom_model_may_be_written_in_the_old_way() -> None:
    config = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_embed": 32, "n_layer": 1, "n_head": 4}
    sizes = {"self_attention.query_key_value": (96, 32), "self_attention.dense": (32, 32),
             "mlp.dense_h_to_4h": (128, 32), "mlp.dense_4h_to_h": (32, 128)}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"word_embeddings.weight": (96, 32)}
    shapes |= {f"h.0.{name}.weight": shape for name, shape in sizes.items()}
    shapes |= {f"h.0.{name}.bias": shape[:1] for name, shape in sizes.items()}
    norms = ("word_embeddings_layernorm", "ln_f", "h.0.input_layernorm", "h.0.post_attention_layernorm")
    shapes |= {f"{norm}.{part}": (32,) for norm in norms for part in ("weight", "bias")}
    found = {name: Tensor("F16", shape) for name, shape in shapes.items()}
    assert list(architecture_faults(config | {"vocab_size": 96}, found)) == []
    assert list(architecture_faults(config | {"vocab_size": 96, "hidden_size": 64}, found)) == []
    assert len(list(architecture_faults(config | {"vocab_size": 96, "n_embed": 64}, found))) == 1


def test_of_an_unknown_architecture_only_the_index_is_compared(tmp_path: Path) -> None:
    layout = {name: about for name, about in source_layout().items() if name != LOST}
    assert problems(model(tmp_path, layout, architectures=["NobodyForCausalLM"], model_type="nobody")) == []


def test_experts_are_counted_whether_each_has_tensors_of_its_own_or_all_share_one() -> None:
    config = SOURCE | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}
    shared = {name: Tensor(*about) for name, about in source_layout().items() if ".mlp." not in name}
    own, fused = dict(shared), dict(shared)
    for layer in (0, 1):
        prefix = f"model.layers.{layer}"
        own[f"{prefix}.block_sparse_moe.gate.weight"] = fused[f"{prefix}.mlp.gate.weight"] = Tensor("BF16", (4, 256))
        fused[f"{prefix}.mlp.experts.gate_up_proj"] = Tensor("BF16", (4, 1024, 256))
        fused[f"{prefix}.mlp.experts.down_proj"] = Tensor("BF16", (4, 256, 512))
        for expert in range(4):
            for name, shape in (("w1", (512, 256)), ("w2", (256, 512)), ("w3", (512, 256))):
                own[f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight"] = Tensor("BF16", shape)
    assert list(architecture_faults(config, own)) == []
    assert list(architecture_faults(config, fused)) == []
    lost = own.pop("model.layers.1.block_sparse_moe.experts.3.w2.weight")
    (fault,) = architecture_faults(config, own)
    assert "experts.3.w2.weight" in fault.problem
    assert lost.shape == (256, 512)
    (fewer,) = architecture_faults(config | {"num_local_experts": 3}, fused)
    assert "other shapes" in fewer.problem


def test_packed_experts_with_tensors_of_their_own_are_accepted() -> None:
    """GPTQ and AWQ leave no tensor of an expert its name. So the files are not taken for those with fused experts."""
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_hidden_layers": 1,
              "num_local_experts": 2, "hidden_size": 8}  # fmt: skip
    layer = "model.layers.0"
    kept = ["model.embed_tokens", "model.norm", "lm_head", f"{layer}.input_layernorm",
            f"{layer}.post_attention_layernorm", f"{layer}.block_sparse_moe.gate"]  # fmt: skip
    packed = [f"{layer}.self_attn.{one}_proj" for one in "qkvo"]
    packed += [f"{layer}.block_sparse_moe.experts.{expert}.w{one}" for expert in range(2) for one in (1, 2, 3)]
    found = {f"{name}.weight": Tensor("F16", (8,)) for name in kept}
    found |= {f"{name}.{part}": Tensor("I32", (8, 1)) for name in packed for part in ("qweight", "qzeros", "scales")}
    assert list(architecture_faults(config, found, quantized=True)) == []
    found.pop(f"{layer}.block_sparse_moe.gate.weight")
    (fault,) = architecture_faults(config, found, quantized=True)
    assert f"is missing: {layer}.block_sparse_moe.gate.weight" in fault.problem


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    layout = source_layout()
    layout.pop(LOST)
    layout["model.norm.weight"] = ("BF16", (255,))
    layout["model.layers.0.mlp.up_proj.lora_A.weight"] = ("BF16", (8, 256))
    assert len(problems(model(tmp_path, layout))) == 3


def test_files_without_a_single_tensor_are_a_fault(tmp_path: Path) -> None:
    directory = write_source(tmp_path)
    write_tensors(directory / "model.safetensors", {})
    assert problems(directory) == ["the weight files hold no tensors"]


def test_numbers_of_layers_and_experts_that_no_model_has_are_a_fault_at_once(tmp_path: Path) -> None:
    (found,) = problems(model(tmp_path / "layers", source_layout(), num_hidden_layers=10**9))
    assert found.startswith("config.json says 1000000000 layers")
    many = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 10**9}
    (experts,) = problems(model(tmp_path / "experts", source_layout(), **many))
    assert "1000000000 experts" in experts
