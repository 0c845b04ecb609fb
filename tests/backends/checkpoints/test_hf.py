"""Tests of the check of a quantized Hugging Face checkpoint against its source model."""

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.backends.checkpoints.configuration import CheckpointError, HfExpectation
from enginery.backends.checkpoints.verify import verify_hf_checkpoint
from tests.support.models.checkpoints import SOURCE, Layout, fp8_layout, source_layout, write_source, write_tensors

FP8 = HfExpectation("bfloat16", "FP8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def export(
    directory: Path, layout: Layout | None = None, quantization: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """What ModelOpt exports."""
    directory.mkdir(parents=True)
    config = {name: value for name, value in {**SOURCE, **changes}.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(config))
    description = {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head"],
        **(quantization or {}),
    }
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": description}))
    write_tensors(directory / "model.safetensors", fp8_layout() if layout is None else layout)
    return directory


def differences(checkpoint: Path, source: Path, expected: HfExpectation = FP8) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        verify_hf_checkpoint(checkpoint, source, expected)
    return caught.value.differences


def test_a_faithful_export_is_taken(tmp_path: Path, source: Path) -> None:
    facts = verify_hf_checkpoint(export(tmp_path / "made"), source, FP8)
    assert facts["verified"] == "configuration, files and tensors"
    assert facts["tensors"] == len(fp8_layout())


def test_an_unquantized_copy_is_taken_when_nothing_else_was_asked_for(tmp_path: Path, source: Path) -> None:
    made = export(tmp_path / "made", source_layout())
    (made / "hf_quant_config.json").unlink()
    assert verify_hf_checkpoint(made, source, HfExpectation("bfloat16"))["quant_algo"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 10000.0}, "rope_theta is 10000.0, the model has 500000.0"),
        ({"rope_theta": ...}, "rope_theta is 10000.0"),
        ({"rope_scaling": None}, "rope_scaling is none"),
        ({"num_key_value_heads": 4}, "kv_heads is 4"),
        ({"num_hidden_layers": 1}, "layers is 1"),
        ({"vocab_size": 512}, "vocab_size is 512"),
        ({"rms_norm_eps": 1e-6}, "norm_eps is 1e-06"),
        ({"tie_word_embeddings": True}, "tied_embeddings is True"),
        ({"architectures": ["MistralForCausalLM"]}, "architecture is MistralForCausalLM"),
        ({"torch_dtype": "float16"}, "dtype is float16, expected bfloat16"),
    ],
)
def test_a_configuration_that_became_another_models_is_named(
    tmp_path: Path, source: Path, changes: dict[str, Any], message: str
) -> None:
    found = differences(export(tmp_path / "made", **changes), source)
    assert any(message in line for line in found), found


def test_settings_moved_as_transformers_5_has_them_are_the_same(tmp_path: Path, source: Path) -> None:
    scaling = SOURCE["rope_scaling"]
    assert isinstance(scaling, dict)
    moved = {"rope_theta": 500000.0, **scaling}
    verify_hf_checkpoint(
        export(tmp_path / "made", rope_theta=..., rope_scaling=..., rope_parameters=moved), source, FP8
    )


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_algo": None}, "quant_algo is none, expected FP8"),
        ({"quant_algo": "NVFP4"}, "quant_algo is NVFP4, expected FP8"),
        ({"kv_cache_quant_algo": "FP8"}, "kv_cache_quant_algo is FP8, expected none"),
    ],
)
def test_another_quantization_than_asked_is_named(
    tmp_path: Path, source: Path, quantization: dict[str, Any], message: str
) -> None:
    found = differences(export(tmp_path / "made", quantization=quantization), source)
    assert f"hf_quant_config.json: {message}" in found


def test_a_missing_description_of_the_quantization_is_named(tmp_path: Path, source: Path) -> None:
    made = export(tmp_path / "made")
    (made / "hf_quant_config.json").unlink()
    assert "hf_quant_config.json: quant_algo is none, expected FP8" in differences(made, source)


def test_a_description_that_cannot_be_read_is_named(tmp_path: Path, source: Path) -> None:
    made = export(tmp_path / "made")
    (made / "hf_quant_config.json").write_text("{")
    assert differences(made, source)[0].startswith("hf_quant_config.json: it is not JSON")


@pytest.mark.parametrize("name", sorted(fp8_layout()))
def test_any_missing_tensor_is_named(tmp_path: Path, source: Path, name: str) -> None:
    left = {each: value for each, value in fp8_layout().items() if each != name}
    assert differences(export(tmp_path / "made", left), source) == (f"{name} is missing",)


def test_a_weight_left_unquantized_is_named(tmp_path: Path, source: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    layout = {**fp8_layout(), name: ("BF16", (512, 256))}
    assert differences(export(tmp_path / "made", layout), source) == (
        f"{name} is BF16 [512, 256], expected F8_E4M3 or I8",
    )


def test_a_weight_of_another_shape_is_named(tmp_path: Path, source: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    (found,) = differences(export(tmp_path / "made", {**fp8_layout(), name: ("F8_E4M3", (128, 256))}), source)
    assert found == f"{name} is F8_E4M3 [128, 256], expected the shape [256, 256]"


def test_matrices_of_an_unknown_name_are_checked_as_what_they_are(tmp_path: Path) -> None:
    def renamed(layout: Layout) -> Layout:
        return {name.replace("_proj", "_matrix"): value for name, value in layout.items()}

    source = write_source(tmp_path / "source", renamed(source_layout()))
    verify_hf_checkpoint(export(tmp_path / "plain", renamed(source_layout())), source, FP8)
    layout = renamed(fp8_layout())
    verify_hf_checkpoint(export(tmp_path / "made", layout), source, FP8)
    del layout["model.layers.0.mlp.up_matrix.weight_scale"]
    layout["model.layers.1.mlp.up_matrix.weight"] = ("F8_E4M3", (256, 512))
    found = differences(export(tmp_path / "bad", layout), source)
    assert found == (
        "model.layers.0.mlp.up_matrix.weight_scale is missing",
        "model.layers.1.mlp.up_matrix.weight is F8_E4M3 [256, 512], expected the shape [512, 256]",
    )


def test_layers_that_are_excluded_may_stay_as_they_are(tmp_path: Path, source: Path) -> None:
    layout = {name: value for name, value in fp8_layout().items() if ".layers.1." not in name}
    layout |= {name: value for name, value in source_layout().items() if ".layers.1." in name}
    assert len(differences(export(tmp_path / "made", layout), source)) == 3 * 7
    excluded = {"exclude_modules": ["lm_head", "model.layers.1.*"]}
    verify_hf_checkpoint(export(tmp_path / "better", layout, excluded), source, FP8)


def test_a_quantized_cache_needs_its_scales(tmp_path: Path, source: Path) -> None:
    expectation = HfExpectation("bfloat16", "FP8", "FP8")
    quantization = {"kv_cache_quant_algo": "FP8"}
    found = differences(export(tmp_path / "made", quantization=quantization), source, expectation)
    assert sorted(found) == [
        f"model.layers.{layer}.self_attn.{kind}_proj.{kind}_scale is missing" for layer in (0, 1) for kind in "kv"
    ]


def test_a_truncated_file_is_named(tmp_path: Path, source: Path) -> None:
    made = export(tmp_path / "made")
    whole = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(whole[:-1])
    assert any(line.startswith("model.safetensors: it is ") for line in differences(made, source))


def test_an_export_without_weights_is_named(tmp_path: Path, source: Path) -> None:
    made = export(tmp_path / "made")
    (made / "model.safetensors").unlink()
    assert "there is no file with weights (*.safetensors)" in differences(made, source)


def test_a_tied_last_layer_may_be_left_out(tmp_path: Path) -> None:
    tied = write_source(tmp_path / "tied", tie_word_embeddings=True)
    layout = {name: value for name, value in fp8_layout().items() if name != "lm_head.weight"}
    verify_hf_checkpoint(export(tmp_path / "made", layout, tie_word_embeddings=True), tied, FP8)
