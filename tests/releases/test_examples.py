"""Tests of the changes of the converters, `quantize.py` and `run.py` between releases."""

from typing import Any

import pytest

from enginery.core.errors import UsageError
from enginery.releases.changes import changes_between
from enginery.releases.facts import Certainty
from enginery.releases.flags import flag, flags_of, script

LLAMA = "convert_checkpoint.py llama"
LLAMA_ROWS = (
    (
        "0.8.0",
        "0.9.0",
        (
            "enable_fp8 fp8_kv_cache rotary_scaling storage-type use_prompt_tuning enable_pos_shift dense_context_fmha "
            "hf_lora_dir lora_target_modules max_lora_rank"
        ),
        "save_config_only",
    ),
    ("0.9.0", "0.10.0", "ammo_quant_ckpt_path", "modelopt_quant_ckpt_path calib_dataset"),
    (
        "0.10.0",
        "0.11.0",
        "modelopt_quant_ckpt_path dataset-cache-dir moe_tp_mode",
        "quant_ckpt_path moe_tp_size moe_ep_size",
    ),
    (
        "0.11.0",
        "0.12.0",
        "",
        "multiple_of ffn_dim_multiplier fp8_kv_cache use_fp8_rowwise remove_duplicated_kv_heads log_level",
    ),
    ("0.12.0", "0.13.0", "", "use_fp8"),
    ("0.13.0", "0.14.0", "", "calib_size calib_max_seq_length"),
    ("0.14.0", "0.15.0", "", "use_qserve use_meta_fp8_rowwise_recipe"),
    ("0.15.0", "0.16.0", "use_embedding_sharing", "cp_size"),
    ("0.16.0", "0.17.0.post1", "", "use_nvfp4"),
    ("0.17.0.post1", "1.3.0rc3", "", ""),
)
QUANTIZE_ROWS = (
    ("0.8.0", "0.9.0", "", "seed max_seq_length"),
    (
        "0.9.0",
        "0.10.0",
        "device max_seq_length",
        (
            "nemo_ckpt_path decoder_type calib_dataset calib_tp_size calib_pp_size tokenizer_max_seq_length "
            "calib_max_seq_length"
        ),
    ),
    (
        "0.10.0",
        "0.11.0",
        "",
        "device num_medusa_heads num_medusa_layers max_draft_len medusa_hidden_act medusa_model_dir quant_medusa_head",
    ),
    ("0.11.0", "0.13.0", "", ""),
    ("0.13.0", "0.14.0", "", "autoq_format weight_compression"),
    ("0.14.0", "0.15.0", "weight_compression", "auto_quantize_bits"),
    ("0.15.0", "0.16.0", "", "cp_size"),
    ("0.16.0", "1.3.0rc3", "", "device_map quantize_lm_head"),
)
ROWS = (*((LLAMA, *row) for row in LLAMA_ROWS), *(("quantize.py", *row) for row in QUANTIZE_ROWS))

RUN_CAME = (
    ("0.10.0", "0.11.0", ("kv_cache_free_gpu_memory_fraction max_tokens_in_paged_kv_cache enable_chunked_context "
     "kv_cache_enable_block_reuse hf_model_dir random_seed end_id stop_words bad_words")),
    ("0.11.0", "0.12.0", "multi_block_mode enable_context_fmha_fp32_acc"),
    ("0.12.0", "0.13.0", "lookahead_config num_return_sequences"),
    ("0.13.0", "0.14.0", "draft_engine_dir cuda_graph_mode cross_kv_cache_fraction"),
    ("0.14.0", "0.15.0", "eagle_choices prompt_lookup_config"),
    ("0.16.0", "1.3.0rc3", "ngram_config"),
)  # fmt: skip

COMMON = (
    "model_dir meta_ckpt_dir output_dir tp_size pp_size dtype use_weight_only weight_only_precision smoothquant "
    "per_channel per_token int8_kv_cache per_group group_size load_by_shard load_model_on_cpu use_parallel_embedding "
    "embedding_sharding_dim workers moe_renorm_mode"
)


def dashed(names: str) -> set[str]:
    return {f"--{name}" for name in names.split()}


@pytest.mark.parametrize(("command", "old", "new", "removed", "added"), ROWS)
def test_a_row_of_the_table_of_changes(command: str, old: str, new: str, removed: str, added: str) -> None:
    found = changes_between(old, new, command)
    assert {one.flag.name for one in found.removed} == dashed(removed)
    assert {one.name for one in found.added} == dashed(added)


@pytest.mark.parametrize(("old", "new", "came"), RUN_CAME)
def test_what_came_to_run(old: str, new: str, came: str) -> None:
    assert dashed(came) <= {one.name for one in changes_between(old, new, "run.py").added}


def test_what_left_run() -> None:
    gone = [one.flag.name for old, new, _ in RUN_CAME for one in changes_between(old, new, "run.py").removed]
    assert gone == ["--prompt_lookup_config"]


@pytest.mark.parametrize("release", ["0.8.0", "0.9.0", "0.12.0", "0.16.0", "0.17.0.post1", "1.3.0rc3"])
def test_what_llamas_converter_always_had(release: str) -> None:
    found = flags_of(release, LLAMA).value
    assert dashed(COMMON) <= set(found)
    assert found["--output_dir"].default == "tllm_checkpoint"
    assert (found["--tp_size"].default, found["--group_size"].default) == (1, 128)
    assert "-sq" in found["--smoothquant"].aliases


@pytest.mark.parametrize(
    ("release", "command", "name", "default"),
    [
        ("0.14.0", LLAMA, "dtype", "float16"),
        ("0.15.0", LLAMA, "dtype", "auto"),
        ("0.11.0", LLAMA, "moe_tp_size", -1),
        ("0.14.0", "quantize.py", "dtype", "float16"),
        ("0.15.0", "quantize.py", "dtype", "auto"),
        ("0.8.0", "quantize.py", "qformat", "full_prec"),
        ("0.8.0", "quantize.py", "calib_size", 512),
        ("0.8.0", "quantize.py", "output_dir", "exported_model"),
        ("0.8.0", "quantize.py", "awq_block_size", 128),
        ("0.9.0", "run.py", "log_level", "error"),
        ("0.10.0", "run.py", "log_level", "warning"),
        ("0.11.0", "run.py", "log_level", "info"),
        ("0.10.0", "run.py", "tokenizer_dir", "gpt2"),
        ("0.11.0", "run.py", "tokenizer_dir", None),
        ("0.8.0", "run.py", "engine_dir", "engine_outputs"),
        ("0.8.0", "run.py", "max_input_length", 923),
        ("0.12.0", "run.py", "multi_block_mode", False),
        ("0.13.0", "run.py", "multi_block_mode", True),
        ("0.14.0", "run.py", "cross_kv_cache_fraction", 0.5),
        ("0.11.0", "run.py", "kv_cache_free_gpu_memory_fraction", 0.9),
    ],
)
def test_a_default(release: str, command: str, name: str, default: Any) -> None:
    found = flag(release, f"--{name}", command).value
    assert found is not None
    assert found.default == default


@pytest.mark.parametrize(
    ("release", "command", "name", "value", "taken"),
    [
        ("0.12.0", LLAMA, "weight_only_precision", "int4_awq", False),
        ("0.13.0", LLAMA, "weight_only_precision", "int4_awq", True),
        ("0.14.0", LLAMA, "weight_only_precision", "int8_gptq", False),
        ("0.15.0", LLAMA, "weight_only_precision", "int8_gptq", True),
        ("0.16.0", "quantize.py", "qformat", "fp8", True),
        ("0.16.0", "quantize.py", "qformat", "nvfp4", False),
        ("1.3.0rc3", "quantize.py", "qformat", "nvfp4", True),
        ("1.3.0rc3", "quantize.py", "qformat", "fp8_pc_pt", True),
        ("0.8.0", "quantize.py", "kv_cache_dtype", "int8", True),
        ("0.11.0", "quantize.py", "device", "cpu", True),
    ],
)
def test_a_choice(release: str, command: str, name: str, value: str, *, taken: bool) -> None:
    found = flag(release, f"--{name}", command).value
    assert found is not None
    assert found.accepts(value) is taken


def test_run_cannot_do_without_an_output_length() -> None:
    found = flag("0.8.0", "--max_output_len", "run.py").value
    assert found is not None
    assert found.required


def test_quantize_does_without_a_model_directory_from_0_10_on() -> None:
    (changed,) = [one for one in changes_between("0.9.0", "0.10.0", "quantize.py").changed if one.name == "--model_dir"]
    assert changed.texts() == ("no longer required",)


@pytest.mark.parametrize(
    ("release", "command", "path"),
    [
        ("0.8.0", LLAMA, "examples/llama/convert_checkpoint.py"),
        ("0.16.0", LLAMA, "examples/llama/convert_checkpoint.py"),
        ("1.3.0rc3", LLAMA, "examples/models/core/llama/convert_checkpoint.py"),
        ("1.3.0rc3", "convert_checkpoint.py mpt", "examples/models/contrib/mpt/convert_checkpoint.py"),
        ("1.3.0rc3", "convert_checkpoint.py medusa", "examples/medusa/convert_checkpoint.py"),
        ("0.16.0", "quantize.py", "examples/quantization/quantize.py"),
        ("0.16.0", "run.py", "examples/run.py"),
        ("0.8.0", "convert_checkpoint.py qwen", None),
        ("1.3.0rc21", LLAMA, None),
    ],
)
def test_where_a_script_lies(release: str, command: str, path: str | None) -> None:
    assert script(release, command).value == path


def test_a_converter_that_left_is_gone_not_taken_from_the_nearest() -> None:
    assert flags_of("0.8.0", "convert_checkpoint.py skywork").value
    left = flags_of("0.9.0", "convert_checkpoint.py skywork")
    assert not left.value
    assert left.provenance.certainty is Certainty.PARSED


def test_a_release_in_between_says_whose_flags_these_are_and_that_both_sides_differ() -> None:
    found = flag("1.1.0", "--device_map", "quantize.py")
    assert found.value is not None
    assert found.provenance.certainty is Certainty.NEAREST
    assert found.provenance.release == "1.3.0rc3"
    assert "says otherwise" in found.provenance.note


def test_where_both_sides_agree_it_is_said_too() -> None:
    found = flag("0.19.0", "--use_nvfp4", LLAMA)
    assert found.value is not None
    assert "1.3.0rc3 says the same" in found.provenance.note


@pytest.mark.parametrize("command", ["trtllm-bild", "convert_checkpoint.py", "scripts", ""])
def test_an_unknown_command_is_refused_with_those_there_are(command: str) -> None:
    with pytest.raises(UsageError, match=r"convert_checkpoint.py FAMILY.*llama"):
        flags_of("1.2.1", command)
