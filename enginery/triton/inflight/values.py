"""What stands in place of each placeholder of the release's templates: from the spec, else what the release means.

A placeholder that is filled with nothing is left to the release: its C++ backend takes its own default for an empty
number, switch or list, just as for a template that was not filled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from packaging.version import Version

from enginery.spec import ServingOptions
from enginery.spec_serving import DEFAULT_BATCH

FIELDS = {
    "triton_max_batch_size": "max_batch_size",
    "decoupled_mode": "decoupled",
    "batch_scheduler_policy": "scheduler_policy",
}
"""Placeholder -> the spec's name for it, where the two differ."""

DEFAULTS: Mapping[str, Any] = {
    "max_batch_size": DEFAULT_BATCH,
    "max_queue_size": 0,
    "batching_strategy": "inflight_fused_batching",
    "scheduler_policy": "guaranteed_no_evict",
    "max_beam_width": 1,
    "accumulate_tokens": False,
    "add_special_tokens": True,
    "skip_special_tokens": True,
    "logits_datatype": "TYPE_FP32",
    "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16",
}
"""Of every release. Those of the article that say no more than the releases do, and what must not be left empty."""

OF_RELEASE: Mapping[str, Mapping[str, Any]] = {
    "0.8.0": {
        "max_tokens_in_paged_kv_cache": 2560,
        "max_attention_window_size": 2560,
        "kv_cache_free_gpu_mem_fraction": 0.5,
        "enable_kv_cache_reuse": False,
    },
}
"""Of one release only. These are the article's, chosen for its one engine: elsewhere they would cut prompts short
and leave half of the GPU's memory unused, and later releases keep KV caches for reuse unless told not to.
"""

FIXED = {
    "triton_backend": "tensorrtllm",
    "tokenizer_type": "auto",
    "tensorrt_llm_model_name": "tensorrt_llm",
    "tensorrt_llm_draft_model_name": "",
    "multimodal_encoders_name": "",
    "encoder_engine_dir": "",
    "visual_model_path": "",
    "multimodal_model_path": "",
    "max_num_images": "",
}
"""What a spec does not say: a repository has one decoder, and neither a draft model nor one for images."""

PATHS = frozenset({"engine_dir", "tokenizer_dir"})
"""Placeholders for where the engine and the tokenizer lie."""

KNOWN = frozenset({*FIXED, *PATHS, *FIELDS, *(ServingOptions.model_fields.keys() - FIELDS.values())})
"""Every placeholder that can be filled."""


def values(release: str, serving: ServingOptions, paths: Mapping[str, str]) -> dict[str, Any]:
    """The value of each placeholder that there is in any release; None means: leave it to the release.

    Args:
        release: decides the defaults.
        serving: what the spec says.
        paths: the values of `PATHS`.
    """
    own = next((found for known, found in OF_RELEASE.items() if Version(known) == Version(release)), {})
    unset = {**DEFAULTS, **own}
    found: dict[str, Any] = {**FIXED, **paths}
    for placeholder in KNOWN - found.keys():
        field = FIELDS.get(placeholder, placeholder)
        said = getattr(serving, field)
        found[placeholder] = unset.get(field) if said is None else said
    return found


def text(value: Any) -> str:
    """A value as the backend reads it in a parameter."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        lists = bool(value) and isinstance(value[0], tuple)
        return ", ".join(f"{{{text(each)}}}" for each in value) if lists else ",".join(map(str, value))
    return str(value)
