"""The arguments of the LLM API for a target: those in `llm`, and those that follow from the rest of the spec.

Keys have the names of release 1.0 and later here. For an older release they get that release's names at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from enginery.backends.pytorch.keys import NESTED, Layout, Path, keys, layout, own_keys
from enginery.backends.request import Request
from enginery.spec import DEFAULT_BATCH, FLOATS

GRAPHS = "cuda_graph_config"

MAX_WARM_UP = 64
"""The largest batch to warm up with. All larger batches use the same compiled code."""

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
"""Path in releases from 1.0 on -> key in older releases."""

SWITCHES: Mapping[str, str] = {"cuda_graph_config": "use_cuda_graph", "torch_compile_config": "torch_compile_enabled"}
"""Object that turns a feature on by being there, from 1.0 on -> the switch for it in older releases."""

REMOVED: Mapping[str, str] = {
    "mixed_sampler": "the sampler mixes strategies by itself",
    "mixed_decoder": "the sampler mixes strategies by itself",
    "enable_trtllm_sampler": "it is sampler_type: TRTLLMSampler",
    "enable_trtllm_decoder": "it is sampler_type: TRTLLMSampler",
    "enable_overlap_scheduler": "it is on; disable_overlap_scheduler: true turns it off",
    "use_kv_cache": "there always is a KV cache",
    NESTED: "its keys are at the top level from 0.21 on",
}

PADDING = {("cuda_graph_config", "padding_enabled"): "cuda_graph_config.enable_padding"}
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

OTHER_SERVING: frozenset[str] = frozenset({"max_batch_size", "decoupled", "exclude_input_in_output"})
"""Other fields of `serving` that have an effect: the served model reads them, or they are handled separately."""

NOT_IN_LLM: Mapping[str, str] = {
    "model": "it follows from the source",
    "tokenizer": "the tokenizer is the one beside the weights",
    "revision": "it is source.revision",
    "tokenizer_revision": "it is source.revision",
    "backend": "it is the target's backend",
    "dtype": "it is the target's precision",
    "tensor_parallel_size": "it is the target's tensor_parallel",
    "pipeline_parallel_size": "it is the target's pipeline_parallel",
    "mpi_session": "its value cannot be written in YAML",
    "batched_logits_processor": "its value cannot be written in YAML",
    "checkpoint_loader": "its value cannot be written in YAML",
}
"""Key that `llm` may not have -> why."""

NO_EQUIVALENT: Mapping[str, str] = {
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
"""Build option that changes the served model, not only its speed, and has no equal argument -> what to do."""

TRITON = "triton_config"
"""A key of `llm` for the served model, not for the LLM API, as in NVIDIA's `model.yaml`."""


@dataclass(frozen=True)
class Setting:
    """The value of one argument.

    Attributes:
        field: the field of the spec that it comes from, within the target.
        given: whether the user wrote it; if not, it comes from a default of Enginery.
    """

    value: Any
    field: str
    given: bool = True


Settings = Mapping[Path, Setting]


def settings(request: Request, release: str) -> Settings:
    """Every argument except the model's path, with its name from 1.0 on. `llm` has precedence over other fields."""
    given = dict(_given(request))
    found = dict(_from_spec(request))
    graphs = any(path[0] == GRAPHS for path in given)
    if graphs or layout(release) is Layout.OBJECTS:  # before 1.0 CUDA graphs are off by default
        found |= dict(_graph_arguments(given, _batch(given, found)))
    switched_off = {path[:1] for path, setting in given.items() if len(path) == 1 and setting.value is None}
    kept = {path: setting for path, setting in found.items() if path[:1] not in switched_off or setting.given}
    return {**kept, **given}


def contradictions(request: Request) -> Iterator[tuple[Setting, Setting]]:
    """Arguments to which `llm` and another field of the spec give different values."""
    others = dict(_from_spec(request))
    for path, setting in _given(request):
        other = others.get(path)
        if other is not None and other.given and other.value != setting.value:
            yield setting, other


def arguments_of(request: Request, release: str) -> dict[str, JsonValue]:
    """All arguments except the model's path, with the release's names."""
    return as_objects(with_release_paths(release, settings(request, release)))


def with_release_paths(release: str, found: Settings) -> dict[Path, Setting]:
    """The settings by their paths in the release. Enginery's defaults are left out if the release has no such key."""
    moved: dict[Path, Setting] = {}
    for path, setting in found.items():
        moved_path = _path_in(path, release)
        if moved_path != path and path[0] in SWITCHES:
            switch = _path_in(path[:1], release)
            moved[switch] = Setting(setting.value is not None, setting.field, setting.given)
            if len(path) == 1:
                continue
        if setting.given or moved_path[0] in keys(release).value:
            moved[moved_path] = setting
    return moved


def as_objects(found: Mapping[Path, Setting]) -> dict[str, JsonValue]:
    """The settings as nested objects, which the LLM API takes."""
    made: dict[str, Any] = {}
    for path, setting in found.items():
        if len(path) == 1:
            made.setdefault(path[0], setting.value)
        else:
            known = made.get(path[0])
            made[path[0]] = {**(known if isinstance(known, dict) else {}), path[1]: setting.value}
    return made


def max_batch_size(request: Request) -> int:
    """The largest number of requests that run together."""
    return _batch(dict(_given(request)), dict(_from_spec(request)))


def warm_up_sizes(request: Request) -> list[int]:
    """The batch sizes to warm up with; none if the spec has `warm_up: false`."""
    config: Any = request.llm.get(TRITON)
    wanted = config.get("warm_up", True) if isinstance(config, dict) else True
    if isinstance(wanted, list):
        return sorted(set(wanted))
    return [size for size in _graph_sizes(max_batch_size(request)) if size <= MAX_WARM_UP] if wanted else []


def newer_name(path: Path) -> str:
    """A sentence with the new name that an old key has from 1.0 on; empty if it has the same name or is not known."""
    own = path[1:] if path[0] == NESTED and len(path) > 1 else path
    if own in PADDING:
        return f"it is {PADDING[own]}"
    if len(own) != 1:
        return ""
    names = {old: ".".join(new) for new, old in RENAMED.items()} | {old: new for new, old in SWITCHES.items()}
    return f"it is {names[own[0]]}" if own[0] in names else REMOVED.get(own[0], "")


def _graph_sizes(largest: int) -> list[int]:
    """The batch sizes to capture CUDA graphs for: powers of two, and the largest batch.

    Graphs are captured when the model is loaded, so the first user does not wait for that. A batch is filled up to the
    next size that has a graph; a batch without a graph runs more slowly.
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def _graph_arguments(given: Settings, largest: int) -> Iterator[tuple[Path, Setting]]:
    """The arguments for CUDA graphs that follow from the largest batch, unless the user sets them."""
    if (GRAPHS,) in given and given[GRAPHS,].value is None:
        return
    chosen = {(GRAPHS, "batch_sizes"), (GRAPHS, "max_batch_size")} & set(given)
    field = "serving.max_batch_size"
    if not chosen:
        yield (GRAPHS, "batch_sizes"), Setting(_graph_sizes(largest), field, given=False)
    if (GRAPHS, "enable_padding") not in given:
        yield (GRAPHS, "enable_padding"), Setting(value=True, field=field, given=False)


def _path_in(path: Path, release: str) -> Path:
    """The path that a key has in a release, for its path from 1.0 on."""
    place = layout(release)
    if place is Layout.OBJECTS:
        return path
    name = RENAMED.get(path) or (SWITCHES.get(path[0]) if len(path) == 1 else None)
    if name is None and len(path) == 1 and path[0] in own_keys(release) and path[0] != "load_format":
        name = path[0]
    if name is None:
        return path
    return (NESTED, name) if place is Layout.NESTED else (name,)


def _batch(given: Settings, found: Settings) -> int:
    value = (given.get(("max_batch_size",)) or found[("max_batch_size",)]).value
    return value if isinstance(value, int) else DEFAULT_BATCH


def _given(request: Request) -> Iterator[tuple[Path, Setting]]:
    """A setting for each key of `llm` and each key within its objects. `triton_config` is left out."""
    for name, value in request.llm.items():
        if name == TRITON:
            continue
        if isinstance(value, dict) and value:
            yield from (((name, inner), Setting(item, f"llm.{name}.{inner}")) for inner, item in value.items())
        else:
            yield (name,), Setting(value, f"llm.{name}")


def _from_spec(request: Request) -> Iterator[tuple[Path, Setting]]:
    target = request.target
    yield ("tensor_parallel_size",), Setting(target.tensor_parallel, "tensor_parallel")
    yield ("pipeline_parallel_size",), Setting(target.pipeline_parallel, "pipeline_parallel")
    plain = target.precision in FLOATS  # the checkpoint names the format of quantized weights
    yield ("dtype",), Setting(str(target.precision) if plain else "auto", "precision")
    yield from _from_fields(request.build, "build", FROM_BUILD)
    yield from _from_fields(request.serving, "serving", FROM_SERVING)
    yield ("max_batch_size",), _largest_batch(request)
    prompt, answer = request.build.max_input_len, request.build.max_output_len
    if request.build.max_seq_len is None and prompt is not None and answer is not None:
        # The LLM API limits prompt and answer together; specs for TensorRT-LLM up to 0.11 limit each of them.
        yield ("max_seq_len",), Setting(prompt + answer, "build.max_output_len")
    if request.convert.kv_cache != "auto":
        yield (KV_CACHE, "dtype"), Setting(request.convert.kv_cache, "convert.kv_cache")


def _largest_batch(request: Request) -> Setting:
    """The smaller of `serving.max_batch_size` and `build.max_batch_size`; Enginery's default if both are unset."""
    sizes = {"serving": request.serving.max_batch_size, "build": request.build.max_batch_size}
    given = [Setting(value, f"{section}.max_batch_size") for section, value in sizes.items() if value is not None]
    ours = Setting(DEFAULT_BATCH, "serving.max_batch_size", given=False)
    return min(given, key=lambda setting: int(setting.value), default=ours)


def _from_fields(options: Any, section: str, paths: Mapping[str, Path]) -> Iterator[tuple[Path, Setting]]:
    for field, path in paths.items():
        value = getattr(options, field, None)
        if value is None:
            continue
        if field == "scheduler_policy":
            value = value.upper()
        elif field == "max_attention_window_size":
            value = list(value) if isinstance(value, tuple) else [value]
        yield path, Setting(value, f"{section}.{field}")
