"""Tests of the configuration of a TensorRT-LLM checkpoint: it must agree with the source model."""

from pathlib import Path
from typing import Any

import pytest

from enginery.backends.checkpoints.configuration import CheckpointError, CheckpointExpectation
from enginery.backends.checkpoints.verify import verify_checkpoint
from tests.support.models.checkpoints import SOURCE, write_checkpoint, write_source

PLAIN = CheckpointExpectation("bfloat16")
FP8 = CheckpointExpectation("bfloat16", "FP8")
SCALING: dict[str, Any] = dict(SOURCE["rope_scaling"])  # type: ignore[call-overload]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def differences(checkpoint: Path, source: Path, expected: CheckpointExpectation = PLAIN) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(checkpoint, source, expected)
    return caught.value.differences


def test_a_faithful_checkpoint_is_taken_with_what_it_holds(tmp_path: Path, source: Path) -> None:
    facts = verify_checkpoint(write_checkpoint(tmp_path / "made"), source, PLAIN)
    assert facts["verified"] == "configuration, files and tensors"
    assert (facts["ranks"], facts["tensors"], facts["quant_algo"]) == (1, 17, None)
    assert facts["producer"] == "modelopt 0.47.0"
    assert facts["bytes"] == (tmp_path / "made" / "rank0.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotary_base", 10000.0, "rotary_base is 10000.0, the model's rope_theta is 500000"),
        ("rotary_base", ..., "rotary_base is missing (TensorRT-LLM would take 10000), the model's rope_theta"),
        ("rotary_base", None, "rotary_base is missing"),
        ("rotary_scaling", ..., "rotary_scaling is none, the model's rope_scaling is"),
        ("rotary_scaling", None, "rotary_scaling is none"),
        ("rotary_scaling", {**SCALING, "factor": 4.0}, "'factor': 4.0"),
        ("rotary_scaling", {"type": "linear", "factor": 8.0}, "'type': 'linear'"),
        ("rotary_scaling", {"rope_type": "llama3", "factor": 8.0}, "rotary_scaling is"),
        ("norm_epsilon", 1e-06, "norm_epsilon is 1e-06, the model has 1e-05"),
        ("norm_epsilon", ..., "norm_epsilon is missing"),
        ("num_hidden_layers", 3, "num_hidden_layers is 3, the model has 2"),
        ("num_attention_heads", 8, "num_attention_heads is 8, the model has 4"),
        ("num_key_value_heads", 4, "num_key_value_heads is 4, the model has 2"),
        ("head_size", 32, "head_size is 32, the model has 64"),
        ("hidden_size", 512, "hidden_size is 512, the model has 256"),
        ("intermediate_size", 1024, "intermediate_size is 1024, the model has 512"),
        ("vocab_size", 512, "vocab_size is 512, the model has 450"),
        ("max_position_embeddings", 2048, "max_position_embeddings is 2048, the model has 8192"),
        ("share_embedding_table", True, "share_embedding_table is true"),
        ("dtype", "float16", "dtype is float16, expected bfloat16"),
        ("mapping", {"world_size": 2, "tp_size": 2, "pp_size": 1}, "mapping.tp_size is 2, expected 1"),
        ("mapping", {"world_size": 2, "tp_size": 1, "pp_size": 2}, "mapping.pp_size is 2, expected 1"),
        ("quantization", {"quant_algo": "FP8"}, "quantization.quant_algo is FP8, expected none"),
        ("quantization", {"kv_cache_quant_algo": "INT8"}, "quantization.kv_cache_quant_algo is INT8, expected none"),
    ],
)
def test_a_field_that_a_converter_loses_or_changes_is_named(
    tmp_path: Path, source: Path, field: str, value: Any, message: str
) -> None:
    found = differences(write_checkpoint(tmp_path / "made", **{field: value}), source)
    assert any(line.startswith("config.json: ") and message in line for line in found), found


def test_all_differences_are_listed_at_once_with_what_to_do(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", rotary_base=10000.0, norm_epsilon=1e-6, dtype="float16")
    (made / "rank0.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(made, source, PLAIN)
    assert len(caught.value.differences) == 4
    assert "4 differences" in str(caught.value)
    assert caught.value.remedy
    assert not caught.value.transient
    for line in caught.value.differences:
        assert line in str(caught.value)


def test_a_quantization_that_was_not_done_is_named(tmp_path: Path, source: Path) -> None:
    found = differences(write_checkpoint(tmp_path / "made"), source, FP8)
    assert "config.json: quantization.quant_algo is none, expected FP8" in found


def test_a_checkpoint_for_fewer_gpus_than_asked_is_named(tmp_path: Path, source: Path) -> None:
    expected = CheckpointExpectation("bfloat16", tensor_parallel=2)
    found = differences(write_checkpoint(tmp_path / "made"), source, expected)
    assert "config.json: mapping.world_size is 1, expected 2" in found
    assert "rank1.safetensors: it is missing" in found


def test_numbers_that_differ_only_by_float32_rounding_are_equal(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made", norm_epsilon=9.999999747378752e-06, rotary_base=500000)
    verify_checkpoint(made, source, PLAIN)


def test_rotary_settings_as_transformers_5_writes_them_are_understood(tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"rope_theta": 500000.0, **SCALING}
    source = write_source(tmp_path / "source", rope_theta=..., rope_scaling=..., rope_parameters=parameters)
    verify_checkpoint(write_checkpoint(tmp_path / "made"), source, PLAIN)
    found = differences(write_checkpoint(tmp_path / "lost", rotary_base=10000.0, rotary_scaling=None), source)
    assert len(found) == 2


def test_a_model_with_the_usual_rotary_base_needs_none_written(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", rope_theta=..., rope_scaling=None)
    verify_checkpoint(write_checkpoint(tmp_path / "made", rotary_base=..., rotary_scaling=...), source, PLAIN)


CHATGLM: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "rope_theta": ...,
    "rope_scaling": ...,
}


@pytest.mark.parametrize(
    "written",
    [
        {"rotary_base": 5e5, "rotary_scaling": None},
        {"rotary_base": ..., "rotary_scaling": None, "rope_ratio": 50},
        {"rotary_base": 1e4, "rotary_scaling": {"type": "linear", "factor": 50}},
    ],
)
def test_chatglms_ratio_is_in_the_base_or_beside_it(tmp_path: Path, written: dict[str, Any]) -> None:
    source = write_source(tmp_path / "source", **CHATGLM, rope_ratio=50)
    verify_checkpoint(write_checkpoint(tmp_path / "made", **written), source, PLAIN)
    other = write_source(tmp_path / "other", **CHATGLM, rope_ratio=500)
    (found,) = differences(write_checkpoint(tmp_path / "wrong", rotary_base=5e5, rotary_scaling=None), other)
    assert "the model's rope_theta is 5e+06" in found


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_a_base_that_nothing_says_is_not_compared_and_the_facts_say_so(tmp_path: Path, base: float) -> None:
    unknown: dict[str, Any] = {"architectures": ["OtherForCausalLM"], "model_type": "other", "rope_theta": ...}
    source = write_source(tmp_path / "source", **unknown, rope_scaling=None)
    made = write_checkpoint(tmp_path / "made", rotary_base=base, rotary_scaling=None)
    assert verify_checkpoint(made, source, PLAIN)["not_compared"] == "rope_theta"
    known = write_source(tmp_path / "known", rope_scaling=None, rope_theta=base)
    assert "not_compared" not in verify_checkpoint(made, known, PLAIN)


def test_the_first_qwen_writes_the_width_of_two_matrices(tmp_path: Path) -> None:
    qwen: dict[str, Any] = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "intermediate_size": 1024}
    source = write_source(tmp_path / "source", **qwen)
    verify_checkpoint(write_checkpoint(tmp_path / "made", intermediate_size=1024), source, PLAIN)
    assert differences(write_checkpoint(tmp_path / "half", intermediate_size=512), source)


def test_a_model_with_learned_positions_has_no_base_to_compare(tmp_path: Path) -> None:
    gpt2: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "rope_theta": ...}
    source = write_source(tmp_path / "source", **gpt2, rope_scaling=None)
    made = write_checkpoint(tmp_path / "made", rotary_base=..., rotary_scaling=None)
    assert "not_compared" not in verify_checkpoint(made, source, PLAIN)


def test_scaling_that_the_model_has_not_is_named(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", rope_scaling=None)
    found = differences(write_checkpoint(tmp_path / "made"), source)
    assert [line for line in found if "the model's rope_scaling is none" in line]


def test_the_usual_head_size_needs_not_be_written(tmp_path: Path, source: Path) -> None:
    verify_checkpoint(write_checkpoint(tmp_path / "made", head_size=...), source, PLAIN)


def test_an_unusual_head_size_must_be_written(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", head_dim=128)
    found = differences(write_checkpoint(tmp_path / "made", head_size=...), source)
    assert "config.json: head_size is 64, the model has 128" in found


def test_what_a_release_before_0_9_writes_is_taken(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", rope_scaling=None)
    made = write_checkpoint(
        tmp_path / "made",
        producer=...,
        head_size=...,
        rotary_scaling=None,
        use_parallel_embedding=False,
        quantization=...,
    )
    assert verify_checkpoint(made, source, PLAIN)["producer"] is None


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, source: Path, content: str) -> None:
    made = write_checkpoint(tmp_path / "made")
    (made / "config.json").write_text(content)
    assert differences(made, source)[0].startswith("config.json: it is no")


def test_a_directory_without_configuration_is_no_checkpoint(tmp_path: Path, source: Path) -> None:
    made = write_checkpoint(tmp_path / "made")
    (made / "config.json").unlink()
    assert differences(made, source) == ("config.json: it is missing",)


def test_of_an_unknown_family_the_configuration_and_files_are_checked(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", architectures=["FalconForCausalLM"])
    made = write_checkpoint(tmp_path / "made", norm_epsilon=..., intermediate_size=...)
    assert verify_checkpoint(made, source, PLAIN)["verified"] == "configuration and files"
    assert differences(write_checkpoint(tmp_path / "bad", rotary_base=1.0), source)
