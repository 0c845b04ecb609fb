"""What the LLM API refuses or changes in its validators: which arguments each record of the releases' facts is about.

Which releases do it, where, and what they do is in `enginery.releases.refusals`. Paths are those that releases have
from 1.0 on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from enginery.backends.pytorch.keys import Path
from enginery.releases import Refusal, refusal

LLM_API = "LLM API"
SPECULATIVE = "speculative_config"
EAGLE = frozenset({"Eagle", "Eagle3"})
FORMATS = frozenset({"AUTO", "DUMMY", "VISION_ONLY"})
GEMM_BACKENDS = frozenset({"cutlass", "cublaslt", "cutedsl", "cuda_core"})
FLASHINFER = ("FLASHINFER", "FLASHINFER_STAR_ATTENTION")
NO_EVICT = "GUARANTEED_NO_EVICT"
MISSING = object()
Arguments = Mapping[str, Any]


class Rule(NamedTuple):
    """When a record applies to arguments.

    Attributes:
        id: the record's id, without `LLM API: `.
        path: the argument that it is about.
        holds: whether the arguments are of the kind that the record is about.
    """

    id: str
    path: Path
    holds: Callable[[Arguments], bool]


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


def _at(arguments: Arguments, path: Path) -> Any:
    """The value at a path; `MISSING` if there is none."""
    value: Any = arguments
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _under(path: Path, least: float) -> Callable[[Arguments], bool]:
    """A test for a number under the least one."""
    return lambda one: _number(found := _at(one, path)) and found < least


def _outside(path: Path, *, null: bool = False) -> Callable[[Arguments], bool]:
    """A test for a number outside 0 to 1, or for null where the release cannot compare that."""

    def holds(one: Arguments) -> bool:
        found = _at(one, path)
        return (null and found is None) or (_number(found) and not 0 <= found <= 1)

    return holds


def _any_under(path: Path, least: int) -> Callable[[Arguments], bool]:
    """A test for a list with a number under the least one."""
    return lambda one: any(_number(value) and value < least for value in _list(_at(one, path)))


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _is_empty(path: Path) -> Callable[[Arguments], bool]:
    return lambda one: _at(one, path) == []


def _given(arguments: Arguments, *path: str) -> bool:
    return _at(arguments, path) not in (MISSING, None)


def _other_graphs(one: Arguments) -> bool:
    sizes, largest = (_at(one, ("cuda_graph_config", key)) for key in ("batch_sizes", "max_batch_size"))
    if not _list(sizes) or not _positive(largest) or not all(map(_number, sizes)):
        return False
    padding = _at(one, ("cuda_graph_config", "enable_padding")) is True
    return sorted(sizes) != graph_sizes(int(largest), padding=padding)


def _unbalanced(key: str) -> Callable[[Arguments], bool]:
    config = "attention_dp_config"
    return lambda one: _at(one, (config, "enable_balance")) is True and _under((config, key), 0)(one)


def _without_ray(key: str) -> Callable[[Arguments], bool]:
    return lambda one: _given(one, key) and _at(one, ("orchestrator_type",)) != "ray"


def _unknown_balance(one: Arguments) -> bool:
    found = _at(one, ("moe_config", "load_balancer"))
    return isinstance(found, Mapping) and not set(found) <= BALANCE


BALANCE = frozenset({"num_slots", "initial_global_assignments", "layer_updates_per_iter"})
"""The keys of `moe_config.load_balancer`."""


def _other_blocks(one: Arguments) -> bool:
    kind, tokens = _at(one, ("cp_config", "cp_type")), _at(one, ("cp_config", "tokens_per_block"))
    blocks = _at(one, ("kv_cache_config", "tokens_per_block"))
    parallel = _at(one, ("context_parallel_size",)) not in (MISSING, None, 1)
    own = DEFAULT_BLOCK if blocks is MISSING else blocks
    return parallel and str(kind).upper() == "HELIX" and _number(tokens) and tokens != own


DEFAULT_BLOCK = 32
"""The default of `kv_cache_config.tokens_per_block`."""


def _share(one: Arguments) -> bool:
    found = _at(one, ("ray_placement_config", "per_worker_gpu_share"))
    return _number(found) and not 0 < found <= 1


def _names_no_modules(one: Arguments) -> bool:
    config = _at(one, ("lora_config",))
    return isinstance(config, Mapping) and not config.get("lora_dir") and not config.get("lora_target_modules")


def _type(one: Arguments) -> str:
    found = _at(one, (SPECULATIVE, "decoding_type"))
    return found if isinstance(found, str) else ""


def _drafts(*names: str) -> Callable[[Arguments], bool]:
    return lambda one: _type(one) in names


def _lacks(names: frozenset[str], *keys: str) -> Callable[[Arguments], bool]:
    """A test for types of speculative decoding without one of these numbers, or with one that is not positive."""
    return lambda one: _type(one) in names and not all(_positive(_at(one, (SPECULATIVE, key))) for key in keys)


def _lacks_model(names: frozenset[str]) -> Callable[[Arguments], bool]:
    keys = ("speculative_model", "speculative_model_dir")
    return lambda one: _type(one) in names and not any(_given(one, SPECULATIVE, key) for key in keys)


def _schedule(one: Arguments) -> dict[int, int]:
    """The draft lengths by batch size; empty if there are none. Keys may be text, as YAML and JSON write them."""
    found = _at(one, (SPECULATIVE, "draft_len_schedule"))
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {int(size): length for size, length in pairs if str(size).lstrip("-").isdigit() and type(length) is int}


def _most(one: Arguments) -> int | None:
    found = _at(one, (SPECULATIVE, "max_draft_len"))
    return found if type(found) is int else None


def _begins_otherwise(one: Arguments) -> bool:
    schedule, most = _schedule(one), _most(one)
    return most is not None and 1 in schedule and schedule[1] != most


def _exceeds(one: Arguments) -> bool:
    most = _most(one)
    return most is not None and any(length > most for length in _schedule(one).values())


def _disconnected(one: Arguments) -> bool:
    choices = [choice for choice in _list(_at(one, (SPECULATIVE, "eagle_choices"))) if isinstance(choice, list)]
    return any(len(choice) > 1 and choice[:-1] not in choices for choice in choices)


def _tree(one: Arguments) -> bool:
    return _type(one) in EAGLE and _at(one, (SPECULATIVE, "use_dynamic_tree")) is True


def _samples_greedily(one: Arguments) -> bool:
    if _at(one, (SPECULATIVE, "allow_advanced_sampling")) is True:
        return False
    eagle = _type(one) in EAGLE and _at(one, (SPECULATIVE, "eagle3_one_model")) is not False
    return eagle or (_type(one) == "MTP" and _at(one, (SPECULATIVE, "mtp_eagle_one_model")) is not False)


def _keeps_blocks(one: Arguments) -> bool:
    reuse = _at(one, ("kv_cache_config", "enable_block_reuse")) is not False
    return _at(one, ("attn_backend",)) in FLASHINFER and reuse


def _policy_differs(one: Arguments) -> bool:
    policy = _at(one, ("scheduler_config", "capacity_scheduler_policy"))
    return _given(one, "kv_connector_config") and policy not in (MISSING, None, NO_EVICT)


def _sampler(names: frozenset[str]) -> Callable[[Arguments], bool]:
    return lambda one: _at(one, ("sampler_type",)) == "TRTLLMSampler" and _type(one) in names


def _number_rule(path: Path, least: int) -> Rule:
    """The rule for a number that must not be under the least one."""
    return Rule(f"{'.'.join(path)} below {least}", path, _under(path, least))


GRAPHS, CACHE, GEMM = "cuda_graph_config", "kv_cache_config", ("nvfp4_gemm_config", "allowed_backends")
COMPILE, TRANSFER, PLACEMENT = "torch_compile_config", "cache_transceiver_config", "ray_placement_config"
WINDOW, SHARE = (CACHE, "max_attention_window"), (CACHE, "free_gpu_memory_fraction")
BENCHMARKS = "layer_wise_benchmarks_config"

GENERAL_RULES = (
    _number_rule((GRAPHS, "max_batch_size"), 0),
    Rule(f"{GRAPHS}.batch_sizes with another max_batch_size", (GRAPHS, "batch_sizes"), _other_graphs),
    Rule(f"{'.'.join(SHARE)} outside 0 to 1", SHARE, _outside(SHARE, null=True)),
    _number_rule((CACHE, "max_gpu_total_bytes"), 0),
    Rule(f"{'.'.join(WINDOW)} that is empty", WINDOW, _is_empty(WINDOW)),
    Rule(f"{'.'.join(WINDOW)} with values below 1", WINDOW, _any_under(WINDOW, 1)),
    Rule(
        *(f"{CACHE}.max_util_for_resume outside 0 to 1", (CACHE, "max_util_for_resume")),
        _outside((CACHE, "max_util_for_resume")),
    ),
    Rule(
        *(f"{'.'.join(GEMM)} with an unknown name", GEMM),
        lambda one: any(name not in GEMM_BACKENDS for name in _list(_at(one, GEMM))),
    ),
    Rule(f"{'.'.join(GEMM)} that is empty", GEMM, _is_empty(GEMM)),
    _number_rule((TRANSFER, "kv_transfer_timeout_ms"), 1),
    _number_rule((TRANSFER, "kv_transfer_sender_future_timeout_ms"), 1),
    Rule(
        *(f"{COMPILE}.capture_num_tokens with values below 1", (COMPILE, "capture_num_tokens")),
        _any_under((COMPILE, "capture_num_tokens"), 1),
    ),
    _number_rule((COMPILE, "max_num_streams"), 1),
    Rule(
        *("load_format with an unknown name", ("load_format",)),
        lambda one: isinstance(found := _at(one, ("load_format",)), str) and found.upper() not in FORMATS,
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
        _outside(("batch_wait_max_tokens_ratio",)),
    ),
    *(
        Rule(f"{key} without ray", (key,), _without_ray(key))
        for key in ("ray_worker_extension_cls", "ray_placement_config")
    ),
    Rule(
        *(f"{PLACEMENT} with one of two lists", (PLACEMENT,)),
        lambda one: _given(one, PLACEMENT, "placement_groups") != _given(one, PLACEMENT, "placement_bundle_indices"),
    ),
    Rule(f"{PLACEMENT}.per_worker_gpu_share outside 0 to 1", (PLACEMENT, "per_worker_gpu_share"), _share),
    Rule(
        *("peft_cache_config.lora_prefetch_dir", ("peft_cache_config", "lora_prefetch_dir")),
        lambda one: _given(one, "peft_cache_config", "lora_prefetch_dir"),
    ),
    Rule("cp_config.tokens_per_block with another block size", ("cp_config", "tokens_per_block"), _other_blocks),
    Rule(
        *(f"{BENCHMARKS} without calibration_file_path", (BENCHMARKS, "calibration_file_path")),
        lambda one: (
            _at(one, (BENCHMARKS, "calibration_mode")) == "COLLECT"
            and _at(one, (BENCHMARKS, "calibration_file_path")) in (MISSING, None, "")
        ),
    ),
    Rule(
        *("enable_lora with lora_config", ("enable_lora",)),
        lambda one: _at(one, ("enable_lora",)) is True and _given(one, "lora_config"),
    ),
    Rule("lora_config without directories and modules", ("lora_config",), _names_no_modules),
    Rule("attn_backend FLASHINFER with enable_block_reuse", (CACHE, "enable_block_reuse"), _keeps_blocks),
    Rule(
        *("attn_backend FLASHINFER_STAR_ATTENTION with enable_chunked_prefill", ("enable_chunked_prefill",)),
        lambda one: _at(one, ("attn_backend",)) == FLASHINFER[1] and _at(one, ("enable_chunked_prefill",)) is True,
    ),
    Rule("kv_connector_config with another policy", ("kv_connector_config",), _policy_differs),
    Rule("sampler_type TRTLLMSampler with MTP", ("sampler_type",), _sampler(frozenset({"MTP"}))),
    Rule("sampler_type TRTLLMSampler with Eagle", ("sampler_type",), _sampler(EAGLE)),
)

_SCHEDULE = (SPECULATIVE, "draft_len_schedule")
_DRAFT_LENGTH, _DRAFT_MODEL = (SPECULATIVE, "max_draft_len"), (SPECULATIVE, "speculative_model")
_SIZES = ("max_window_size", "max_ngram_size", "max_verification_set_size")
TARGET = frozenset({"DraftTarget"})

SPECULATIVE_RULES = tuple(
    rule._replace(id=f"{SPECULATIVE}: {rule.id}")
    for rule in (
        Rule(
            *("acceptance_window below 0", (SPECULATIVE, "acceptance_window")),
            _under((SPECULATIVE, "acceptance_window"), 0),
        ),
        Rule(
            *("acceptance_length_threshold below 0", (SPECULATIVE, "acceptance_length_threshold")),
            _under((SPECULATIVE, "acceptance_length_threshold"), 0),
        ),
        Rule("draft_len_schedule with a batch below 1", _SCHEDULE, lambda one: any(n < 1 for n in _schedule(one))),
        Rule(
            *("draft_len_schedule with a length below 0", _SCHEDULE),
            lambda one: any(length < 0 for length in _schedule(one).values()),
        ),
        Rule(
            *("draft_len_schedule without batch 1", _SCHEDULE),
            lambda one: isinstance(_at(one, _SCHEDULE), Mapping) and 1 not in _schedule(one),
        ),
        Rule("draft_len_schedule that begins with another length", _SCHEDULE, _begins_otherwise),
        Rule("draft_len_schedule over max_draft_len", _SCHEDULE, _exceeds),
        Rule("a type that the PyTorch backend lacks", (SPECULATIVE, "decoding_type"), _drafts("Medusa")),
        Rule("Lookahead in the PyTorch backend", (SPECULATIVE, "decoding_type"), _drafts("Lookahead")),
        Rule(
            *("Lookahead with sizes below 1", (SPECULATIVE, "max_window_size")),
            lambda one: _type(one) == "Lookahead" and any(_under((SPECULATIVE, size), 1)(one) for size in _SIZES),
        ),
        Rule(
            *("Eagle without max_draft_len", _DRAFT_LENGTH),
            lambda one: _type(one) in EAGLE and not _given(one, *_DRAFT_LENGTH),
        ),
        Rule(
            *("Eagle with max_draft_len below 1", _DRAFT_LENGTH),
            lambda one: _type(one) in EAGLE and _under(_DRAFT_LENGTH, 1)(one),
        ),
        Rule("Eagle without a draft model", _DRAFT_MODEL, _lacks_model(EAGLE)),
        Rule(
            *("Eagle with choices and a dynamic tree", (SPECULATIVE, "use_dynamic_tree")),
            lambda one: _tree(one) and _given(one, SPECULATIVE, "eagle_choices"),
        ),
        Rule(
            *("Eagle with a dynamic tree and no dynamic_tree_max_topK", (SPECULATIVE, "dynamic_tree_max_topK")),
            lambda one: _tree(one) and not _positive(_at(one, (SPECULATIVE, "dynamic_tree_max_topK"))),
        ),
        Rule(
            *("Eagle with choices that are not connected", (SPECULATIVE, "eagle_choices")),
            lambda one: _type(one) in EAGLE and _disconnected(one),
        ),
        Rule("Eagle instead of Eagle3", (SPECULATIVE, "decoding_type"), _drafts("Eagle")),
        Rule(
            *("NGram without lengths", (SPECULATIVE, "max_matching_ngram_size")),
            _lacks(frozenset({"NGram"}), "max_draft_len", "max_matching_ngram_size"),
        ),
        Rule("DraftTarget without max_draft_len", _DRAFT_LENGTH, _lacks(TARGET, "max_draft_len")),
        Rule("DraftTarget without a draft model", _DRAFT_MODEL, _lacks_model(TARGET)),
        Rule(
            *("MTP with num_nextn_predict_layers below 1", (SPECULATIVE, "num_nextn_predict_layers")),
            lambda one: _type(one) == "MTP" and _under((SPECULATIVE, "num_nextn_predict_layers"), 1)(one),
        ),
        Rule("SaveState", (SPECULATIVE, "decoding_type"), _drafts("SaveState")),
        Rule("one model without allow_advanced_sampling", (SPECULATIVE,), _samples_greedily),
    )
)

RULES = (*GENERAL_RULES, *SPECULATIVE_RULES)
"""All rules. Some records have none: unknown types and algorithms are refused by the schema, and the file of
`moe_config.load_balancer` is one of the machine that serves."""
