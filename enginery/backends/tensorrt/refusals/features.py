"""Rules about fusion between GPUs, draft tokens, sizes, kinds of models, and adapters."""

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.refusals.options import (
    GEMMA_2,
    LLAMA,
    MIXTRAL,
    architecture,
    drafts,
    fuses_reduction,
    has_experts,
    known_and_not,
    off,
    on,
    positions,
    size,
    starts,
    takes_no_adapters,
    tokens_of_all,
    turned_off,
    value,
)
from enginery.backends.tensorrt.refusals.rule import (
    FORMAT,
    FP8,
    MODEL,
    NVFP4,
    PAGED,
    TOGETHER,
    VALUE,
    Rule,
)

EAGLE = "eagle"
EAGLE_BATCH, EAGLE_DRAFTS = 512, 256
STATES = ("Mamba", "RecurrentGemma")
"""The beginning of architectures with a state."""


def _eagle(one: EngineOptions) -> bool:
    return one.options.speculative_decoding_mode == EAGLE


def _limit(one: EngineOptions) -> int:
    return one.options.max_num_tokens or 0


def _same_as_paged(one: EngineOptions) -> bool:
    """Whether `kv_cache_type` says what `paged_state` says."""
    return (one.options.kv_cache_type == "paged") == on(one, "paged_state")


LOGITS = Rule(
    *("gather_context_logits with max_draft_len", TOGETHER, "build.gather_context_logits"),
    lambda one: bool(
        (one.options.gather_context_logits or one.options.gather_all_token_logits) and one.options.max_draft_len
    ),
    "set max_draft_len to 0, or ask only for gather_generation_logits",
    ("max_draft_len",),
)
PROFILES = Rule(
    *("multiple_profiles with opt_num_tokens", TOGETHER, "build.opt_num_tokens"),
    lambda one: on(one, "multiple_profiles") and one.options.opt_num_tokens is not None,
    "leave opt_num_tokens out, or set multiple_profiles to false",
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
        *("user_buffer with nvfp4 weights and no gemm_plugin", TOGETHER, "build.user_buffer"),
        lambda one: (
            on(one, "user_buffer")
            and fuses_reduction(one)
            and architecture(one) == LLAMA
            and one.precision == NVFP4
            and turned_off(one, "gemm_plugin")
        ),
        "leave gemm_plugin out",
    ),
    Rule(
        *("gemm_plugin of another type with nvfp4 weights", FORMAT, "build.gemm_plugin"),
        lambda one: (
            one.precision == NVFP4 and one.options.gemm_plugin not in {None, "nvfp4"} and on(one, "gemm_plugin")
        ),
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
        lambda one: _eagle(one) and size(one, "max_batch_size") > EAGLE_BATCH,
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
            drafts(one) > 0 and 0 < size(one, "max_num_tokens") < size(one, "max_batch_size") * (drafts(one) + 1)
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
            and 0 < _limit(one) < size(one, "tokens_per_block")
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
    *(
        Rule(
            *(f"draft_tokens_external for {state}", MODEL, "build.speculative_decoding_mode"),
            lambda one, state=state: (  # type: ignore[misc]
                starts(one, state) and one.options.speculative_decoding_mode == "draft_tokens_external"
            ),
            "leave it out",
        )
        for state in STATES
    ),
    Rule(
        *("tensor_parallel for Mamba", MODEL, "tensor_parallel"),
        lambda one: architecture(one) == "MambaForCausalLM" and one.tensor_parallel > 1,
        "set tensor_parallel to 1",
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
