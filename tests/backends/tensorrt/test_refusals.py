"""What a release's `trtllm-build` refuses or changes in its code is in the plan, and only where it is so."""

from collections.abc import Mapping
from typing import Any

import pytest

from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.refusals.rule import Rule
from enginery.backends.tensorrt.refusals.rules import RULES
from enginery.releases import BUILD, Effect, flags_of, refusal, refusal_ids
from enginery.releases.facts import releases_read
from enginery.spec.findings import Finding
from tests.support.models.examples import LLAMA_3_8B, MIXTRAL_8X7B
from tests.support.plans.tensorrt import findings, request_of

MISTRAL = LLAMA_3_8B | {"architectures": ["MistralForCausalLM"]}
GEMMA = LLAMA_3_8B | {"architectures": ["GemmaForCausalLM"]}
GEMMA_2 = LLAMA_3_8B | {"architectures": ["Gemma2ForCausalLM"]}
NEOX = LLAMA_3_8B | {"architectures": ["GPTNeoXForCausalLM"]}
FALCON = LLAMA_3_8B | {"architectures": ["FalconForCausalLM"]}
MAMBA = LLAMA_3_8B | {"architectures": ["MambaForCausalLM"]}
GRIFFIN = LLAMA_3_8B | {"architectures": ["RecurrentGemmaForCausalLM"]}
DEEPSEEK = LLAMA_3_8B | {"architectures": ["DeepseekV2ForCausalLM"]}
ATTENTION = {"gpt_attention_plugin": "auto", "nccl_plugin": "auto", "moe_plugin": "auto", "mamba_conv1d_plugin": "auto"}
REFUSED = frozenset({"E161", "E165", "E166", "E167", "E168", "W166"})
INT8_CACHE, FP8_CACHE = {"kv_cache": "int8"}, {"kv_cache": "fp8"}
PAGED = "use_paged_context_fmha"
FP8, AWQ, INT8 = "fp8", "int4_awq", "int8_wo"
LORA = {"lora_plugin": "auto", "lora_target_modules": ["attn_q"]}


def asks(config: Any = None, **target: Any) -> tuple[Any, dict[str, Any]]:
    """A model and a target that a rule applies to. Parts of the target that are no field of it are build options."""
    own = {"precision", "gpu", "tensor_parallel", "pipeline_parallel", "convert"}
    build = {name: value for name, value in target.items() if name not in own}
    return config, {**{name: value for name, value in target.items() if name in own}, "build": build}


CASES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "gather_context_logits with max_draft_len": asks(gather_context_logits=True, max_draft_len=4),
    "multiple_profiles with opt_num_tokens": asks(multiple_profiles=True, opt_num_tokens=64, max_num_tokens=128),
    f"{PAGED} with an int8 KV cache": asks(use_paged_context_fmha=True, convert=INT8_CACHE),
    f"{PAGED} with an fp8 KV cache and fp8 weights": asks(use_paged_context_fmha=True, precision=FP8),
    f"{PAGED} with an fp8 KV cache and weights that are not fp8": asks(
        use_paged_context_fmha=True, precision=AWQ, convert=FP8_CACHE
    ),
    f"{PAGED} with an fp8 KV cache and w4a8_awq weights": asks(
        use_paged_context_fmha=True, precision="w4a8_awq", convert=FP8_CACHE
    ),
    f"{PAGED} without use_fp8_context_fmha, with an fp8 KV cache": asks(
        use_paged_context_fmha=True, use_fp8_context_fmha=False, precision=FP8
    ),
    "use_fp8_context_fmha with weights that are not fp8": asks(use_fp8_context_fmha=True),
    "use_fp8_context_fmha with w4a8_awq weights": asks(use_fp8_context_fmha=True, precision="w4a8_awq"),
    f"use_fp8_context_fmha with {PAGED} and a KV cache that is not fp8": asks(
        use_fp8_context_fmha=True, precision="w4a8_awq"
    ),
    f"{PAGED} without context_fmha": asks(context_fmha=False),
    "no gpt_attention_plugin with remove_input_padding": asks(gpt_attention_plugin="disable"),
    "no gpt_attention_plugin with a paged KV cache": asks(gpt_attention_plugin="disable", remove_input_padding=False),
    "gemm_swiglu_plugin without use_fused_mlp": asks(gemm_swiglu_plugin=FP8, use_fused_mlp=False, precision=FP8),
    "low_latency_gemm_swiglu_plugin without use_fused_mlp": asks(
        low_latency_gemm_swiglu_plugin=FP8, use_fused_mlp=False, precision=FP8
    ),
    "gemm_swiglu_plugin with weights that are not quantized": asks(gemm_swiglu_plugin=FP8, use_fused_mlp=True),
    "low_latency_gemm_swiglu_plugin with weights that are not quantized": asks(low_latency_gemm_swiglu_plugin=FP8),
    "gemm_swiglu_plugin with int8 or int4 weights": asks(gemm_swiglu_plugin=FP8, use_fused_mlp=True, precision=INT8),
    "gemm_swiglu_plugin with SmoothQuant": asks(gemm_swiglu_plugin=FP8, use_fused_mlp=True, precision="int8_sq"),
    "gemm_swiglu_plugin with activations that are not float16": asks(
        gemm_swiglu_plugin=FP8, use_fused_mlp=True, precision=FP8
    ),
    "gemm_swiglu_plugin with LoRA of the MLP": asks(
        LLAMA_3_8B | {"torch_dtype": "float16"},
        gemm_swiglu_plugin=FP8,
        use_fused_mlp=True,
        precision=FP8,
        lora_plugin="auto",
        lora_target_modules=["mlp_gate"],
    ),
    "use_fused_mlp with int8 or int4 weights": asks(use_fused_mlp=True, precision=INT8),
    "use_fused_mlp for an activation that is not SiLU": asks(GEMMA, use_fused_mlp=True),
    "use_fused_mlp turned off": asks(use_fused_mlp=False),
    "no moe_plugin with int8 or int4 weights": asks(MIXTRAL_8X7B, moe_plugin="disable", precision=INT8),
    "fast_build with int8 or int4 weights": asks(fast_build=True, precision=INT8),
    "strongly_typed turned off, with fp8": asks(strongly_typed=False, precision=FP8),
    "int8 or int4 weights on Blackwell": asks(gpu="B200", precision=INT8),
    "SmoothQuant on Blackwell": asks(gpu="B200", precision="int8_sq"),
    "an int8 KV cache on Blackwell": asks(gpu="B200", convert=INT8_CACHE),
    "no moe_plugin on Blackwell": asks(MIXTRAL_8X7B, gpu="B200", moe_plugin="disable"),
    "gemm_swiglu_plugin on Blackwell": asks(gpu="B200", gemm_swiglu_plugin=FP8, precision=FP8),
    "fp8_rowwise_gemm_plugin on Blackwell": asks(gpu="B200", fp8_rowwise_gemm_plugin="auto", precision=FP8),
    "low_latency_gemm_plugin on Blackwell": asks(gpu="B200", low_latency_gemm_plugin=FP8, precision=FP8),
    "low_latency_gemm_swiglu_plugin on Blackwell": asks(gpu="B200", low_latency_gemm_swiglu_plugin=FP8, precision=FP8),
    "reduce_fusion on one GPU": asks(reduce_fusion=True),
    "reduce_fusion for another model than Llama": asks(MISTRAL, reduce_fusion=True, tensor_parallel=2),
    "reduce_fusion for Gemma 2": asks(GEMMA_2, reduce_fusion=True, tensor_parallel=2),
    "reduce_fusion with pipeline_parallel": asks(reduce_fusion=True, tensor_parallel=2, pipeline_parallel=2),
    "user_buffer without reduce_fusion": asks(user_buffer=True, tensor_parallel=2),
    "user_buffer with weights that are not fp8 or nvfp4": asks(user_buffer=True, reduce_fusion=True, tensor_parallel=2),
    "norm_quant_fusion without nvfp4 weights of Llama": asks(norm_quant_fusion=True),
    "pp_reduce_scatter for another model than Mixtral": asks(pp_reduce_scatter=True, pipeline_parallel=2),
    "nccl_plugin in another type than the activations": asks(nccl_plugin="float16", tensor_parallel=2),
    "eagle for a model without EAGLE layers": asks(speculative_decoding_mode="eagle", max_batch_size=8),
    "eagle with max_batch_size over 512": asks(speculative_decoding_mode="eagle"),
    "eagle with max_draft_len over 256": asks(speculative_decoding_mode="eagle", max_batch_size=8, max_draft_len=257),
    f"eagle without {PAGED}": asks(speculative_decoding_mode="eagle", max_batch_size=8, use_paged_context_fmha=False),
    "speculative_decoding_mode with max_draft_len": asks(speculative_decoding_mode="medusa", max_draft_len=8),
    "speculative_decoding_mode with few max_num_tokens": asks(
        speculative_decoding_mode="medusa", max_draft_len=8, max_batch_size=64, max_num_tokens=512
    ),
    "max_num_tokens without remove_input_padding": asks(remove_input_padding=False, max_num_tokens=512),
    "max_num_tokens over what all requests can have": asks(
        max_input_len=512, max_seq_len=1024, max_batch_size=2, max_num_tokens=4096
    ),
    "max_num_tokens under max_input_len, without context_fmha": asks(
        max_input_len=512, context_fmha=False, max_num_tokens=256, max_batch_size=8
    ),
    "max_num_tokens under tokens_per_block": asks(max_num_tokens=16, tokens_per_block=64),
    "opt_num_tokens over the default of max_num_tokens": asks(opt_num_tokens=9000),
    "streamingllm for another model than Llama": asks(FALCON, streamingllm=True),
    "streamingllm": asks(streamingllm=True),
    "kv_cache_type that contradicts paged_state": asks(MAMBA, kv_cache_type="continuous"),
    "paged_state for a model without a state": asks(paged_state=True),
    "max_beam_width over 1 for Mamba": asks(MAMBA, max_beam_width=2),
    "max_beam_width over 1 for RecurrentGemma": asks(GRIFFIN, max_beam_width=2),
    "no mamba_conv1d_plugin for Mamba": asks(MAMBA, mamba_conv1d_plugin="disable"),
    "no mamba_conv1d_plugin for RecurrentGemma": asks(GRIFFIN, mamba_conv1d_plugin="disable"),
    "draft_tokens_external for Mamba": asks(MAMBA, speculative_decoding_mode="draft_tokens_external", max_draft_len=4),
    "draft_tokens_external for RecurrentGemma": asks(
        GRIFFIN, speculative_decoding_mode="draft_tokens_external", max_draft_len=4
    ),
    "tensor_parallel for Mamba": asks(MAMBA, tensor_parallel=2),
    "user_buffer with nvfp4 weights and no gemm_plugin": asks(
        gpu="B200",
        precision="nvfp4",
        user_buffer=True,
        reduce_fusion=True,
        tensor_parallel=2,
        gemm_plugin="disable",
    ),
    "gemm_plugin of another type with nvfp4 weights": asks(gpu="B200", precision="nvfp4", gemm_plugin="bfloat16"),
    "a paged KV cache for GPT-NeoX": asks(NEOX),
    "no remove_input_padding for DeepSeek-V2": asks(DEEPSEEK, remove_input_padding=False),
    "LoRA for a mixture of experts": asks(MIXTRAL_8X7B, **LORA),
    "lora_plugin without lora_dir and lora_target_modules": asks(lora_plugin="auto"),
    "lora_plugin for a model that takes no adapters": asks(FALCON, **LORA),
    "lora_plugin in another type than the activations, with fp8 weights": asks(
        precision=FP8, lora_plugin="float16", lora_target_modules=["attn_q"]
    ),
    "gemm_allreduce_plugin with lora_plugin": asks(gemm_allreduce_plugin="bfloat16", tensor_parallel=2, **LORA),
}
"""Record -> a model and a target that it applies to."""

ELSEWHERE = {
    "trtllm-build: tensor_parallel that does not divide the attention heads": asks(tensor_parallel=64),
}
"""Records that another check of the plan finds."""


def plan_of(case: tuple[Any, dict[str, Any]], release: str) -> tuple[list[Finding], list[str]]:
    """The findings and the notes for a case, with options that the release has no flag for left out."""
    config, target = case
    flags = flags_of(release).value
    options = {field: value for field, value in ATTENTION.items() if f"--{field}" in flags} | target.get("build", {})
    request = request_of(config, **{**target, "release": release, "build": options})
    return findings(request), TensorRT().notes(request)


def by(rule: Rule, found: list[Finding], says: str) -> list[Finding]:
    return [one for one in found if one.path == rule.field and says in one.problem]


HELD = [
    pytest.param(rule, release, id=f"{rule.id}, {release}")
    for rule in RULES
    for release in releases_read("refusals", f"{BUILD}: {rule.id}")
]


def test_every_record_has_a_rule_and_every_rule_a_record() -> None:
    assert {f"{BUILD}: {rule.id}" for rule in RULES} | set(ELSEWHERE) == set(refusal_ids(BUILD))
    assert {rule.id for rule in RULES} == set(CASES)


@pytest.mark.parametrize(("rule", "release"), HELD)
def test_a_plan_says_it_where_the_release_does_it_and_only_there(rule: Rule, release: str) -> None:
    found, notes = plan_of(CASES[rule.id], release)
    record = refusal(f"{BUILD}: {rule.id}", release).value
    if record is None:
        others = {refusal(f"{BUILD}: {rule.id}", one).value for one in releases_read("refusals", f"{BUILD}: {rule.id}")}
        says = {f"{release} {one.says}" for one in others if one and _only(rule, one.says)}
        assert not [one for one in found if one.problem.startswith(tuple(says))]
        assert not [note for note in notes if any(text in note for text in says)]
    elif record.stops:
        assert [one.code for one in by(rule, found, record.says)] == [rule.code], found
    else:
        assert f"{rule.field}: {release} {record.says}" in "\n".join(notes)


def _only(rule: Rule, says: str) -> bool:
    """Whether no other rule of the same field says the same."""
    others = [other for other in RULES if other.id != rule.id and other.field == rule.field]
    ids = [f"{BUILD}: {other.id}" for other in others]
    found = [refusal(name, one).value for name in ids for one in releases_read("refusals", name)]
    return says not in {one.says for one in found if one}


@pytest.mark.parametrize("release", releases_read("refusals", f"{BUILD}: {RULES[0].id}"))
@pytest.mark.parametrize("config", [LLAMA_3_8B, MIXTRAL_8X7B, MISTRAL])
def test_a_plain_spec_falls_under_none_of_them(release: str, config: dict[str, Any]) -> None:
    found, notes = plan_of((config, {"build": {}}), release)
    assert not [one for one in found if one.code in REFUSED]
    assert not [note for note in notes if note.startswith("build.") and release in note]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gather_context_logits with max_draft_len", {"max_draft_len": 0}),
        ("multiple_profiles with opt_num_tokens", {"multiple_profiles": False}),
        (f"{PAGED} with an int8 KV cache", {PAGED: False}),
        ("gemm_swiglu_plugin with weights that are not quantized", {"gemm_swiglu_plugin": "disable"}),
        ("no gpt_attention_plugin with remove_input_padding", {"gpt_attention_plugin": "auto"}),
        ("lora_plugin without lora_dir and lora_target_modules", {"lora_target_modules": ["attn_q"]}),
        ("fast_build with int8 or int4 weights", {"fast_build": False}),
        ("kv_cache_type that contradicts paged_state", {"paged_state": False}),
        ("max_beam_width over 1 for Mamba", {"max_beam_width": 1}),
        ("no moe_plugin with int8 or int4 weights", {"moe_plugin": "auto"}),
    ],
)
def test_with_the_one_option_changed_it_is_accepted(name: str, change: dict[str, Any]) -> None:
    config, target = CASES[name]
    changed = (config, {**target, "build": {**target["build"], **change}})
    read = releases_read("refusals", f"{BUILD}: {name}")
    held = [release for release in read if (record := refusal(f"{BUILD}: {name}", release).value) and record.stops]
    assert held
    for release in held:
        assert not [one for one in plan_of(changed, release)[0] if one.code in REFUSED], release


def test_a_release_that_was_not_read_is_refused_only_if_both_neighbours_refuse() -> None:
    (finding,) = plan_of(CASES["gather_context_logits with max_draft_len"], "0.20.0")[0]
    assert (finding.code, finding.level) == ("E165", "error")
    assert "(known of 1.3.0rc3)" in finding.problem
    (finding,) = plan_of(CASES[f"{PAGED} with an int8 KV cache"], "0.20.0")[0]
    assert (finding.code, finding.level) == ("W166", "warning")
    assert "0.20.0 was not read" in finding.problem


def test_what_may_be_refused_is_only_noted_if_it_is_on_by_default() -> None:
    config, target = CASES[f"{PAGED} with an int8 KV cache"]
    found, notes = plan_of((config, {**target, "build": {}}), "0.20.0")
    assert not found
    assert any(note.startswith(f"build.{PAGED}: 0.16.0 refuses") for note in notes)


def test_an_option_that_is_on_by_default_counts() -> None:
    _, notes = plan_of(asks(convert=INT8_CACHE), "1.3.0rc3")
    assert f"build.{PAGED}: 1.3.0rc3 turns {PAGED} off, because the KV cache is int8" in notes
    (finding,) = plan_of(asks(speculative_decoding_mode="eagle"), "0.15.0")[0]
    assert "max_batch_size is 2048 by default" in finding.problem


@pytest.mark.parametrize(("release", "refused"), [("0.10.0", True), ("0.11.0", False), ("0.12.0", True)])
def test_mistral_counts_as_llama_where_the_converter_says_so(release: str, refused: bool) -> None:  # noqa: FBT001
    found, _ = plan_of(asks(MISTRAL, streamingllm=True), release)
    assert [one.code for one in found] == (["E161"] if refused else [])


def test_effects_are_those_of_the_records() -> None:
    assert {record.effect for record in _records()} == set(Effect) - {Effect.GUESSES}


def _records() -> list[Any]:
    found = [refusal(name, one).value for name in refusal_ids(BUILD) for one in releases_read("refusals", name)]
    return [one for one in found if one]
