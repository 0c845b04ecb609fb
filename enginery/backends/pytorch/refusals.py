"""What the LLM API refuses or changes in its validators: which arguments each record of the releases' facts is about.

Which releases do it, where, and what they do is in `enginery.releases.refusals`. Paths are those that releases have
from 1.0 on.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from enginery.backends.pytorch.keys import Path
from enginery.backends.pytorch.rule import (
    MISSING,
    Arguments,
    Rule,
    any_under,
    at,
    given,
    is_empty,
    items,
    number,
    outside,
    positive,
    under,
)
from enginery.backends.pytorch.speculative import EAGLE, SPECULATIVE_RULES, decoding_type
from enginery.releases import LLM_API, Refusal, refusal

FORMATS = frozenset({"AUTO", "DUMMY", "VISION_ONLY"})
GEMM_BACKENDS = ("cutlass", "cublaslt", "cutedsl", "cuda_core")
CACHE = "kv_cache_config"
CACHE_FORMATS = frozenset({"auto", "fp8", "nvfp4"})
"""The number formats of KV caches in 1.3.0rc3. Later releases have more, whose names begin with `fp8_`."""
FLASHINFER = ("FLASHINFER", "FLASHINFER_STAR_ATTENTION")
NO_EVICT = "GUARANTEED_NO_EVICT"


class Applied(NamedTuple):
    """A rule that the arguments fall under, and what the release does about it."""

    path: Path
    refusal: Refusal


def applied(release: str, arguments: Arguments) -> Iterator[Applied]:
    """The rules that the arguments fall under in a release."""
    for rule in RULES:
        found = refusal(f"{LLM_API}: {rule.id}", release).value
        if found is not None and rule.holds(arguments):
            yield Applied(rule.path, found)


def graph_sizes(largest: int, *, padding: bool) -> list[int]:
    """The batch sizes that the LLM API itself makes CUDA graphs for, up to the largest batch."""
    first = [1, 2, 4, *range(8, 129, 8)] if padding else [*range(1, 33), 64, 128]
    powers = [2**power for power in range(8, largest.bit_length()) if 2**power < largest]
    return sorted({*(size for size in [*first, *powers] if size <= largest), largest})


def _other_graphs(one: Arguments) -> bool:
    sizes, largest = (at(one, ("cuda_graph_config", key)) for key in ("batch_sizes", "max_batch_size"))
    if not items(sizes) or type(largest) is not int or largest < 1 or not all(map(number, sizes)):
        return False
    padding = at(one, ("cuda_graph_config", "enable_padding")) is True
    return sorted(sizes) != graph_sizes(largest, padding=padding)


def _unbalanced(key: str) -> Callable[[Arguments], bool]:
    config = "attention_dp_config"
    return lambda one: at(one, (config, "enable_balance")) is True and under((config, key), 0)(one)


def _without_ray(key: str) -> Callable[[Arguments], bool]:
    return lambda one: given(one, key) and at(one, ("orchestrator_type",)) != "ray"


def _unknown_balance(one: Arguments) -> bool:
    found = at(one, ("moe_config", "load_balancer"))
    return isinstance(found, Mapping) and not set(found) <= BALANCE


BALANCE = frozenset({"num_slots", "initial_global_assignments", "layer_updates_per_iter"})
"""The keys of `moe_config.load_balancer`."""


def _other_blocks(one: Arguments) -> bool:
    kind, tokens = at(one, ("cp_config", "cp_type")), at(one, ("cp_config", "tokens_per_block"))
    blocks = at(one, ("kv_cache_config", "tokens_per_block"))
    parallel = at(one, ("context_parallel_size",)) not in (MISSING, None, 1)
    own = DEFAULT_BLOCK if blocks is MISSING else blocks
    return parallel and str(kind).upper() == "HELIX" and number(tokens) and tokens != own


DEFAULT_BLOCK = 32
"""The default of `kv_cache_config.tokens_per_block`."""


def _share(one: Arguments) -> bool:
    found = at(one, ("ray_placement_config", "per_worker_gpu_share"))
    return number(found) and not 0 < found <= 1


def _names_no_modules(one: Arguments) -> bool:
    config = at(one, ("lora_config",))
    return isinstance(config, Mapping) and not config.get("lora_dir") and not config.get("lora_target_modules")


def _keeps_blocks(one: Arguments) -> bool:
    reuse = at(one, ("kv_cache_config", "enable_block_reuse")) is not False
    return at(one, ("attn_backend",)) in FLASHINFER and reuse


def _policy_differs(one: Arguments) -> bool:
    policy = at(one, ("scheduler_config", "capacity_scheduler_policy"))
    return given(one, "kv_connector_config") and policy not in (MISSING, None, NO_EVICT)


def _unknown_cache(one: Arguments) -> bool:
    found = at(one, (CACHE, "dtype"))
    return isinstance(found, str) and found not in CACHE_FORMATS and not found.startswith("fp8_")


def _second_manager(holds: Callable[[Arguments], bool]) -> Callable[[Arguments], bool]:
    """A test for arguments that the second manager of KV caches does not take."""
    return lambda one: at(one, (CACHE, "use_kv_cache_manager_v2")) is True and holds(one)


def _sampler(names: frozenset[str]) -> Callable[[Arguments], bool]:
    return lambda one: at(one, ("sampler_type",)) == "TRTLLMSampler" and decoding_type(one) in names


def _number_rule(path: Path, least: int) -> Rule:
    """The rule for a number that must not be under the least one."""
    return Rule(f"{'.'.join(path)} below {least}", path, under(path, least))


GRAPHS, GEMM = "cuda_graph_config", ("nvfp4_gemm_config", "allowed_backends")
COMPILE, TRANSFER, PLACEMENT = "torch_compile_config", "cache_transceiver_config", "ray_placement_config"
WINDOW, SHARE = (CACHE, "max_attention_window"), (CACHE, "free_gpu_memory_fraction")
BENCHMARKS = "layer_wise_benchmarks_config"

GENERAL_RULES = (
    _number_rule((GRAPHS, "max_batch_size"), 0),
    Rule(f"{GRAPHS}.batch_sizes with another max_batch_size", (GRAPHS, "batch_sizes"), _other_graphs),
    Rule(f"{'.'.join(SHARE)} outside 0 to 1", SHARE, outside(SHARE, null=True)),
    _number_rule((CACHE, "max_gpu_total_bytes"), 0),
    Rule(f"{'.'.join(WINDOW)} that is empty", WINDOW, is_empty(WINDOW)),
    Rule(f"{'.'.join(WINDOW)} with values below 1", WINDOW, any_under(WINDOW, 1)),
    Rule(
        *(f"{CACHE}.max_util_for_resume outside 0 to 1", (CACHE, "max_util_for_resume")),
        outside((CACHE, "max_util_for_resume")),
    ),
    Rule(
        *(f"{'.'.join(GEMM)} with an unknown name", GEMM),
        lambda one: any(name not in GEMM_BACKENDS for name in items(at(one, GEMM))),
    ),
    Rule(f"{'.'.join(GEMM)} that is empty", GEMM, is_empty(GEMM)),
    _number_rule((TRANSFER, "kv_transfer_timeout_ms"), 1),
    _number_rule((TRANSFER, "kv_transfer_sender_future_timeout_ms"), 1),
    Rule(
        *(f"{COMPILE}.capture_num_tokens with values below 1", (COMPILE, "capture_num_tokens")),
        any_under((COMPILE, "capture_num_tokens"), 1),
    ),
    _number_rule((COMPILE, "max_num_streams"), 1),
    Rule(
        *("load_format with an unknown name", ("load_format",)),
        lambda one: isinstance(found := at(one, ("load_format",)), str) and found.upper() not in FORMATS,
    ),
    _number_rule(("stream_interval",), 1),
    Rule("moe_config.load_balancer with an unknown key", ("moe_config", "load_balancer"), _unknown_balance),
    *(
        Rule(f"attention_dp_config.{key} below 0", ("attention_dp_config", key), _unbalanced(key))
        for key in ("batching_wait_iters", "timeout_iters")
    ),
    *(_number_rule((key,), 0) for key in ("batch_wait_timeout_ms", "batch_wait_timeout_iters")),
    Rule(
        *("batch_wait_max_tokens_ratio outside 0 to 1", ("batch_wait_max_tokens_ratio",)),
        outside(("batch_wait_max_tokens_ratio",)),
    ),
    *(
        Rule(f"{key} without ray", (key,), _without_ray(key))
        for key in ("ray_worker_extension_cls", "ray_placement_config")
    ),
    Rule(
        *(f"{PLACEMENT} with one of two lists", (PLACEMENT,)),
        lambda one: given(one, PLACEMENT, "placement_groups") != given(one, PLACEMENT, "placement_bundle_indices"),
    ),
    Rule(f"{PLACEMENT}.per_worker_gpu_share outside 0 to 1", (PLACEMENT, "per_worker_gpu_share"), _share),
    Rule(
        *("peft_cache_config.lora_prefetch_dir", ("peft_cache_config", "lora_prefetch_dir")),
        lambda one: given(one, "peft_cache_config", "lora_prefetch_dir"),
    ),
    Rule("cp_config.tokens_per_block with another block size", ("cp_config", "tokens_per_block"), _other_blocks),
    Rule(
        *(f"{BENCHMARKS} without calibration_file_path", (BENCHMARKS, "calibration_file_path")),
        lambda one: (
            at(one, (BENCHMARKS, "calibration_mode")) == "COLLECT"
            and at(one, (BENCHMARKS, "calibration_file_path")) in (MISSING, None, "")
        ),
    ),
    Rule(
        *("enable_lora with lora_config", ("enable_lora",)),
        lambda one: at(one, ("enable_lora",)) is True and given(one, "lora_config"),
    ),
    Rule("lora_config without directories and modules", ("lora_config",), _names_no_modules),
    Rule("attn_backend FLASHINFER with enable_block_reuse", (CACHE, "enable_block_reuse"), _keeps_blocks),
    Rule(
        *("attn_backend FLASHINFER_STAR_ATTENTION with enable_chunked_prefill", ("enable_chunked_prefill",)),
        lambda one: at(one, ("attn_backend",)) == FLASHINFER[1] and at(one, ("enable_chunked_prefill",)) is True,
    ),
    Rule(f"{CACHE}.dtype that is unknown", (CACHE, "dtype"), _unknown_cache),
    Rule(
        *(f"{CACHE}.use_kv_cache_manager_v2 with max_beam_width over 1", ("max_beam_width",)),
        _second_manager(lambda one: number(beams := at(one, ("max_beam_width",))) and beams > 1),
    ),
    Rule(
        *(f"{CACHE}.use_kv_cache_manager_v2 with event_buffer_max_size", (CACHE, "event_buffer_max_size")),
        _second_manager(lambda one: positive(at(one, (CACHE, "event_buffer_max_size")))),
    ),
    Rule(
        *(f"{CACHE}.use_kv_cache_manager_v2 with kv_connector_config", ("kv_connector_config",)),
        _second_manager(lambda one: given(one, "kv_connector_config")),
    ),
    Rule("kv_connector_config with another policy", ("kv_connector_config",), _policy_differs),
    Rule("sampler_type TRTLLMSampler with MTP", ("sampler_type",), _sampler(frozenset({"MTP"}))),
    Rule("sampler_type TRTLLMSampler with Eagle", ("sampler_type",), _sampler(EAGLE)),
)

RULES = (*GENERAL_RULES, *SPECULATIVE_RULES)
"""All rules. Some records have none: unknown types and algorithms are refused by the schema, and the file of
`moe_config.load_balancer` is one of the machine that serves."""
