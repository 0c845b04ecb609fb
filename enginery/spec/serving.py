"""How Triton serves an engine: the part `serving` of a spec."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from enginery.spec.types import AtLeastOne, NotNegative, SpecModel

Share = Annotated[float, Field(gt=0, le=1)]
DEFAULT_BATCH = 64
"""The default of `max_batch_size` with TensorRT-LLM, as in NVIDIA's getting-started article."""
TensorType = Literal["TYPE_FP32", "TYPE_FP16", "TYPE_BF16"]


class ServingOptions(SpecModel):
    """How Triton serves the engine. Fields marked (C++) are for TensorRT-LLM's own Triton backend.

    If such a field is left out, it has the release's default; in 0.8.0, the value of NVIDIA's getting-started article.
    """

    max_batch_size: AtLeastOne | None = None
    """Most requests that run in one batch; when left out, 64 with TensorRT-LLM (`tensorrt` and `pytorch`) and 8 with
    `onnxruntime`. With `pytorch` the smaller of this and `build.max_batch_size` is used."""
    max_queue_size: NotNegative | None = None
    """Most requests that may wait; no limit with 0 or when left out (C++, from 0.12)."""
    max_queue_delay_microseconds: NotNegative = 0
    """How long a request may wait for others to share its batch."""
    decoupled: bool = False
    """Allow streaming (`generate_stream`). The HTTP client's `infer` cannot be used with a decoupled model."""
    preprocessing_instance_count: AtLeastOne = 1
    """Copies of the tokenizing model."""
    postprocessing_instance_count: AtLeastOne = 1
    """Copies of the detokenizing model."""
    bls_instance_count: AtLeastOne = 1
    """Copies of the model that calls the others from a script (`tensorrt_llm_bls`)."""
    exclude_input_in_output: bool = True
    """Return the answer without the prompt."""
    accumulate_tokens: bool | None = None
    """Let `tensorrt_llm_bls` stream the whole text so far in each piece (backend `tensorrt`)."""
    add_special_tokens: bool | None = None
    """Add the tokenizer's special tokens to a prompt; when left out, false in 0.8.0 and true from 0.9 (backend
    `tensorrt`)."""
    skip_special_tokens: bool | None = None
    """Leave special tokens out of the text; true when left out (backend `tensorrt`)."""
    mount: Annotated[str, StringConstraints(pattern=r"^/[^\s:,$]*[^\s:,$/]$")] = "/models"
    """The path of the model repository, as the Triton server sees it: the C++ backend needs absolute paths."""
    batching_strategy: Literal["inflight_fused_batching", "inflight_batching", "V1"] | None = None
    """How requests share the engine (C++): in flight, or in fixed batches (`V1`). In flight, fused, when left out."""
    scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] | None = None
    """Whether a running request may be paused when the KV cache is full (C++). It may not, when left out."""
    max_beam_width: AtLeastOne | None = None
    """Most beams that a request may ask for; 1 when left out (C++). The engine must be built for at least as many."""
    kv_cache_free_gpu_mem_fraction: Share | None = None
    """Part of the free GPU memory that the KV cache may take. TensorRT-LLM only."""
    cross_kv_cache_fraction: Share | None = None
    """Part of the KV cache that is for the cross attention of an encoder-decoder model (C++)."""
    kv_cache_host_memory_bytes: NotNegative | None = None
    """Host memory for KV cache that does not fit into GPU memory, in bytes (C++)."""
    kv_cache_onboard_blocks: bool | None = None
    """Bring blocks from host memory back to the GPU before they are used (C++)."""
    max_tokens_in_paged_kv_cache: AtLeastOne | None = None
    """Most tokens in the KV cache (C++)."""
    max_attention_window_size: AtLeastOne | tuple[AtLeastOne, ...] | None = None
    """How far back attention reaches, in tokens; from 0.13 also a list with one for each layer (C++)."""
    sink_token_length: NotNegative | None = None
    """How many tokens at the beginning always stay within reach of attention (C++)."""
    enable_kv_cache_reuse: bool | None = None
    """Reuse the KV cache of a prompt for prompts with the same beginning (C++). The engine needs paged context FMHA."""
    enable_chunked_context: bool | None = None
    """Process long prompts in pieces (C++). The engine needs paged context FMHA."""
    enable_trt_overlap: bool | None = None
    """Prepare the next batch while one runs (C++, 0.8, 0.9 and from 1.3)."""
    normalize_log_probs: bool | None = None
    """Return log probabilities with the sampling parameters applied (C++)."""
    gpu_device_ids: tuple[NotNegative, ...] | None = None
    """Which GPUs of the machine to use, one for each rank (C++)."""
    participant_ids: tuple[NotNegative, ...] | None = None
    """Which MPI ranks take part (C++, from 0.13)."""
    num_nodes: AtLeastOne | None = None
    """How many machines share the engine (C++, from 0.19)."""
    lora_cache_optimal_adapter_size: AtLeastOne | None = None
    """Size of LoRA adapters that the cache is planned for (C++, from 0.9)."""
    lora_cache_max_adapter_size: AtLeastOne | None = None
    """Largest LoRA adapter that the cache takes (C++, from 0.9)."""
    lora_cache_gpu_memory_fraction: Share | None = None
    """Part of the GPU memory, after the engine is loaded, for the LoRA cache (C++, from 0.9)."""
    lora_cache_host_memory_bytes: NotNegative | None = None
    """Host memory for the LoRA cache, in bytes (C++, from 0.9)."""
    lora_prefetch_dir: str | None = None
    """Directory of LoRA adapters to load at the start, as the server sees it (C++, from 0.19)."""
    decoding_mode: (
        Literal["top_k", "top_p", "top_k_top_p", "beam_search", "medusa", "redrafter", "lookahead", "eagle"] | None
    ) = None
    """How tokens are decoded; the backend decides when left out (C++, from 0.9)."""
    medusa_choices: tuple[tuple[NotNegative, ...], ...] | None = None
    """The tree of Medusa's heads, such as `[[0], [0, 0], [1]]` (C++, from 0.9)."""
    eagle_choices: tuple[tuple[NotNegative, ...], ...] | None = None
    """The tree of EAGLE's drafts, such as `[[0], [0, 0], [1]]` (C++, from 0.16)."""
    lookahead_window_size: AtLeastOne | None = None
    """Window of lookahead decoding (C++, from 0.19)."""
    lookahead_ngram_size: AtLeastOne | None = None
    """N-gram size of lookahead decoding (C++, from 0.19)."""
    lookahead_verification_set_size: AtLeastOne | None = None
    """Verification set of lookahead decoding (C++, from 0.19)."""
    speculative_decoding_fast_logits: bool | None = None
    """Send a draft model's logits directly (C++, from 0.15)."""
    guided_decoding_backend: Literal["xgrammar"] | None = None
    """The library that makes answers follow a grammar (C++, from 0.19); needs `xgrammar_tokenizer_info_path`."""
    xgrammar_tokenizer_info_path: str | None = None
    """The tokenizer's description for XGrammar, as the server sees it (C++, from 0.19)."""
    gpu_weights_percent: Annotated[float, Field(ge=0, le=1)] | None = None
    """Part of the weights that stay in GPU memory, for an engine built for weight streaming (C++, from 0.10)."""
    enable_context_fmha_fp32_acc: bool | None = None
    """Accumulate in float32 in the attention of prompts (C++, from 0.12)."""
    multi_block_mode: bool | None = None
    """Spread one request's attention over several blocks of the GPU (C++, from 0.12)."""
    cuda_graph_mode: bool | None = None
    """Run the engine as CUDA graphs (C++, from 0.15)."""
    cuda_graph_cache_size: NotNegative | None = None
    """How many CUDA graphs to keep (C++, from 0.15)."""
    cancellation_check_period_ms: AtLeastOne | None = None
    """How often to look for cancelled requests, in milliseconds (C++, from 0.10)."""
    stats_check_period_ms: AtLeastOne | None = None
    """How often to collect statistics, in milliseconds (C++, from 0.10)."""
    iter_stats_max_iterations: NotNegative | None = None
    """For how many iterations to keep statistics (C++, from 0.10)."""
    request_stats_max_iterations: NotNegative | None = None
    """For how many iterations to keep statistics of requests (C++, from 0.10)."""
    logits_datatype: TensorType | None = None
    """Type of returned logits; `TYPE_FP32` when left out (C++, from 0.17)."""
    encoder_input_features_data_type: TensorType | None = None
    """Type of an encoder's input features; `TYPE_FP16` when left out (C++, from 0.15)."""
    prompt_embedding_table_data_type: TensorType | None = None
    """Type of prompt embedding tables; `TYPE_FP16` when left out (C++, from 1.3)."""
