"""The table of what `trtllm-build` refuses or changes: which options each record of the releases' facts is about.

Which releases do it, where, and what they do is in `enginery.releases.refusals`. Here stands when it happens, the field
of the spec that it is about, and the remedy.
"""

from collections.abc import Callable
from typing import NamedTuple

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.refusals.options import (
    FLOATS,
    GATED,
    GEMMA_2,
    LLAMA,
    MIXTRAL,
    MLP_MODULES,
    WEIGHT_ONLY,
    WITH_FP8,
    architecture,
    drafts,
    fuses_reduction,
    has_attention,
    has_experts,
    has_gated_mlp,
    known_and_not,
    off,
    on,
    on_blackwell,
    on_first_blackwell,
    positions,
    starts,
    takes_no_adapters,
    tokens_of_all,
    turned_off,
    value,
)
from enginery.spec import Precision

TOGETHER, MODEL, FORMAT, GPU, VALUE = "E165", "E166", "E167", "E168", "E161"
"""The code of a refusal: of options together, for a model, for a number format, for a GPU, of one value."""
FP8, INT8_SQ, AWQ_FP8, NVFP4 = Precision.FP8, Precision.INT8_SMOOTHQUANT, Precision.W4A8_AWQ, Precision.NVFP4
EAGLE = "eagle"
EAGLE_BATCH, EAGLE_DRAFTS = 512, 256


class Rule(NamedTuple):
    """When a record applies to an engine.

    Attributes:
        id: the record's id, without `trtllm-build: `.
        field: the field of the spec that it is about, within the target.
        holds: whether an engine's options are of the kind that the record is about.
        remedy: what to do if the release refuses them.
        shown: options to name with their values.
    """

    id: str
    code: str
    field: str
    holds: Callable[[EngineOptions], bool]
    remedy: str = ""
    shown: tuple[str, ...] = ()


def _paged(one: EngineOptions) -> bool:
    return on(one, "use_paged_context_fmha")


def _fp8_cache(one: EngineOptions) -> bool:
    return one.kv_cache == "fp8"


def _eagle(one: EngineOptions) -> bool:
    return one.options.speculative_decoding_mode == EAGLE


def _limit(one: EngineOptions) -> int:
    return one.options.max_num_tokens or 0


def _adapted_mlp(one: EngineOptions) -> bool:
    return on(one, "lora_plugin") and bool(MLP_MODULES & set(one.options.lora_target_modules or ()))


def _same_as_paged(one: EngineOptions) -> bool:
    """Whether `kv_cache_type` says what `paged_state` says."""
    return (one.options.kv_cache_type == "paged") == on(one, "paged_state")


def _not(field: str) -> str:
    return f"set {field} to false"


PAGED, FP8_ATTENTION = "use_paged_context_fmha", "use_fp8_context_fmha"
SWIGLU, FAST_SWIGLU, FUSED = "gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin", "use_fused_mlp"
WITHOUT_SWIGLU = f"leave {SWIGLU} out"
HOPPER = ("gemm_swiglu_plugin", "fp8_rowwise_gemm_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin")
"""Plugins that 1.3.0rc3 refuses on compute capability 10.0."""

_LOGITS = Rule(
    *("gather_context_logits with max_draft_len", TOGETHER, "build.gather_context_logits"),
    lambda one: bool(
        (one.options.gather_context_logits or one.options.gather_all_token_logits) and one.options.max_draft_len
    ),
    "set max_draft_len to 0, or ask only for gather_generation_logits",
    ("max_draft_len",),
)
_PROFILES = Rule(
    *("multiple_profiles with opt_num_tokens", TOGETHER, "build.opt_num_tokens"),
    lambda one: on(one, "multiple_profiles") and one.options.opt_num_tokens is not None,
    "leave opt_num_tokens out, or set multiple_profiles to false",
)

ATTENTION_RULES = (
    Rule(
        *(f"{PAGED} with an int8 KV cache", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and one.kv_cache == "int8",
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and fp8 weights", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == FP8,
        _not(PAGED),
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and weights that are not fp8", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and bool(one.precision) and one.precision not in WITH_FP8,
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and w4a8_awq weights", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == AWQ_FP8,
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} without {FP8_ATTENTION}, with an fp8 KV cache", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == FP8 and off(one, FP8_ATTENTION),
    ),
    Rule(
        *(f"{FP8_ATTENTION} with weights that are not fp8", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: bool(one.options.use_fp8_context_fmha) and bool(one.precision) and one.precision not in WITH_FP8,
        f"{_not(FP8_ATTENTION)}, or use precision: fp8",
    ),
    Rule(
        *(f"{FP8_ATTENTION} with w4a8_awq weights", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: bool(one.options.use_fp8_context_fmha) and one.precision == AWQ_FP8,
        _not(FP8_ATTENTION),
    ),
    Rule(
        *(f"{FP8_ATTENTION} with {PAGED} and a KV cache that is not fp8", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: (
            bool(one.options.use_fp8_context_fmha)
            and _paged(one)
            and not _fp8_cache(one)
            and one.precision in WITH_FP8
            and not turned_off(one, "context_fmha")
        ),
    ),
    Rule(
        *(f"{PAGED} without context_fmha", TOGETHER, f"build.{PAGED}"),
        lambda one: _paged(one) and turned_off(one, "context_fmha"),
    ),
    Rule(
        *("no gpt_attention_plugin with remove_input_padding", TOGETHER, "build.gpt_attention_plugin"),
        lambda one: has_attention(one) and off(one, "gpt_attention_plugin") and on(one, "remove_input_padding"),
        "set remove_input_padding to false, or gpt_attention_plugin to auto",
    ),
    Rule(
        *("no gpt_attention_plugin with a paged KV cache", TOGETHER, "build.gpt_attention_plugin"),
        lambda one: (
            has_attention(one)
            and off(one, "gpt_attention_plugin")
            and one.options.kv_cache_type not in {"continuous", "disabled"}
        ),
        "set kv_cache_type to continuous, or gpt_attention_plugin to auto",
    ),
)

MLP_RULES = (
    *(
        Rule(
            *(f"{plugin} without {FUSED}", TOGETHER, f"build.{plugin}"),
            lambda one, plugin=plugin: on(one, plugin) and off(one, FUSED),  # type: ignore[misc]
            f"set {FUSED} to true, or leave {plugin} out",
        )
        for plugin in (SWIGLU, FAST_SWIGLU)
    ),
    *(
        Rule(
            *(f"{plugin} with weights that are not quantized", FORMAT, f"build.{plugin}"),
            lambda one, plugin=plugin: has_gated_mlp(one) and on(one, plugin) and one.precision in FLOATS,  # type: ignore[misc]
            f"leave {plugin} out, or use precision: fp8",
        )
        for plugin in (SWIGLU, FAST_SWIGLU)
    ),
    Rule(
        *(f"{SWIGLU} with int8 or int4 weights", FORMAT, f"build.{SWIGLU}"),
        lambda one: has_gated_mlp(one) and on(one, SWIGLU) and on(one, FUSED) and one.precision in WEIGHT_ONLY,
        WITHOUT_SWIGLU,
    ),
    Rule(
        *(f"{SWIGLU} with SmoothQuant", FORMAT, f"build.{SWIGLU}"),
        lambda one: on(one, SWIGLU) and on(one, FUSED) and one.precision == INT8_SQ,
        WITHOUT_SWIGLU,
    ),
    Rule(
        *(f"{SWIGLU} with activations that are not float16", FORMAT, f"build.{SWIGLU}"),
        lambda one: (
            has_gated_mlp(one)
            and on(one, SWIGLU)
            and on(one, FUSED)
            and one.precision == FP8
            and one.dtype not in {"", "float16"}
        ),
        f"{WITHOUT_SWIGLU}, or use a release from 0.14.0 on",
    ),
    Rule(
        *(f"{SWIGLU} with LoRA of the MLP", TOGETHER, f"build.{SWIGLU}"),
        lambda one: has_gated_mlp(one) and on(one, SWIGLU) and one.precision == FP8 and _adapted_mlp(one),
        f"{WITHOUT_SWIGLU}, or the MLP out of lora_target_modules",
    ),
    Rule(
        *(f"{FUSED} with int8 or int4 weights", FORMAT, f"build.{FUSED}"),
        lambda one: has_gated_mlp(one) and bool(one.options.use_fused_mlp) and one.precision in WEIGHT_ONLY,
        f"leave {FUSED} out",
    ),
    Rule(
        *(f"{FUSED} for an activation that is not SiLU", MODEL, f"build.{FUSED}"),
        lambda one: on(one, FUSED) and architecture(one) == "GemmaForCausalLM" and one.precision in {*FLOATS, FP8},
        f"leave {FUSED} out",
    ),
    Rule(
        *(f"{FUSED} turned off", VALUE, f"build.{FUSED}"),
        lambda one: turned_off(one, FUSED) and one.precision in {*FLOATS, FP8},
    ),
    Rule(
        *("no moe_plugin with int8 or int4 weights", FORMAT, "build.moe_plugin"),
        lambda one: has_experts(one) and off(one, "moe_plugin") and one.precision in WEIGHT_ONLY,
        "set moe_plugin to auto",
    ),
    Rule(
        *("fast_build with int8 or int4 weights", FORMAT, "build.fast_build"),
        lambda one: on(one, "fast_build") and one.precision in {*WEIGHT_ONLY, INT8_SQ},
        "set fast_build to false",
    ),
    Rule(
        *("strongly_typed turned off, with fp8", FORMAT, "build.strongly_typed"),
        lambda one: turned_off(one, "strongly_typed") and (one.precision == FP8 or _fp8_cache(one)),
    ),
)

GPU_RULES = (
    Rule(
        *("int8 or int4 weights on Blackwell", GPU, "precision"),
        lambda one: on_blackwell(one) and one.precision in WEIGHT_ONLY,
        "use fp8 or nvfp4, or another GPU",
    ),
    Rule(
        *("SmoothQuant on Blackwell", GPU, "precision"),
        lambda one: on_blackwell(one) and one.precision == INT8_SQ,
        "use fp8 or nvfp4, or another GPU",
    ),
    Rule(
        *("an int8 KV cache on Blackwell", GPU, "convert.kv_cache"),
        lambda one: on_blackwell(one) and one.kv_cache == "int8",
        "use auto or fp8",
    ),
    Rule(
        *("no moe_plugin on Blackwell", GPU, "build.moe_plugin"),
        lambda one: (
            one.gpu is not None and one.gpu.capability >= (10, 0) and has_experts(one) and off(one, "moe_plugin")
        ),
        "set moe_plugin to auto",
    ),
    *(
        Rule(
            *(f"{plugin} on Blackwell", GPU, f"build.{plugin}"),
            lambda one, plugin=plugin: on_first_blackwell(one) and on(one, plugin),  # type: ignore[misc]
            f"leave {plugin} out",
        )
        for plugin in HOPPER
    ),
)

FUSION_RULES = (
    Rule(
        *("reduce_fusion on one GPU", TOGETHER, "build.reduce_fusion"),
        lambda one: on(one, "reduce_fusion") and one.tensor_parallel == 1,
    ),
    Rule(
        *("reduce_fusion for another model than Llama", MODEL, "build.reduce_fusion"),
        lambda one: on(one, "reduce_fusion") and known_and_not(one, LLAMA, GEMMA_2),
    ),
    Rule(
        *("reduce_fusion for Gemma 2", MODEL, "build.reduce_fusion"),
        lambda one: on(one, "reduce_fusion") and architecture(one) == GEMMA_2,
    ),
    Rule(
        *("reduce_fusion with pipeline_parallel", TOGETHER, "build.reduce_fusion"),
        lambda one: fuses_reduction(one) and one.pipeline_parallel > 1,
    ),
    Rule(
        *("user_buffer without reduce_fusion", TOGETHER, "build.user_buffer"),
        lambda one: on(one, "user_buffer") and not fuses_reduction(one),
    ),
    Rule(
        *("user_buffer with weights that are not fp8 or nvfp4", FORMAT, "build.user_buffer"),
        lambda one: (
            on(one, "user_buffer")
            and fuses_reduction(one)
            and architecture(one) == LLAMA
            and bool(one.precision)
            and one.precision not in {FP8, NVFP4}
        ),
        "set user_buffer to false, or use precision: fp8",
    ),
    Rule(
        *("norm_quant_fusion without nvfp4 weights of Llama", FORMAT, "build.norm_quant_fusion"),
        lambda one: (
            on(one, "norm_quant_fusion")
            and bool(one.precision)
            and (fuses_reduction(one) or known_and_not(one, LLAMA) or one.precision != NVFP4)
        ),
    ),
    Rule(
        *("pp_reduce_scatter for another model than Mixtral", VALUE, "build.pp_reduce_scatter"),
        lambda one: on(one, "pp_reduce_scatter") and known_and_not(one, MIXTRAL),
        "leave it out",
    ),
    Rule(
        *("nccl_plugin in another type than the activations", FORMAT, "build.nccl_plugin"),
        lambda one: one.ranks > 1 and bool(one.dtype) and one.options.nccl_plugin not in {None, "auto", one.dtype},
    ),
)

DRAFT_RULES = (
    Rule(
        *("eagle for a model without EAGLE layers", MODEL, "build.speculative_decoding_mode"),
        lambda one: _eagle(one) and bool(architecture(one)) and "Eagle" not in architecture(one),
        "leave it out, or use another mode",
    ),
    Rule(
        *("eagle with max_batch_size over 512", TOGETHER, "build.max_batch_size"),
        lambda one: _eagle(one) and (value(one, "max_batch_size") or 0) > EAGLE_BATCH,
        f"set max_batch_size to at most {EAGLE_BATCH}",
        ("max_batch_size",),
    ),
    Rule(
        *("eagle with max_draft_len over 256", TOGETHER, "build.max_draft_len"),
        lambda one: _eagle(one) and drafts(one) > EAGLE_DRAFTS,
        f"set max_draft_len to at most {EAGLE_DRAFTS}",
        ("max_draft_len",),
    ),
    Rule(
        *(f"eagle without {PAGED}", TOGETHER, f"build.{PAGED}"),
        lambda one: _eagle(one) and off(one, PAGED),
    ),
    Rule(
        *("speculative_decoding_mode with max_draft_len", TOGETHER, "build.max_seq_len"),
        lambda one: drafts(one) > 0,
        shown=("max_draft_len",),
    ),
    Rule(
        *("speculative_decoding_mode with few max_num_tokens", TOGETHER, "build.max_num_tokens"),
        lambda one: (
            drafts(one) > 0
            and 0 < (value(one, "max_num_tokens") or 0) < int(value(one, "max_batch_size")) * (drafts(one) + 1)
        ),
        shown=("max_num_tokens", "max_batch_size", "max_draft_len"),
    ),
)

SIZE_RULES = (
    Rule(
        *("max_num_tokens without remove_input_padding", TOGETHER, "build.max_num_tokens"),
        lambda one: (
            turned_off(one, "remove_input_padding")
            and (one.options.max_num_tokens is not None or one.options.opt_num_tokens is not None)
        ),
    ),
    Rule(
        *("max_num_tokens over what all requests can have", TOGETHER, "build.max_num_tokens"),
        lambda one: on(one, "remove_input_padding") and 0 < tokens_of_all(one) < _limit(one),
        shown=("max_num_tokens", "max_batch_size"),
    ),
    Rule(
        *("max_num_tokens under max_input_len, without context_fmha", TOGETHER, "build.max_num_tokens"),
        lambda one: (
            on(one, "remove_input_padding")
            and turned_off(one, "context_fmha")
            and 0 < _limit(one) < min(one.input_length(), positions(one) or one.input_length())
        ),
        shown=("max_num_tokens", "max_input_len"),
    ),
    Rule(
        *("max_num_tokens under tokens_per_block", TOGETHER, "build.max_num_tokens"),
        lambda one: (
            on(one, "remove_input_padding")
            and not turned_off(one, "context_fmha")
            and 0 < _limit(one) < int(value(one, "tokens_per_block") or 0)
        ),
        shown=("max_num_tokens", "tokens_per_block"),
    ),
    Rule(
        *("opt_num_tokens over the default of max_num_tokens", TOGETHER, "build.opt_num_tokens"),
        lambda one: (
            on(one, "remove_input_padding")
            and one.options.max_num_tokens is None
            and (one.options.opt_num_tokens or 0) > (one.default("max_num_tokens") or one.options.opt_num_tokens or 0)
        ),
        shown=("opt_num_tokens", "max_num_tokens"),
    ),
)

STATES = ("Mamba", "RecurrentGemma")
_NO_CONVOLUTION = "set mamba_conv1d_plugin to auto, or remove_input_padding to false"

MODEL_RULES = (
    Rule(
        *("streamingllm for another model than Llama", VALUE, "build.streamingllm"),
        lambda one: on(one, "streamingllm") and known_and_not(one, LLAMA),
        "leave it out",
    ),
    Rule(
        *("streamingllm", VALUE, "build.streamingllm"),
        lambda one: on(one, "streamingllm"),
        "leave it out, or build with 0.16.0 or older",
    ),
    Rule(
        *("kv_cache_type that contradicts paged_state", TOGETHER, "build.kv_cache_type"),
        lambda one: (
            starts(one, *STATES)
            and one.options.kv_cache_type is not None
            and value(one, "paged_state") is not None
            and not _same_as_paged(one)
        ),
        "set paged_state to true for paged, and to false for continuous and disabled",
        ("kv_cache_type", "paged_state"),
    ),
    Rule(
        *("paged_state for a model without a state", MODEL, "build.paged_state"),
        lambda one: bool(one.options.paged_state) and bool(architecture(one)) and not starts(one, *STATES),
    ),
    *(
        rule
        for state in STATES
        for rule in (
            Rule(
                *(f"max_beam_width over 1 for {state}", MODEL, "build.max_beam_width"),
                lambda one, state=state: starts(one, state) and (one.options.max_beam_width or 1) > 1,  # type: ignore[misc]
                "set max_beam_width to 1",
            ),
            Rule(
                *(f"no mamba_conv1d_plugin for {state}", TOGETHER, "build.mamba_conv1d_plugin"),
                lambda one, state=state: (  # type: ignore[misc]
                    starts(one, state) and off(one, "mamba_conv1d_plugin") and on(one, "remove_input_padding")
                ),
                _NO_CONVOLUTION,
            ),
        )
    ),
    Rule(
        *("a paged KV cache for GPT-NeoX", MODEL, "build.kv_cache_type"),
        lambda one: starts(one, "GPTNeoX") and one.options.kv_cache_type != "continuous",
        "set kv_cache_type to continuous, or use a later release",
    ),
    Rule(
        *("no remove_input_padding for DeepSeek-V2", MODEL, "build.remove_input_padding"),
        lambda one: starts(one, "DeepseekV2") and turned_off(one, "remove_input_padding"),
        "leave it out",
    ),
)

ADAPTER_RULES = (
    Rule(
        *("LoRA for a mixture of experts", MODEL, "build.lora_plugin"),
        lambda one: (
            has_experts(one)
            and on(one, "lora_plugin")
            and bool(one.options.lora_dir or one.options.lora_target_modules)
        ),
        "leave lora_plugin out, or use a later release",
    ),
    Rule(
        *("lora_plugin without lora_dir and lora_target_modules", TOGETHER, "build.lora_plugin"),
        lambda one: (
            on(one, "lora_plugin")
            and not one.options.lora_dir
            and not one.options.lora_target_modules
            and not takes_no_adapters(one)
        ),
        "give lora_target_modules or lora_dir, or leave lora_plugin out",
    ),
    Rule(
        *("lora_plugin for a model that takes no adapters", MODEL, "build.lora_plugin"),
        lambda one: on(one, "lora_plugin") and takes_no_adapters(one),
        "leave lora_plugin out",
    ),
    Rule(
        *("lora_plugin in another type than the activations, with fp8 weights", FORMAT, "build.lora_plugin"),
        lambda one: (
            one.precision == FP8
            and bool(one.dtype)
            and on(one, "lora_plugin")
            and value(one, "lora_plugin") not in {"auto", one.dtype}
            and bool(one.options.lora_dir or one.options.lora_target_modules)
        ),
        "set lora_plugin to auto",
    ),
    Rule(
        *("gemm_allreduce_plugin with lora_plugin", TOGETHER, "build.gemm_allreduce_plugin"),
        lambda one: on(one, "gemm_allreduce_plugin") and on(one, "lora_plugin"),
        "leave one of the two out",
    ),
)

RULES = (
    *(_LOGITS, _PROFILES),
    *ATTENTION_RULES,
    *MLP_RULES,
    *GPU_RULES,
    *FUSION_RULES,
    *DRAFT_RULES,
    *SIZE_RULES,
    *MODEL_RULES,
    *ADAPTER_RULES,
)
"""All rules. An engine may fall under several of them."""

__all__ = ["GATED", "RULES", "Rule"]
