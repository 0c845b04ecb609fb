"""Tests of the defaults of build options, and of plugins whose data type differs from that of the activations."""

from typing import Any

import pytest

from enginery.backends.tensorrt.build_defaults import EngineOptions, unset_changes
from enginery.backends.tensorrt.build_options import render_build
from enginery.models.facts import ModelFacts
from enginery.spec.build import BuildOptions
from tests.support.models.examples import LLAMA_3_1_8B, LLAMA_3_8B, MIXTRAL_8X7B


def notes(release: str, **options: Any) -> tuple[str, ...]:
    return render_build(EngineOptions(BuildOptions.model_validate(options), release)).notes


def defaults(release: str, **options: Any) -> list[str]:
    """The defaults that the note names, such as `max_batch_size 1`."""
    (note,) = notes(release, **options)
    return note.removeprefix(f"not in the spec, so {release} uses its defaults: ").split(", ")


def changes(old: str, new: str, **options: Any) -> set[str]:
    return set(unset_changes(BuildOptions.model_validate(options), old, new))


@pytest.mark.parametrize(
    ("release", "note"),
    [
        ("0.8.0", "max_batch_size 1"),
        ("0.11.0", "max_batch_size 256"),
        ("1.2.1", "max_batch_size 2048"),
        ("0.10.0", "max_seq_len 2048"),
        ("0.11.0", "max_seq_len the model's own"),
        ("0.8.0", "kv_cache_type paged"),
        ("0.13.0", "kv_cache_type paged"),
        ("0.10.0", "gpt_attention_plugin float16"),
        ("0.17.0.post1", "gemm_plugin disable"),
        ("0.19.0", "use_paged_context_fmha true"),
    ],
)
def test_a_default_that_matters_is_noted(release: str, note: str) -> None:
    assert note in defaults(release)


def test_defaults_take_one_line_of_a_plan() -> None:
    assert len(notes("1.2.1")) == 1


def test_nothing_is_said_of_defaults_where_all_is_set() -> None:
    values = {"max_num_tokens": 4, "kv_cache_type": "paged", "use_paged_context_fmha": True, "gemm_plugin": "auto"}
    sizes = dict.fromkeys(("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "tokens_per_block"), 2)
    assert notes("1.2.1", gpt_attention_plugin="auto", **sizes, **values) == ()


def test_what_is_set_is_not_noted() -> None:
    text = defaults("0.8.0", max_batch_size=8, max_output_len=10, kv_cache_type="paged")
    assert not [note for note in text if note.startswith(("max_batch_size", "max_seq_len", "kv_cache_type"))]
    assert "max_input_len 1024" in text


def test_the_default_of_the_whole_length_counts_the_prompt_that_is_set() -> None:
    assert "max_seq_len 4024" in defaults("0.9.0", max_input_len=3000)


@pytest.mark.parametrize(("config", "positions"), [(LLAMA_3_8B, 8192), (LLAMA_3_1_8B, 131072), ({}, "")])
def test_the_models_own_length_is_noted_if_the_model_is_known(config: dict[str, Any], positions: object) -> None:
    build = render_build(EngineOptions(BuildOptions(), "1.2.1", model=ModelFacts.from_config(config)))
    assert f"max_seq_len the model's own {positions}".rstrip() in build.notes[0].split(", ")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("0.8.0", "1.2.1", "max_batch_size: 1 -> 2048"),
        ("0.10.0", "0.11.0", "max_num_tokens: none -> 8192"),
        ("0.10.0", "0.11.0", "max_seq_len: 2048 -> the model's own"),
        ("0.10.0", "0.11.0", "moe_plugin: float16 -> auto"),
        ("0.9.0", "0.10.0", "tokens_per_block: 128 -> 64"),
        ("0.12.0", "0.13.0", "use_fused_mlp: false -> true"),
        ("0.12.0", "0.13.0", "multi_block_mode: false -> true"),
        ("0.18.2", "0.19.0", "use_fp8_context_fmha: false -> true"),
        ("0.19.0", "0.18.2", "use_fp8_context_fmha: true -> false"),
    ],
)
def test_a_field_that_means_something_else_in_another_release_is_named(old: str, new: str, sentence: str) -> None:
    assert sentence in changes(old, new)


@pytest.mark.parametrize("field", ["kv_cache_type", "gemm_plugin", "lora_plugin", "workers", "enable_xqa"])
def test_a_default_that_is_only_written_otherwise_is_no_change(field: str) -> None:
    assert not [one for one in changes("0.8.0", "1.2.1") if one.startswith(field)]


def test_fields_that_are_set_do_not_change() -> None:
    options = {"max_batch_size": 8, "max_num_tokens": 64, "tokens_per_block": 64}
    changed = changes("0.8.0", "1.2.1", **options)
    assert not [one for one in changed if one.partition(":")[0] in options]


def test_the_whole_length_does_not_change_when_the_answer_s_is_set() -> None:
    assert not [one for one in changes("0.8.0", "1.2.1", max_output_len=100) if one.startswith("max_seq_len")]


def test_nothing_is_said_of_a_release_that_builds_no_engines() -> None:
    assert changes("1.2.1", "1.3.0rc21") == set()


def dtype_findings(release: str, dtype: str, *, config: dict[str, Any], ranks: int = 1, **options: Any) -> list[str]:
    model = ModelFacts.from_config(config)
    build = render_build(
        EngineOptions(BuildOptions.model_validate(options), release, dtype=dtype, model=model, ranks=ranks)
    )
    found = [finding for finding in build.findings if finding.code != "E165"]
    return [f"{finding.code} {finding.path.removeprefix('build.')}" for finding in found]


ATTENTION = "gpt_attention_plugin"


@pytest.mark.parametrize(
    ("release", "dtype", "options", "found"),
    [
        ("0.10.0", "bfloat16", {}, [f"E164 {ATTENTION}"]),
        ("0.8.0", "float32", {}, [f"E164 {ATTENTION}"]),
        ("0.10.0", "float16", {}, []),
        ("0.10.0", "", {}, []),
        ("0.11.0", "bfloat16", {}, []),
        ("0.10.0", "bfloat16", {ATTENTION: "bfloat16"}, []),
        ("0.10.0", "bfloat16", {ATTENTION: "auto"}, []),
        ("0.10.0", "bfloat16", {ATTENTION: "disable"}, []),
        ("1.2.1", "bfloat16", {ATTENTION: "float16"}, [f"E164 {ATTENTION}"]),
        ("1.2.1", "bfloat16", {"gemm_plugin": "float16"}, ["W164 gemm_plugin"]),
        ("1.2.1", "bfloat16", {"gemm_plugin": "fp8"}, []),
        ("0.8.0", "bfloat16", {ATTENTION: "auto", "moe_plugin": "float16"}, ["E160 moe_plugin"]),
    ],
)
def test_a_plugin_of_another_data_type_than_the_activations_is_found(
    release: str, dtype: str, options: dict[str, Any], found: list[str]
) -> None:
    assert dtype_findings(release, dtype, config=LLAMA_3_8B, **options) == found


def test_a_plugin_that_is_left_out_counts_only_where_the_model_uses_it() -> None:
    options: dict[str, Any] = {ATTENTION: "bfloat16"}
    assert dtype_findings("0.10.0", "bfloat16", config=LLAMA_3_8B, ranks=1, **options) == []
    assert dtype_findings("0.10.0", "bfloat16", config=LLAMA_3_8B, ranks=2, **options) == []
    assert dtype_findings("0.10.0", "bfloat16", config=MIXTRAL_8X7B, **options) == ["E164 moe_plugin"]
    mamba = {"architectures": ["MambaForCausalLM"]}
    assert dtype_findings("0.10.0", "bfloat16", config=mamba, **options) == ["E164 mamba_conv1d_plugin"]
    bert = {"architectures": ["BertForQuestionAnswering"]}
    assert dtype_findings("0.10.0", "bfloat16", config=bert) == ["E164 bert_attention_plugin"]


def test_the_finding_says_what_to_set() -> None:
    (finding,) = render_build(EngineOptions(BuildOptions(), "0.9.0", dtype="bfloat16")).findings
    assert str(finding) == (
        "build.gpt_attention_plugin: left out, it is float16 in 0.9.0, and the activations are bfloat16: "
        "the engine would compute wrongly; set it to bfloat16 or auto [E164]"
    )
