"""Tests of which weights are recognized as quantized: by their tensors, by `config.json`, and by files beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.models.facts import ModelFacts
from enginery.models.headers import Tensor
from enginery.models.quantized import SAID_IN, packed_format, with_quantization
from enginery.models.weights import WeightFiles, whole_weights_faults
from tests.support.models.checkpoints import Layout, fp8_layout, matrices, source_layout, write_source

Pack = Callable[[str, int, int], dict[str, tuple[str, tuple[int, ...]]]]

FORMATS: dict[str, Pack] = {
    "GPTQ": lambda name, rows, columns: {
        f"{name}.qweight": ("I32", (columns // 8, rows)), f"{name}.scales": ("F16", (columns // 64, rows)),
        f"{name}.qzeros": ("I32", (columns // 64, rows // 8)), f"{name}.g_idx": ("I32", (columns,)),
    },
    "AWQ": lambda name, rows, columns: {
        f"{name}.qweight": ("I32", (columns, rows // 8)), f"{name}.scales": ("F16", (columns // 64, rows)),
        f"{name}.qzeros": ("I32", (columns // 64, rows // 8)),
    },
    "bitsandbytes, 4 bits": lambda name, rows, columns: {
        f"{name}.weight": ("U8", (rows * columns // 2, 1)), f"{name}.weight.absmax": ("F32", (rows * columns // 64,)),
        f"{name}.weight.quant_map": ("F32", (16,)),
        f"{name}.weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
    },
    "bitsandbytes, 8 bits": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (rows, columns)), f"{name}.SCB": ("F32", (rows,)),
    },
    "compressed-tensors": lambda name, rows, columns: {
        f"{name}.weight_packed": ("I32", (rows, columns // 8)), f"{name}.weight_scale": ("BF16", (rows, columns // 64)),
        f"{name}.weight_shape": ("I64", (2,)),
    },
    "fp8 with block scales": lambda name, rows, columns: {
        f"{name}.weight": ("F8_E4M3", (rows, columns)), f"{name}.weight_scale_inv": ("F32", (1, 1)),
    },
    "fp8": lambda name, rows, columns: {
        f"{name}.weight": ("F8_E4M3", (rows, columns)), f"{name}.weight_scale": ("F32", ()),
    },
    "int8": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (rows, columns)), f"{name}.weight_scale": ("F32", (rows, 1)),
    },
    "nvfp4 of ModelOpt": lambda name, rows, columns: {
        f"{name}.weight": ("U8", (rows, columns // 2)), f"{name}.weight_scale": ("F8_E4M3", (rows, columns // 16)),
        f"{name}.weight_scale_2": ("F32", ()), f"{name}.input_scale": ("F32", ()),
    },
    "mxfp4": lambda name, rows, columns: {
        f"{name}_blocks": ("U8", (4, rows, columns // 32, 16)), f"{name}_scales": ("U8", (4, rows, columns // 32)),
    },
    "MLX": lambda name, rows, columns: {
        f"{name}.weight": ("U32", (rows, columns // 8)), f"{name}.scales": ("F16", (rows, columns // 64)),
        f"{name}.biases": ("F16", (rows, columns // 64)),
    },
    "HQQ": lambda name, rows, columns: {
        f"{name}.W_q": ("U8", (rows * columns // 128, 64)), f"{name}.scale": ("F16", (rows, 1)),
    },
    "AQLM": lambda name, rows, columns: {
        f"{name}.codes": ("I16", (rows, columns // 8, 1)), f"{name}.codebooks": ("F16", (1, 65536, 1, 8)),
        f"{name}.scales": ("F16", (rows, 1, 1, 1)),
    },
    "EXL2": lambda name, rows, columns: {
        f"{name}.q_weight": ("I32", (columns // 8, rows)), f"{name}.q_scale_max": ("F16", (4,)),
        f"{name}.q_invperm": ("I32", (columns,)),
    },
    "quanto": lambda name, rows, columns: {
        f"{name}.weight._data": ("U8", (rows, columns // 2)), f"{name}.weight._scale": ("F16", (rows, 1)),
    },
    "EETQ": lambda name, rows, columns: {
        f"{name}.weight": ("I8", (columns, rows)), f"{name}.weight_scales": ("F16", (rows,)),
    },
    "BitNet": lambda name, rows, columns: {
        f"{name}.weight": ("U8", (rows // 4, columns)), f"{name}.weight_scale": ("BF16", (1,)),
    },
    "an unknown format (F8_E5M2 numbers)": lambda name, rows, columns: {f"{name}.weight": ("F8_E5M2", (rows, columns))},
}  # fmt: skip
"""Format -> the tensors that its tools write for a matrix, by its name and sizes."""


def packed(name: str) -> Layout:
    """The tensors of the test model in a format."""
    layout = {one: about for one, about in source_layout().items() if "_proj" not in one}
    for layer in (0, 1):
        for matrix, rows, columns in matrices():
            layout |= FORMATS[name](f"model.layers.{layer}.{matrix}", rows, columns)
    return layout


def tensors(layout: Layout) -> dict[str, Tensor]:
    return {name: Tensor(*about) for name, about in layout.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognized_by_its_tensors_alone(name: str) -> None:
    found = packed_format(tensors(packed(name)))
    assert found is not None
    assert found.name.startswith(name)
    assert ".layers.0." in found.example


def test_plain_weights_with_the_masks_of_older_checkpoints_are_no_quantized_weights() -> None:
    masks = {
        "h.0.attn.bias": Tensor("U8", (1, 1, 8, 8)),
        "h.0.attn.masked_bias": Tensor("F32", ()),
        "h.0.attn.attention.bias": Tensor("U8", (1, 1, 8, 8)),
        "gpt_neox.layers.0.attention.bias": Tensor("BOOL", (1, 1, 8, 8)),
        "embeddings.position_ids": Tensor("I64", (1, 8)),
    }
    assert packed_format(tensors(source_layout()) | masks) is None


@pytest.mark.parametrize("name", ["bitsandbytes, 4 bits", "GPTQ", "fp8 with block scales", "nvfp4 of ModelOpt"])
def test_quantized_weights_that_say_so_nowhere_are_a_fault(tmp_path: Path, name: str) -> None:
    (fault,) = whole_weights_faults(write_source(tmp_path, packed(name)))
    assert fault.problem.startswith(f"the weights are quantized ({name}")
    assert "config.json does not say so" in fault.problem


@pytest.mark.parametrize(
    ("layout", "quantization"),
    [
        (packed("AWQ"), {"quant_method": "awq", "bits": 4, "group_size": 64}),
        (packed("bitsandbytes, 4 bits"), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        (fp8_layout(), {"quant_method": "modelopt", "quant_algo": "FP8"}),
        (packed("compressed-tensors"), {"quant_method": "compressed-tensors", "config_groups": {}}),
    ],
)
def test_quantized_weights_that_say_so_must_be_complete(
    tmp_path: Path, layout: Layout, quantization: dict[str, Any]
) -> None:
    whole = write_source(tmp_path / "whole", layout, quantization_config=quantization)
    assert whole_weights_faults(whole) == []
    lost = "model.layers.1.mlp.down_proj"
    rest = {name: about for name, about in layout.items() if not name.startswith(lost)}
    (fault,) = whole_weights_faults(write_source(tmp_path / "part", rest, quantization_config=quantization))
    assert f"{lost}.weight" in fault.problem


def test_plain_weights_whose_configuration_says_that_they_are_packed_are_a_fault(tmp_path: Path) -> None:
    directory = write_source(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    (fault,) = whole_weights_faults(directory)
    assert "config.json says that the weights are quantized (fp8), but all tensors hold plain floats" in fault.problem


@pytest.mark.parametrize(
    ("config", "beside", "method", "said_in"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {}, "awq", None),
        ({"quantization_config": {"bits": 4, "group_size": 64}}, {}, "mlx", None),
        ({"quantization_config": {"quant_algo": "NVFP4"}}, {}, "modelopt", None),
        ({"quantization": {"bits": 4, "group_size": 64}}, {}, "mlx", "config.json's quantization"),
        ({"quantization": {"quant_algo": "FP8"}}, {}, "modelopt", "config.json's quantization"),
        ({"quantization": "awq"}, {}, "awq", "config.json's quantization"),
        ({"quant_config": {"w_bit": 4, "zero_point": True}}, {}, "awq", "config.json's quant_config"),
        ({"compression_config": {"format": "pack-quantized"}}, {}, "compressed-tensors",
         "config.json's compression_config"),
        ({"quantization_bit": 4}, {}, "unnamed", "config.json's quantization_bit"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, {}, "fp8",
         "config.json's text_config.quantization_config"),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128}}, "gptq", "quantize_config.json"),
        ({}, {"quant_config.json": {"w_bit": 4, "q_group_size": 128}}, "awq", "quant_config.json"),
        ({}, {"quantization_config.json": {"quant_method": "hqq"}}, "hqq", "quantization_config.json"),
        ({}, {"quant_cfg.json": {"quant_algo": "W4A16"}}, "modelopt", "quant_cfg.json"),
        ({}, {"quanto_qmap.json": {"a": {"weights": "qint8"}}}, "quanto", "quanto_qmap.json"),
        ({}, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}}, "modelopt", None),
    ],
)  # fmt: skip
def test_a_quantization_is_found_wherever_it_is_said(
    config: dict[str, Any], beside: dict[str, Any], method: str, said_in: str | None
) -> None:
    found = with_quantization(config, beside)["quantization_config"]
    assert found["quant_method"] == method
    assert found.get(SAID_IN) == said_in
    assert ModelFacts.from_config(with_quantization(config, beside)).quantization == found


@pytest.mark.parametrize(
    ("config", "beside"),
    [
        ({}, {}),
        ({"quantization_config": None, "quantization": None, "quantization_bit": 0}, {}),
        ({"quantization_config": {}}, {}),
        ({"quantization": {"quant_algo": None}}, {}),
        ({"quantization": False}, {}),
        ({"quantization": "none"}, {}),
        ({"text_config": {"hidden_size": 8}}, {}),
        ({"text_config": None}, {}),
        ({}, {"hf_quant_config.json": {"quantization": {"quant_algo": None}}}),
        ({}, {"quantize_config.json": {"bits": 16}}),
        ({}, {"quant_cfg.json": {}}),
    ],
)
def test_a_configuration_that_says_that_nothing_is_quantized_is_kept_as_it_is(
    config: dict[str, Any], beside: dict[str, Any]
) -> None:
    assert with_quantization(config, beside) == config


def test_a_file_of_another_copy_beside_plain_weights_is_not_believed(tmp_path: Path) -> None:
    directory = write_source(tmp_path)
    (directory / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    assert whole_weights_faults(directory) == []
    config = with_quantization({}, {"quantize_config.json": {"bits": 4}})
    assert WeightFiles.read(directory, ["model.safetensors"]).settled(config) == {}
    packed_directory = write_source(tmp_path / "packed", packed("GPTQ"))
    assert WeightFiles.read(packed_directory, ["model.safetensors"]).settled(config) == config
