"""Each build option becomes an argument of the release, or is refused if the release does not support it."""

from typing import Any

import pytest

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.build_options import RenderedBuild, render_build
from enginery.core.errors import SpecError
from enginery.models.facts import ModelFacts
from enginery.releases.facts import releases
from enginery.spec.build import BuildOptions
from enginery.spec.findings import Finding
from enginery.spec.spec import Spec, parse_spec
from tests.support.models.examples import LLAMA_3_8B, MIXTRAL_8X7B
from tests.support.plans.plan import spec_data


def built(release: str, **options: Any) -> RenderedBuild:
    return render_build(EngineOptions(BuildOptions.model_validate(options), release, dtype="bfloat16"))


def arguments_for(release: str, **options: Any) -> str:
    """The arguments for the release. Findings about plugins that are left out do not matter."""
    build = built(release, **{"gpt_attention_plugin": "bfloat16"} | options)
    assert not build.findings
    return " ".join(build.flags).replace("--gpt_attention_plugin bfloat16", "").strip()


def refusal(release: str, **options: Any) -> Finding:
    """The text of the only finding."""
    (finding,) = built(release, **{"gpt_attention_plugin": "bfloat16"} | options).findings
    assert finding.level == "error"
    return finding


@pytest.mark.parametrize(
    ("options", "release", "expected"),
    [
        ({"max_input_len": 3000, "max_output_len": 1000}, "0.8.0", "--max_input_len 3000 --max_output_len 1000"),
        ({"max_input_len": 3000, "max_output_len": 1000}, "0.10.0", "--max_input_len 3000 --max_output_len 1000"),
        ({"max_input_len": 3000, "max_output_len": 1000}, "0.11.0", "--max_input_len 3000 --max_seq_len 4000"),
        ({"max_input_len": 3000, "max_output_len": 1000}, "1.2.1", "--max_input_len 3000 --max_seq_len 4000"),
        ({"max_input_len": 3000, "max_seq_len": 4000}, "0.10.0", "--max_input_len 3000 --max_output_len 1000"),
        ({"max_input_len": 3000, "max_seq_len": 4000}, "0.11.0", "--max_input_len 3000 --max_seq_len 4000"),
        ({"max_input_len": 3000, "max_seq_len": 4000}, "0.12.0", "--max_input_len 3000 --max_seq_len 4000"),
        ({"max_seq_len": 4096}, "0.9.0", "--max_output_len 3072"),
        ({"max_seq_len": 4096}, "0.16.0", "--max_seq_len 4096"),
        ({"max_output_len": 512}, "0.9.0", "--max_output_len 512"),
        ({"max_output_len": 512}, "0.16.0", "--max_seq_len 1536"),
        ({"max_input_len": 4096, "max_seq_len": 4096}, "0.16.0", "--max_input_len 4096 --max_seq_len 4096"),
    ],
)
def test_lengths_are_passed_as_the_release_counts_them(options: dict[str, int], release: str, expected: str) -> None:
    assert arguments_for(release, **options) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_seq_len": 1024}, "1024 leaves no token for an answer: max_input_len is 1024, the default of 0.10.0"),
        ({"max_seq_len": 64, "max_input_len": 64}, "64 leaves no token for an answer: max_input_len is 64"),
    ],
)
def test_lengths_that_leave_no_answer_are_refused_where_the_answer_is_limited(
    options: dict[str, int], text: str
) -> None:
    finding = refusal("0.10.0", **options)
    assert (finding.code, finding.path) == ("E162", "build.max_seq_len")
    assert finding.problem.endswith(text)


@pytest.mark.parametrize(
    ("kind", "release", "expected"),
    [
        ("paged", "0.8.0", "--paged_kv_cache enable"),
        ("continuous", "0.12.0", "--paged_kv_cache disable"),
        ("paged", "0.13.0", "--kv_cache_type paged"),
        ("continuous", "0.13.0", "--kv_cache_type continuous"),
        ("disabled", "0.13.0", "--kv_cache_type disabled"),
        ("disabled", "1.3.0rc3", "--kv_cache_type disabled"),
    ],
)
def test_the_kv_cache_uses_the_flag_of_the_release(kind: str, release: str, expected: str) -> None:
    assert arguments_for(release, kv_cache_type=kind) == expected


def test_a_build_without_a_kv_cache_is_refused_where_there_is_none() -> None:
    finding = refusal("0.12.0", kv_cache_type="disabled")
    assert (finding.code, finding.path) == ("E161", "build.kv_cache_type")
    assert "0.12.0 builds no engine without a KV cache" in finding.problem


@pytest.mark.parametrize(
    ("release", "plugin", "expected"),
    [
        ("0.8.0", "auto", "--gemm_plugin bfloat16"),
        ("0.10.0", "auto", "--gemm_plugin bfloat16"),
        ("0.11.0", "auto", "--gemm_plugin auto"),
        ("0.8.0", "disable", "--gemm_plugin disable"),
        ("0.11.0", "fp8", "--gemm_plugin fp8"),
        ("0.17.0.post1", "nvfp4", "--gemm_plugin nvfp4"),
    ],
)
def test_plugins_are_given_by_a_data_type_that_the_release_knows(release: str, plugin: str, expected: str) -> None:
    assert arguments_for(release, gemm_plugin=plugin) == expected


@pytest.mark.parametrize(("release", "plugin"), [("0.10.0", "fp8"), ("0.16.0", "nvfp4"), ("0.10.0", "int32")])
def test_a_data_type_that_the_release_s_plugin_does_not_know_is_refused(release: str, plugin: str) -> None:
    finding = refusal(release, gemm_plugin=plugin)
    assert (finding.code, finding.path) == ("E161", "build.gemm_plugin")
    assert f"{release} does not take {plugin} for --gemm_plugin, only " in finding.problem


def test_auto_without_a_known_data_type_is_refused_where_the_release_has_no_auto() -> None:
    (finding,) = render_build(EngineOptions(BuildOptions(gemm_plugin="auto"), "0.9.0")).findings
    assert finding.code == "E161"
    assert finding.problem == "0.9.0 does not take auto for --gemm_plugin, only float16, float32, bfloat16, disable"


@pytest.mark.parametrize(
    ("release", "options", "expected"),
    [
        ("0.12.0", {"use_fused_mlp": True}, "--use_fused_mlp"),
        ("0.12.0", {"use_fused_mlp": False}, ""),
        ("0.13.0", {"use_fused_mlp": True}, "--use_fused_mlp enable"),
        ("0.13.0", {"use_fused_mlp": False}, "--use_fused_mlp disable"),
        ("0.8.0", {"context_fmha": False}, "--context_fmha disable"),
        ("0.8.0", {"gather_context_logits": True}, "--gather_context_logits"),
        ("0.8.0", {"gather_context_logits": False}, ""),
        ("0.9.0", {"multiple_profiles": True}, "--multiple_profiles enable"),
        ("0.19.0", {"dora_plugin": False}, "--dora_plugin disable"),
        ("0.10.0", {"strongly_typed": True}, "--strongly_typed"),
    ],
)
def test_a_choice_is_a_switch_or_a_word_as_the_release_has_it(
    release: str, options: dict[str, bool], expected: str
) -> None:
    assert arguments_for(release, **options) == expected


@pytest.mark.parametrize(
    ("release", "options"),
    [
        ("0.16.0", {"context_fmha_fp32_acc": False}),
        ("0.12.0", {"use_custom_all_reduce": True}),
        ("0.12.0", {"multi_block_mode": False}),
        ("0.13.0", {"multi_block_mode": True}),
        ("0.16.0", {"enable_xqa": True}),
        ("0.11.0", {"strongly_typed": True}),
        ("0.15.0", {"lookup_plugin": "disable"}),
        ("0.8.0", {"multiple_profiles": False}),
        ("0.8.0", {"max_draft_len": 0}),
        ("0.18.2", {"gemm_allreduce_plugin": "disable"}),
    ],
)
def test_an_option_without_a_flag_is_dropped_when_it_means_what_the_release_does(
    release: str, options: dict[str, Any]
) -> None:
    assert arguments_for(release, **options) == ""


@pytest.mark.parametrize(
    ("release", "options", "message"),
    [
        ("0.16.0", {"context_fmha_fp32_acc": True}, "went after 0.11.0, and does as with false (set when the engine"),
        ("0.12.0", {"use_custom_all_reduce": False}, "went after 0.11.0, and does as with true"),
        ("0.12.0", {"multi_block_mode": True}, "went after 0.11.0, and does as with false (set when the engine runs"),
        ("0.13.0", {"multi_block_mode": False}, "went after 0.11.0, and does as with true (set when the engine runs"),
        ("0.16.0", {"enable_xqa": False}, "went after 0.15.0, and does as with true"),
        ("0.11.0", {"strongly_typed": False}, "went after 0.10.0, and does as with true (networks are always"),
        ("0.15.0", {"lookup_plugin": "auto"}, "went after 0.14.0, and does as with disable"),
        ("0.14.0", {"builder_opt": 3}, "went after 0.13.0"),
        ("0.8.0", {"multiple_profiles": True}, "came with 0.9.0, and does as with false"),
        ("0.8.0", {"opt_num_tokens": 64}, "came with 0.9.0"),
        ("0.8.0", {"paged_state": True}, "came with 0.9.0"),
        ("0.8.0", {"paged_state": False}, "came with 0.9.0"),
        ("0.9.0", {"nccl_plugin": "bfloat16"}, "came with 0.10.0"),
        ("0.11.0", {"builder_force_num_profiles": 2}, "came with 0.12.0"),
        ("0.9.0", {"speculative_decoding_mode": "medusa"}, "came with 0.10.0"),
        ("0.15.0", {"user_buffer": True}, "came with 0.16.0, and does as with false"),
    ],
)
def test_an_option_without_a_flag_is_refused_when_it_means_something_else(
    release: str, options: dict[str, Any], message: str
) -> None:
    ((field, _),) = options.items()
    finding = refusal(release, **options)
    assert (finding.code, finding.path) == ("E160", f"build.{field}")
    assert finding.problem.startswith(f"{release} has no --{field}, which {message}")
    assert finding.remedy.startswith("leave it out for this release, or build with one from ")


def test_the_number_of_profiles_becomes_an_environment_variable() -> None:
    assert arguments_for("0.12.0", builder_force_num_profiles=2) == "--builder_force_num_profiles 2"
    later = built("0.15.0", builder_force_num_profiles=2)
    assert (later.flags, dict(later.environment)) == ((), {"BUILDER_FORCE_NUM_PROFILES": "2"})
    assert not later.findings


@pytest.mark.parametrize(("mode", "first"), [("lookahead_decoding", "0.11.0"), ("eagle", "0.15.0")])
def test_a_speculative_mode_is_taken_from_its_first_release_on(mode: str, first: str) -> None:
    made = arguments_for(first, speculative_decoding_mode=mode, max_batch_size=8)
    assert made.split() == ["--max_batch_size", "8", "--speculative_decoding_mode", mode]
    before = releases()[releases().index(first) - 1]
    assert refusal(before, speculative_decoding_mode=mode).code == "E161"


def test_the_modules_of_lora_are_separate_arguments() -> None:
    options = {"lora_plugin": "auto", "lora_target_modules": ["attn_q", "attn_v"], "lora_dir": ["/a", "/b"]}
    expected = "--lora_plugin auto --lora_dir /a /b --lora_target_modules attn_q attn_v --max_lora_rank 8"
    assert arguments_for("0.16.0", **options, max_lora_rank=8) == expected


def test_adapters_are_said_to_count_by_their_paths_only() -> None:
    notes = built("0.16.0", lora_plugin="auto", lora_dir=["/a"]).notes
    assert "of lora_dir only the paths are compared: if the adapters there change, no new build is made" in notes


def test_only_the_modules_that_the_release_does_not_know_are_named() -> None:
    finding = refusal("0.18.2", lora_plugin="auto", lora_target_modules=["attn_q", "mlp_gate_up"])
    assert finding.problem.startswith("0.18.2 does not take mlp_gate_up for --lora_target_modules, only attn_qkv")


def test_streaming_attention_is_refused_by_the_release_that_asserts_against_it() -> None:
    assert arguments_for("0.16.0", streamingllm=True) == "--streamingllm enable"
    assert [one.code for one in built("1.2.1", gpt_attention_plugin="auto", streamingllm=True).findings] == ["W166"]
    assert arguments_for("1.3.0rc3", streamingllm=False) == "--streamingllm disable"
    assert refusal("1.3.0rc3", streamingllm=True).code == "E161"
    assert refusal("1.3.0rc10", streamingllm=True).code == "E161"


@pytest.mark.parametrize(("config", "refused"), [(LLAMA_3_8B, True), (MIXTRAL_8X7B, False)])
def test_reduce_scatter_between_stages_is_for_mixtral_only(config: dict[str, Any], refused: bool) -> None:  # noqa: FBT001
    options, model = BuildOptions(pp_reduce_scatter=True), ModelFacts.from_config(config)
    build = render_build(EngineOptions(options, "1.3.0rc3", model=model))
    assert [finding.code for finding in build.findings] == (["E161"] if refused else [])


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"max_seq_len": 4096, "max_output_len": 100}, "max_output_len"),
        ({"use_paged_context_fmha": True, "kv_cache_type": "continuous"}, "use_paged_context_fmha"),
        ({"use_paged_context_fmha": True, "context_fmha": False}, "use_paged_context_fmha"),
        ({"use_fp8_context_fmha": True, "context_fmha": False}, "use_fp8_context_fmha"),
        ({"lora_target_modules": ["attn_q"]}, "lora_target_modules"),
        ({"max_lora_rank": 8, "lora_plugin": "disable"}, "max_lora_rank"),
        ({"speculative_decoding_mode": "draft_tokens_external"}, "max_draft_len"),
        ({"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 0}, "max_draft_len"),
        ({"gather_all_token_logits": True, "gather_context_logits": False}, "gather_context_logits"),
    ],
)
@pytest.mark.parametrize("release", ["0.10.0", "0.16.0", "1.3.0rc3"])
def test_contradictions_are_refused_in_every_release(options: dict[str, Any], path: str, release: str) -> None:
    finding = refusal(release, **options)
    assert (finding.code, finding.path) == ("E162", f"build.{path}")
    assert "{" not in finding.problem
    assert finding.remedy


def test_a_field_that_the_release_lacks_is_reported_once() -> None:
    assert refusal("0.8.0", max_lora_rank=8).code == "E160"
    assert refusal("0.9.0", max_lora_rank=8).code == "E162"


def test_a_contradiction_between_the_spec_and_its_target_is_found() -> None:
    target = {"name": "one", "gpu": "H100-SXM5-80GB", "backend": "tensorrt", "precision": "float16"}
    overriding = target | {"build": {"max_output_len": 100}}
    spec: Spec = parse_spec(spec_data(targets=[overriding], build={"max_seq_len": 4096}, rollout=None))
    build = render_build(EngineOptions(spec.build_for(spec.targets[0]), "1.2.1"))
    assert [finding.code for finding in build.findings] == ["E162"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context_fmha": "enable"}, "build.context_fmha: write true in place of enable"),
        ({"paged_state": "disable"}, "build.paged_state: write false in place of disable"),
        ({"context_fmha": [1]}, "build.context_fmha: Input should be a valid boolean"),
        ({"lora_dir": ["here"]}, "build.lora_dir.0: must be an absolute path (given 'here')"),
        ({"lora_dir": ["/{output}"]}, "build.lora_dir.0: must have no braces: a recipe uses them"),
        ({"extra_args": ["--log_level", "{python}"]}, "build.extra_args.1: must have no braces"),
        ({"max_batch_sise": 1}, "build.max_batch_sise: unknown field; did you mean max_batch_size?"),
        ({"gemm_plugin": "bf16"}, "build.gemm_plugin: Input should be 'auto', 'float16'"),
        ({"max_batch_size": 0}, "build.max_batch_size: Input should be greater than or equal to 1"),
        ({"lora_dir": []}, "build.lora_dir: "),
    ],
)
def test_a_mistake_in_an_option_is_reported_with_its_field(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_data(build=options))
    assert sentence in str(caught.value)


def test_a_release_that_builds_no_engines_is_one_finding() -> None:
    build = built("1.3.0rc21", max_batch_size=1, gemm_plugin="auto")
    (finding,) = build.findings
    assert finding.problem == "1.3.0rc21 has no trtllm-build"
    assert (build.flags, build.notes) == ((), ())


def test_options_of_onnxruntime_are_noted_and_not_passed() -> None:
    build = built("1.2.1", int4_block_size=32)
    assert (build.flags, build.findings) == ((), ())
    assert "build.int4_block_size is ignored: it is for onnxruntime" in build.notes
