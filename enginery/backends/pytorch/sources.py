"""Which fields of a spec say what an argument of the LLM API says, as the page on TensorRT-LLM's migration has it."""

from collections.abc import Mapping

from enginery.backends.pytorch.setting import Path

KV_CACHE = "kv_cache_config"

FROM_BUILD: Mapping[str, Path] = {
    "max_batch_size": ("max_batch_size",),
    "max_input_len": ("max_input_len",),
    "max_seq_len": ("max_seq_len",),
    "max_num_tokens": ("max_num_tokens",),
    "max_beam_width": ("max_beam_width",),
    "tokens_per_block": (KV_CACHE, "tokens_per_block"),
    "gather_generation_logits": ("gather_generation_logits",),
}
FROM_SERVING: Mapping[str, Path] = {
    "max_beam_width": ("max_beam_width",),
    "kv_cache_free_gpu_mem_fraction": (KV_CACHE, "free_gpu_memory_fraction"),
    "cross_kv_cache_fraction": (KV_CACHE, "cross_kv_cache_fraction"),
    "kv_cache_host_memory_bytes": (KV_CACHE, "host_cache_size"),
    "kv_cache_onboard_blocks": (KV_CACHE, "onboard_blocks"),
    "max_tokens_in_paged_kv_cache": (KV_CACHE, "max_tokens"),
    "max_attention_window_size": (KV_CACHE, "max_attention_window"),
    "sink_token_length": (KV_CACHE, "sink_token_length"),
    "enable_kv_cache_reuse": (KV_CACHE, "enable_block_reuse"),
    "enable_chunked_context": ("enable_chunked_prefill",),
    "scheduler_policy": ("scheduler_config", "capacity_scheduler_policy"),
    "guided_decoding_backend": ("guided_decoding_backend",),
    "iter_stats_max_iterations": ("iter_stats_max_iterations",),
    "request_stats_max_iterations": ("request_stats_max_iterations",),
}
SERVED: frozenset[str] = frozenset({"max_batch_size", "decoupled", "exclude_input_in_output"})
"""Fields of `serving` that the served model reads, or that are looked at in another way."""

ELSEWHERE: Mapping[str, str] = {
    "model": "it follows from the source",
    "tokenizer": "the tokenizer is the one beside the weights",
    "revision": "it is source.revision",
    "tokenizer_revision": "it is source.revision",
    "backend": "it is the target's backend",
    "dtype": "it is the target's precision",
    "tensor_parallel_size": "it is the target's tensor_parallel",
    "pipeline_parallel_size": "it is the target's pipeline_parallel",
    "mpi_session": "it is no plain value",
    "batched_logits_processor": "it is no plain value",
    "checkpoint_loader": "it is no plain value",
}
"""Keys that `llm` may not have."""

BY_HAND: Mapping[str, str] = {
    "lora_dir": "write llm.enable_lora and llm.lora_config",
    "dora_plugin": "write llm.enable_lora and llm.lora_config",
    "speculative_decoding_mode": "write llm.speculative_config",
    "max_draft_len": "write llm.speculative_config",
    "max_encoder_input_len": "use backend: tensorrt for encoder-decoder models",
    "max_prompt_embedding_table_size": "use backend: tensorrt for prompt tables",
    "gather_context_logits": "use backend: tensorrt for the logits of prompts",
    "gather_all_token_logits": "use backend: tensorrt for the logits of prompts",
    "weight_streaming": "use more GPUs, or a precision with fewer bits",
    "streamingllm": "write llm.kv_cache_config.max_attention_window and sink_token_length",
}
"""Build options that change what is served, not only how fast, and have no plain counterpart -> what to do."""
