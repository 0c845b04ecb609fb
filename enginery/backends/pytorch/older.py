"""The LLM API's keys before 1.0, which `enginery.releases` has no facts of.

Up to 0.20 the PyTorch backend's own keys stood under `pytorch_backend_config`; in 0.21 they stood at the top (pull
request 4603 of TensorRT-LLM); from 1.0 on many are gathered in objects of their own (5014, 6003). The names are those
of the class `PyTorchConfig` in two states of its history, read by eye, not at the releases' tags.
"""

from collections.abc import Mapping
from enum import StrEnum

from packaging.version import Version

from enginery.releases.arguments import Argument

NESTED = "pytorch_backend_config"
NESTED_CLASS = "PyTorchConfig"


class Layout(StrEnum):
    """Where the PyTorch backend's own keys stand."""

    NESTED = "nested"
    FLAT = "flat"
    OBJECTS = "objects"


def layout(release: str) -> Layout:
    """The layout of a release."""
    number = Version(release).release
    if number >= (1, 0):
        return Layout.OBJECTS
    return Layout.FLAT if number >= (0, 21) else Layout.NESTED


COMMON = {
    "use_cuda_graph": "bool",
    "cuda_graph_batch_sizes": "Optional[List[int]]",
    "cuda_graph_max_batch_size": "int",
    "cuda_graph_padding_enabled": "bool",
    "attn_backend": "str",
    "kv_cache_dtype": "str",
    "enable_iter_perf_stats": "bool",
    "print_iter_log": "bool",
    "torch_compile_enabled": "bool",
    "torch_compile_fullgraph": "bool",
    "torch_compile_inductor_enabled": "bool",
    "torch_compile_enable_userbuffers": "bool",
    "enable_layerwise_nvtx_marker": "bool",
    "load_format": "str",
}
UNTIL_0_19 = {
    "enable_overlap_scheduler": "bool",
    "mixed_decoder": "bool",
    "enable_trtllm_decoder": "bool",
    "use_kv_cache": "bool",
}
FROM_0_20 = {
    "disable_overlap_scheduler": "bool",
    "moe_max_num_tokens": "Optional[int]",
    "moe_load_balancer": "object",
    "moe_backend": "str",
    "mixed_sampler": "bool",
    "enable_trtllm_sampler": "bool",
    "enable_iter_req_stats": "bool",
    "torch_compile_piecewise_cuda_graph": "bool",
    "autotuner_enabled": "bool",
    "enable_min_latency": "bool",
    "allreduce_strategy": "str",
    "stream_interval": "int",
}
KV_CACHE = {
    "enable_block_reuse": "bool",
    "max_tokens": "Optional[int]",
    "max_attention_window": "Optional[List[int]]",
    "sink_token_length": "Optional[int]",
    "free_gpu_memory_fraction": "Optional[float]",
    "host_cache_size": "Optional[int]",
    "onboard_blocks": "bool",
    "cross_kv_cache_fraction": "Optional[float]",
    "secondary_offload_min_priority": "Optional[int]",
    "event_buffer_max_size": "int",
    "enable_partial_reuse": "bool",
    "copy_on_partial_reuse": "bool",
}


def own_keys(release: str) -> Mapping[str, Argument]:
    """The PyTorch backend's own keys before 1.0."""
    later = FROM_0_20 if Version(release).release >= (0, 20) else UNTIL_0_19
    return _arguments({**COMMON, **later})


def kv_cache_keys() -> Mapping[str, Argument]:
    """The keys of `kv_cache_config` before 1.0."""
    return _arguments(KV_CACHE)


def _arguments(annotations: Mapping[str, str]) -> Mapping[str, Argument]:
    return {name: Argument(name, annotation) for name, annotation in annotations.items()}
