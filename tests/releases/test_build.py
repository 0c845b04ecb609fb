"""Tests of the changes of `trtllm-build` between releases, one test for each row of the table."""

from itertools import pairwise
from typing import Any

import pytest

from enginery.releases.changes import changes_between
from enginery.releases.facts import Certainty, releases
from enginery.releases.flags import flag, flags_of, replacement, replacements

ROWS: tuple[tuple[str, str, str, str], ...] = (
    (
        "0.8.0",
        "0.9.0",
        "timing_cache",
        (
            "input_timing_cache output_timing_cache opt_num_tokens tp_size pp_size weight_sparsity max_draft_len "
            "lora_dir lora_ckpt_source lora_target_modules max_lora_rank auto_parallel gpus_per_node cluster_key "
            "moe_plugin mamba_conv1d_plugin use_fp8_context_fmha multiple_profiles paged_state streamingllm"
        ),
    ),
    (
        "0.9.0",
        "0.10.0",
        "",
        (
            "strip_plan max_encoder_input_len visualize_network dry_run speculative_decoding_mode weight_streaming "
            "nccl_plugin"
        ),
    ),
    (
        "0.10.0",
        "0.11.0",
        "strongly_typed weight_only_precision attention_qk_half_accumulation use_context_fmha_for_generation",
        "max_seq_len gemm_swiglu_plugin reduce_fusion",
    ),
    (
        "0.11.0",
        "0.12.0",
        "max_output_len tp_size pp_size context_fmha_fp32_acc use_custom_all_reduce multi_block_mode",
        "builder_force_num_profiles fast_build fp8_rowwise_gemm_plugin bert_context_fmha_fp32_acc",
    ),
    ("0.12.0", "0.13.0", "", "kv_cache_type low_latency_gemm_plugin"),
    ("0.13.0", "0.14.0", "builder_opt", ""),
    (
        "0.14.0",
        "0.15.0",
        "builder_force_num_profiles lookup_plugin",
        "monitor_memory low_latency_gemm_swiglu_plugin pp_reduce_scatter",
    ),
    ("0.15.0", "0.16.0", "enable_xqa", "user_buffer"),
    ("0.16.0", "0.17.0.post1", "", ""),
    ("0.17.0.post1", "0.18.2", "", ""),
    ("0.18.2", "0.19.0", "", "dora_plugin gemm_allreduce_plugin norm_quant_fusion fuse_fp4_quant"),
    ("0.19.0", "0.20.0", "", ""),
    ("0.20.0", "0.21.0", "", ""),
    ("0.21.0", "1.0.0", "", ""),
    ("1.0.0", "1.1.0", "", ""),
    ("1.1.0", "1.2.0", "auto_parallel gpus_per_node cluster_key", ""),
    ("1.2.0", "1.2.1", "", ""),
    ("1.2.1", "1.3.0rc3", "", ""),
)

NONE = None
DEFAULTS: tuple[tuple[str, str, str, Any, Any], ...] = (
    ("0.9.0", "0.10.0", "tokens_per_block", 128, 64),
    ("0.10.0", "0.11.0", "max_batch_size", 1, 256),
    ("0.10.0", "0.11.0", "max_num_tokens", NONE, 8192),
    ("0.10.0", "0.11.0", "max_output_len", 1024, NONE),
    ("0.10.0", "0.11.0", "gpt_attention_plugin", "float16", "auto"),
    ("0.10.0", "0.11.0", "bert_attention_plugin", "float16", "auto"),
    ("0.10.0", "0.11.0", "moe_plugin", "float16", "auto"),
    ("0.10.0", "0.11.0", "mamba_conv1d_plugin", "float16", "auto"),
    ("0.10.0", "0.11.0", "nccl_plugin", "float16", "auto"),
    ("0.10.0", "0.11.0", "gemm_plugin", NONE, "disable"),
    ("0.10.0", "0.11.0", "lora_plugin", NONE, "disable"),
    ("0.10.0", "0.11.0", "lookup_plugin", NONE, "disable"),
    ("0.12.0", "0.13.0", "use_fused_mlp", False, "enable"),
    ("0.12.0", "0.13.0", "paged_kv_cache", "enable", NONE),
    ("0.13.0", "0.14.0", "max_batch_size", 256, 2048),
    ("0.16.0", "0.17.0.post1", "gemm_plugin", "disable", NONE),
    ("0.18.2", "0.19.0", "tokens_per_block", 64, 32),
    ("0.18.2", "0.19.0", "use_paged_context_fmha", "disable", "enable"),
    ("0.18.2", "0.19.0", "use_fp8_context_fmha", "disable", "enable"),
)

GAINED = (
    ("0.10.0", "0.11.0", "gemm_plugin", {"auto", "int32", "fp8"}),
    ("0.10.0", "0.11.0", "gpt_attention_plugin", {"auto", "int32"}),
    ("0.11.0", "0.12.0", "speculative_decoding_mode", {"explicit_draft_tokens"}),
    ("0.14.0", "0.15.0", "speculative_decoding_mode", {"eagle"}),
    ("0.16.0", "0.17.0.post1", "gemm_plugin", {"nvfp4"}),
    ("0.16.0", "0.17.0.post1", "cluster_key", {"H200-SXM", "H200-NVL"}),
    ("0.18.2", "0.19.0", "lora_target_modules", {"mlp_gate_up"}),
    ("0.20.0", "0.21.0", "log_level", {"trace"}),
)

NEVER_CHANGED = (
    "checkpoint_dir model_config build_config model_cls_file model_cls_name output_dir workers max_input_len "
    "max_beam_width max_prompt_embedding_table_size logits_dtype gather_all_token_logits gather_context_logits "
    "gather_generation_logits profiling_verbosity enable_debug_output context_fmha remove_input_padding"
)


def dashed(names: str) -> set[str]:
    return {f"--{name}" for name in names.split()}


@pytest.mark.parametrize(("old", "new", "removed", "added"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_a_row_of_the_table_of_changes(old: str, new: str, removed: str, added: str) -> None:
    found = changes_between(old, new)
    assert {one.flag.name for one in found.removed} == dashed(removed)
    assert {one.name for one in found.added} == dashed(added)


def test_the_rows_lead_from_the_first_release_to_the_last_without_a_gap() -> None:
    assert ROWS[0][0] == releases()[0]
    assert ROWS[-1][1] == releases()[-1]
    assert all(before[1] == after[0] for before, after in pairwise(ROWS))


@pytest.mark.parametrize(("old", "new", "name", "before", "after"), DEFAULTS)
def test_a_default_that_changed(old: str, new: str, name: str, before: Any, after: Any) -> None:
    (changed,) = [one for one in changes_between(old, new).changed if one.name == f"--{name}"]
    assert (changed.before.default, changed.after.default) == (before, after)
    assert changed.new_default


@pytest.mark.parametrize(("old", "new"), [row[:2] for row in ROWS])
def test_no_other_default_changed(old: str, new: str) -> None:
    found = {one.name for one in changes_between(old, new).changed if one.new_default}
    assert found == {f"--{row[2]}" for row in DEFAULTS if row[:2] == (old, new)}


@pytest.mark.parametrize(("old", "new", "name", "gained"), GAINED)
def test_choices_that_came(old: str, new: str, name: str, gained: set[str]) -> None:
    (changed,) = [one for one in changes_between(old, new).changed if one.name == f"--{name}"]
    assert set(changed.gained) == gained
    assert not changed.lost


def test_volta_leaves_the_clusters_at_0_19() -> None:
    (changed,) = [one for one in changes_between("0.18.2", "0.19.0").changed if one.name == "--cluster_key"]
    assert changed.lost
    assert all(name.startswith("V100") for name in changed.lost)


@pytest.mark.parametrize(
    "old_new", [("0.19.0", "0.20.0"), ("0.21.0", "1.0.0"), ("1.0.0", "1.1.0"), ("1.2.1", "1.3.0rc3")]
)
def test_steps_without_any_change(old_new: tuple[str, str]) -> None:
    found = changes_between(*old_new)
    assert (found.removed, found.added, found.changed) == ((), (), ())


@pytest.mark.parametrize("name", sorted(dashed(NEVER_CHANGED)))
def test_a_flag_that_never_changed(name: str) -> None:
    assert len({flag(release, name).value for release in releases()}) == 1
    assert flag("0.8.0", name).value is not None


@pytest.mark.parametrize(
    ("name", "default"),
    [("output_dir", "engine_outputs"), ("workers", 1), ("max_input_len", 1024), ("max_beam_width", 1)],
)
def test_defaults_that_never_changed(name: str, default: Any) -> None:
    found = flag("1.2.1", f"--{name}").value
    assert found is not None
    assert found.default == default


@pytest.mark.parametrize(
    ("release", "count"),
    [
        *(("0.8.0", 41), ("0.9.0", 60), ("0.10.0", 67), ("0.11.0", 66), ("0.12.0", 64), ("0.13.0", 66)),
        *(("0.14.0", 65), ("0.15.0", 66), ("0.16.0", 66), ("1.3.0rc3", 67)),
    ],
)
def test_as_many_flags_as_the_source_adds(release: str, count: int) -> None:
    found = flags_of(release)
    assert len(found.value) == count
    assert found.provenance.certainty is Certainty.PARSED


def test_gemm_plugin_of_each_age() -> None:
    ages = ("0.8.0", "0.10.0", "0.11.0", "0.16.0", "0.17.0.post1", "1.2.1")
    found = [flag(release, "--gemm_plugin").value for release in ages]
    assert [one.default for one in found if one] == [None, None, "disable", "disable", None, None]
    assert [one.accepts("bfloat16") for one in found if one] == [True] * 6
    assert [one.accepts("fp8") for one in found if one] == [False, False, True, True, True, True]


def test_a_choice_listed_twice_is_one_choice() -> None:
    found = flag("1.2.0", "--gpt_attention_plugin").value
    assert found is not None
    assert found.choices == ("auto", "float16", "float32", "bfloat16", "int32", "disable")


def test_each_of_several_values_must_be_a_choice() -> None:
    found = flag("1.2.1", "--lora_target_modules").value
    assert found is not None
    assert found.nargs == "+"
    assert found.accepts(["attn_q", "mlp_gate_up"])
    assert not found.accepts(["attn_q", "mlp_gate_down"])


def test_kv_cache_type_names_its_choices_and_is_unset_without_a_value() -> None:
    found = flag("0.13.0", "--kv_cache_type").value
    assert found is not None
    assert set(found.choices) == {"paged", "continuous", "disabled"}
    assert found.suppressed


def test_visualize_network_is_a_switch_until_it_takes_a_directory() -> None:
    before, after = flag("0.16.0", "--visualize_network").value, flag("0.18.2", "--visualize_network").value
    assert before is not None
    assert after is not None
    assert (before.is_switch, after.is_switch) == (True, False)


def test_a_flag_is_found_by_its_alias() -> None:
    found = flag("0.11.0", "--max_decoder_seq_len").value
    assert found is not None
    assert found.name == "--max_seq_len"
    assert flag("0.10.0", "--max_decoder_seq_len").value is None


@pytest.mark.parametrize(
    ("release", "there"), [("1.3.0rc3", True), ("1.3.0rc20", True), ("1.3.0rc21", False), ("1.3.0", False)]
)
def test_the_command_is_gone_after_1_3_0rc20(release: str, *, there: bool) -> None:
    assert bool(flags_of(release).value) is there
    assert (flag(release, "--workers").value is not None) is there


def test_what_removed_the_command_is_said() -> None:
    found = changes_between("1.2.1", "1.3.0rc21")
    assert found.command_gone
    assert "1.3.0rc20 is the last" in str(found.new)


@pytest.mark.parametrize(
    ("release", "name", "by"),
    [
        ("0.9.0", "timing_cache", ("--input_timing_cache", "--output_timing_cache")),
        ("0.12.0", "max_output_len", ("--max_seq_len",)),
        ("1.2.1", "paged_kv_cache", ("--kv_cache_type",)),
        ("1.2.1", "multi_block_mode", ()),
        ("0.15.0", "builder_force_num_profiles", ()),
    ],
)
def test_what_replaces_a_flag(release: str, name: str, by: tuple[str, ...]) -> None:
    found = replacement(release, f"--{name}").value
    assert found is not None
    assert found.by == by
    assert found.how


def test_nothing_replaces_a_flag_before_its_time() -> None:
    assert replacement("0.12.0", "--paged_kv_cache").value is None
    assert replacement("0.8.0", "--timing_cache").value is None
    assert replacement("1.2.1", "--workers").value is None


@pytest.mark.parametrize("one", replacements(), ids=lambda one: f"{one.command} {one.flag} {one.since}")
def test_a_replacement_is_there_when_it_is_due_and_the_old_flag_was_there_before(one: Any) -> None:
    now = flags_of(one.since, one.command).value
    assert set(one.by) <= set(now)
    known = [release for release in releases() if one.flag in flags_of(release, one.command).value]
    assert known
    still = now.get(one.flag)
    assert still is None or still.deprecated
