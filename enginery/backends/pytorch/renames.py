"""Keys of the LLM API that have other names in other releases: the newest name is the one to write."""

from collections.abc import Mapping

from enginery.backends.pytorch.older import NESTED, Layout, own_keys
from enginery.backends.pytorch.setting import Path

RENAMED: Mapping[Path, str] = {
    ("cuda_graph_config", "batch_sizes"): "cuda_graph_batch_sizes",
    ("cuda_graph_config", "max_batch_size"): "cuda_graph_max_batch_size",
    ("cuda_graph_config", "enable_padding"): "cuda_graph_padding_enabled",
    ("torch_compile_config", "enable_fullgraph"): "torch_compile_fullgraph",
    ("torch_compile_config", "enable_inductor"): "torch_compile_inductor_enabled",
    ("torch_compile_config", "enable_piecewise_cuda_graph"): "torch_compile_piecewise_cuda_graph",
    ("torch_compile_config", "enable_userbuffers"): "torch_compile_enable_userbuffers",
    ("moe_config", "backend"): "moe_backend",
    ("moe_config", "max_num_tokens"): "moe_max_num_tokens",
    ("moe_config", "load_balancer"): "moe_load_balancer",
    ("kv_cache_config", "dtype"): "kv_cache_dtype",
    ("enable_autotuner",): "autotuner_enabled",
}
"""Path from 1.0 on -> the key before."""

SWITCHES: Mapping[str, str] = {"cuda_graph_config": "use_cuda_graph", "torch_compile_config": "torch_compile_enabled"}
"""Object whose presence turns something on, from 1.0 on -> what did so before."""

GONE: Mapping[str, str] = {
    "mixed_sampler": "the sampler mixes strategies by itself",
    "mixed_decoder": "the sampler mixes strategies by itself",
    "enable_trtllm_sampler": "it is sampler_type: TRTLLMSampler",
    "enable_trtllm_decoder": "it is sampler_type: TRTLLMSampler",
    "enable_overlap_scheduler": "it is on; disable_overlap_scheduler: true turns it off",
    "use_kv_cache": "there always is a KV cache",
    NESTED: "its keys stand at the top from 0.21 on",
}
PADDING = {("cuda_graph_config", "padding_enabled"): "cuda_graph_config.enable_padding"}


def path_in(path: Path, release: str, where: Layout) -> Path:
    """Where a key, written as from 1.0 on, stands in a release."""
    if where is Layout.OBJECTS:
        return path
    name = RENAMED.get(path) or (SWITCHES.get(path[0]) if len(path) == 1 else None)
    if name is None and len(path) == 1 and path[0] in own_keys(release) and path[0] != "load_format":
        name = path[0]
    if name is None:
        return path
    return (NESTED, name) if where is Layout.NESTED else (name,)


def newer_name(path: Path) -> str:
    """What a key of before 1.0 is called from then on; empty where it has not changed, or nothing is known of it."""
    own = path[1:] if path[0] == NESTED and len(path) > 1 else path
    if own in PADDING:
        return f"it is {PADDING[own]}"
    if len(own) != 1:
        return ""
    names = {old: ".".join(new) for new, old in RENAMED.items()} | {old: new for new, old in SWITCHES.items()}
    return f"it is {names[own[0]]}" if own[0] in names else GONE.get(own[0], "")
