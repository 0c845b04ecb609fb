"""How an engine is built: the part `build` of a spec.

The fields are in the order of their flags on the command line.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from enginery.spec.types import AtLeastOne, NotNegative, SpecModel


def _no_word(value: object) -> object:
    """Refuse `enable` and `disable`, TensorRT-LLM's words for true and false."""
    if isinstance(value, str) and value in {"enable", "disable"}:
        raise ValueError(f"write {'true' if value == 'enable' else 'false'} in place of {value}")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"must be an absolute path (given {value!r})")
    return value


def _no_braces(value: str) -> str:
    if {"{", "}"} & set(value):
        raise ValueError(f"must have no braces: a recipe uses them for its placeholders (given {value!r})")
    return value


Switch = Annotated[bool, BeforeValidator(_no_word)]
Argument = Annotated[str, AfterValidator(_no_braces)]
PathArgument = Annotated[str, AfterValidator(_absolute), AfterValidator(_no_braces)]
Plugin = Literal["auto", "float16", "float32", "bfloat16", "int32", "disable"]
GemmPlugin = Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"]
Fp8Plugin = Literal["fp8", "disable"]
LoraModule = Literal[
    "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense",
    "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "mlp_gate_up", "mlp_router",
    "cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense",
    "moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router",
]  # fmt: skip


_CACHE = "leave it out: Enginery keeps timing caches in the store, and uses them in every build"
_EXTRA = "give it in extra_args, with its dashes"
FLAGS_ELSEWHERE = {
    "paged_kv_cache": "use kv_cache_type: paged, or continuous",
    "tp_size": "use the target's tensor_parallel",
    "pp_size": "use the target's pipeline_parallel",
    "weight_only_precision": "use the target's precision, such as int8_wo",
    **dict.fromkeys(("timing_cache", "input_timing_cache", "output_timing_cache"), _CACHE),
    **dict.fromkeys(("log_level", "enable_debug_output", "monitor_memory", "visualize_network"), _EXTRA),
}
"""Flags of `trtllm-build`, of any release, that are not fields here: flag without dashes -> what to do instead."""


class BuildOptions(SpecModel):
    """How an engine is built. A field that is left out has the release's own default, which the plan shows.

    The names are those of the newest `trtllm-build`. If a flag has another name in a release, it is translated. A field
    that a release does not support is refused, unless its value is what the release does anyway. All fields are for
    backend `tensorrt`, except `int4_*`.
    """

    max_batch_size: AtLeastOne | None = None
    """Most requests that the engine runs at once."""
    max_input_len: AtLeastOne | None = None
    """Longest prompt in tokens."""
    max_output_len: AtLeastOne | None = None
    """Longest answer in tokens; give this or `max_seq_len`."""
    max_seq_len: AtLeastOne | None = None
    """Longest prompt and answer together, in tokens; give this or `max_output_len`."""
    max_encoder_input_len: AtLeastOne | None = None
    """Longest input of the encoder, of an encoder-decoder model (from 0.10)."""
    max_num_tokens: AtLeastOne | None = None
    """Most tokens of all requests together in one step, without padding."""
    opt_num_tokens: AtLeastOne | None = None
    """The number of tokens in one step that the engine is optimized for (from 0.9)."""
    max_beam_width: AtLeastOne | None = None
    """Most beams of a beam search."""
    max_prompt_embedding_table_size: NotNegative | None = None
    """Most virtual tokens of prompt tuning or of images; 0 for none."""
    kv_cache_type: Literal["paged", "continuous", "disabled"] | None = None
    """How the KV cache lies in memory: in blocks, in one piece, or without any (`disabled`, from 0.13)."""
    tokens_per_block: AtLeastOne | None = None
    """Tokens in one block of a paged KV cache."""
    gpt_attention_plugin: Plugin | None = None
    """The attention plugin of decoders, by its data type. Up to 0.10 this must be the data type of the activations,
    unless they are float16; `auto` sets it so."""
    bert_attention_plugin: Plugin | None = None
    """The attention plugin of encoders, by its data type."""
    gemm_plugin: GemmPlugin | None = None
    """The plugin for matrix products, by its data type; `fp8` from 0.11, `nvfp4` from 0.17."""
    nccl_plugin: Plugin | None = None
    """The plugin for communication between GPUs (from 0.10). Its data type is always that of the activations."""
    moe_plugin: Plugin | None = None
    """The plugin for mixtures of experts, by its data type (from 0.9)."""
    mamba_conv1d_plugin: Plugin | None = None
    """The plugin for Mamba's convolutions, by its data type (from 0.9)."""
    lookup_plugin: Plugin | None = None
    """The plugin for embedding lookups, by its data type (up to 0.14)."""
    lora_plugin: Plugin | None = None
    """The plugin for LoRA adapters, by its data type; without it the engine takes no adapters."""
    dora_plugin: Switch | None = None
    """Allow DoRA adapters; needs `lora_plugin` (from 0.19)."""
    gemm_swiglu_plugin: Fp8Plugin | None = None
    """The plugin that computes a gated MLP as one matrix product (from 0.11, Hopper)."""
    low_latency_gemm_plugin: Fp8Plugin | None = None
    """The plugin for matrix products of few tokens (from 0.13)."""
    low_latency_gemm_swiglu_plugin: Fp8Plugin | None = None
    """The plugin for a gated MLP of few tokens (from 0.15)."""
    fp8_rowwise_gemm_plugin: Plugin | None = None
    """The plugin for fp8 matrix products with one scale for each row, by its data type (from 0.12)."""
    gemm_allreduce_plugin: Literal["float16", "bfloat16", "disable"] | None = None
    """The plugin that fuses a matrix product with the all-reduce between GPUs, by its data type (from 0.19)."""
    context_fmha: Switch | None = None
    """Compute the attention of prompts in one fused kernel."""
    context_fmha_fp32_acc: Switch | None = None
    """Accumulate in float32 in the attention of prompts (up to 0.11; later `serving.enable_context_fmha_fp32_acc`)."""
    use_paged_context_fmha: Switch | None = None
    """Let the fused attention of prompts read a paged KV cache. KV cache reuse and chunked prompts need this."""
    use_fp8_context_fmha: Switch | None = None
    """Compute the fused attention of prompts in fp8 if the KV cache is fp8 (from 0.9)."""
    remove_input_padding: Switch | None = None
    """Pack prompts of different lengths instead of padding them."""
    multiple_profiles: Switch | None = None
    """Give TensorRT several ranges of sizes to optimize for: a longer build and a faster engine (from 0.9)."""
    builder_force_num_profiles: AtLeastOne | None = None
    """How many ranges of sizes TensorRT gets to optimize for (from 0.12)."""
    use_fused_mlp: Switch | None = None
    """Compute the first two matrix products of a gated MLP as one."""
    reduce_fusion: Switch | None = None
    """Fuse the all-reduce between GPUs with the residual and the norm that follow it (from 0.11)."""
    user_buffer: Switch | None = None
    """Avoid a copy in the all-reduce between GPUs (from 0.16)."""
    norm_quant_fusion: Switch | None = None
    """Let norms quantize their output (from 0.19)."""
    fuse_fp4_quant: Switch | None = None
    """Let attention quantize its output to fp4 (from 0.19)."""
    pp_reduce_scatter: Switch | None = None
    """Send only each GPU's part of a result to the next pipeline stage; for Mixtral only (from 0.15)."""
    use_custom_all_reduce: Switch | None = None
    """Use TensorRT-LLM's own kernels for the all-reduce between GPUs (a choice up to 0.11)."""
    multi_block_mode: Switch | None = None
    """Spread one request's attention over several blocks of the GPU (up to 0.11; later `serving.multi_block_mode`)."""
    enable_xqa: Switch | None = None
    """Use the XQA kernels for grouped attention (a choice up to 0.15)."""
    paged_state: Switch | None = None
    """Keep the state of Mamba and RecurrentGemma in blocks, as `kv_cache_type: paged` does (from 0.9)."""
    streamingllm: Switch | None = None
    """Limit attention to the first tokens and a window of the last ones (from 0.9 for Llama, refused by 1.3.0rc3)."""
    lora_dir: Annotated[tuple[PathArgument, ...], Field(min_length=1)] | None = None
    """LoRA adapters to read the modules from: absolute paths as the toolchain sees them. The step key has their paths,
    not their content. Needs `lora_plugin` (from 0.9)."""
    lora_ckpt_source: Literal["hf", "nemo"] | None = None
    """The format of `lora_dir` (from 0.9)."""
    lora_target_modules: Annotated[tuple[LoraModule, ...], Field(min_length=1)] | None = None
    """The modules that adapters may change; needs `lora_plugin` (from 0.9)."""
    max_lora_rank: AtLeastOne | None = None
    """Largest rank of an adapter; needs `lora_plugin` (from 0.9)."""
    speculative_decoding_mode: (
        Literal["draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"] | None
    ) = None
    """Where draft tokens come from (from 0.10; the newest modes later)."""
    max_draft_len: NotNegative | None = None
    """Most draft tokens at once (from 0.9)."""
    logits_dtype: Literal["float16", "float32"] | None = None
    """The data type of the logits."""
    gather_context_logits: Switch | None = None
    """Return the logits of the prompt's tokens."""
    gather_generation_logits: Switch | None = None
    """Return the logits of the answer's tokens."""
    gather_all_token_logits: Switch | None = None
    """Return the logits of the prompt's and of the answer's tokens."""
    weight_streaming: Switch | None = None
    """Allow weights to stay in host memory and be streamed (from 0.10)."""
    weight_sparsity: Switch | None = None
    """Use structured sparsity of the weights (from 0.9)."""
    strip_plan: Switch | None = None
    """Leave weights out of the engine that a refit can put back (from 0.10)."""
    strongly_typed: Switch | None = None
    """Keep to the network's data types (a choice up to 0.10)."""
    builder_opt: Annotated[int, Field(ge=0, le=5)] | None = None
    """TensorRT's optimization level (up to 0.13)."""
    fast_build: Switch | None = None
    """Build faster, at the cost of a slower engine (from 0.12)."""
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] | None = None
    """How much the engine tells a profiler."""
    workers: AtLeastOne | None = None
    """How many ranks are built at once."""
    extra_args: tuple[Argument, ...] = ()
    """More arguments for `trtllm-build`, as they are: flags of the release that have no field here."""
    int4_algorithm: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    """How int4 is made, and which matrices keep 8 bits: `default`, `rtn`, `rtn_last`, `rtn_mixed`, `k_quant`,
    `k_quant_last`, `k_quant_mixed` or `k_quant_linear`, in release 0.18. The default is `k_quant_mixed` where the model
    allows it. Backend `onnxruntime` only."""
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = None
    """How many weights share one scale in int4. Backend `onnxruntime` only; its builder's default is 32."""
    int4_accuracy_level: Literal[0, 1, 2, 3, 4] | None = None
    """Lowest precision of int4's arithmetic: 1 float32, 2 float16, 3 bfloat16, 4 int8; 0 leaves it to the runtime.
    Backend `onnxruntime` only."""
