"""What the LLM API refuses or changes in its validators is in the plan of every release that does it."""

from typing import Any

import pytest

from enginery.backends.pytorch.refusals import RULES, graph_sizes
from enginery.backends.pytorch.rule import Rule
from enginery.releases import LLM_API, refusal, refusal_ids
from enginery.spec.findings import Finding
from tests.support.plans.pytorch import BACKEND, findings, request_of

NEWEST = "1.3.0rc3"
EAGLE: dict[str, Any] = {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "/draft"}
NGRAM: dict[str, Any] = {"decoding_type": "NGram", "max_draft_len": 4, "max_matching_ngram_size": 2}
CONNECTOR = {"connector_module": "a", "connector_scheduler_class": "B", "connector_worker_class": "C"}
TARGET: dict[str, Any] = {"decoding_type": "DraftTarget", "max_draft_len": 4, "speculative_model_dir": "/draft"}


def inside(name: str, **config: Any) -> dict[str, Any]:
    return {name: config}


def drafting(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Speculative decoding with some keys changed; a key with the value `...` is left out."""
    merged = {**base, **changes}
    return {"speculative_config": {key: value for key, value in merged.items() if value is not ...}}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cuda_graph_config.max_batch_size below 0": (
        inside("cuda_graph_config", max_batch_size=-1),
        inside("cuda_graph_config", max_batch_size=0),
    ),
    "cuda_graph_config.batch_sizes with another max_batch_size": (
        inside("cuda_graph_config", batch_sizes=[1, 2], max_batch_size=8),
        inside("cuda_graph_config", batch_sizes=[8, 1, 4, 2], max_batch_size=8, enable_padding=True),
    ),
    "kv_cache_config.free_gpu_memory_fraction outside 0 to 1": (
        inside("kv_cache_config", free_gpu_memory_fraction=1.5),
        inside("kv_cache_config", free_gpu_memory_fraction=1),
    ),
    "kv_cache_config.max_gpu_total_bytes below 0": (
        inside("kv_cache_config", max_gpu_total_bytes=-1),
        inside("kv_cache_config", max_gpu_total_bytes=0),
    ),
    "kv_cache_config.max_attention_window that is empty": (
        inside("kv_cache_config", max_attention_window=[]),
        inside("kv_cache_config", max_attention_window=None),
    ),
    "kv_cache_config.max_attention_window with values below 1": (
        inside("kv_cache_config", max_attention_window=[4096, 0]),
        inside("kv_cache_config", max_attention_window=[4096, 1]),
    ),
    "kv_cache_config.max_util_for_resume outside 0 to 1": (
        inside("kv_cache_config", max_util_for_resume=-0.5),
        inside("kv_cache_config", max_util_for_resume=0.5),
    ),
    "nvfp4_gemm_config.allowed_backends with an unknown name": (
        inside("nvfp4_gemm_config", allowed_backends=["cutlass", "triton"]),
        inside("nvfp4_gemm_config", allowed_backends=["cutlass", "cutedsl"]),
    ),
    "nvfp4_gemm_config.allowed_backends that is empty": (
        inside("nvfp4_gemm_config", allowed_backends=[]),
        inside("nvfp4_gemm_config", allowed_backends=["cublaslt"]),
    ),
    "cache_transceiver_config.kv_transfer_timeout_ms below 1": (
        inside("cache_transceiver_config", kv_transfer_timeout_ms=0),
        inside("cache_transceiver_config", kv_transfer_timeout_ms=1),
    ),
    "cache_transceiver_config.kv_transfer_sender_future_timeout_ms below 1": (
        inside("cache_transceiver_config", kv_transfer_sender_future_timeout_ms=0),
        inside("cache_transceiver_config", kv_transfer_sender_future_timeout_ms=None),
    ),
    "torch_compile_config.capture_num_tokens with values below 1": (
        inside("torch_compile_config", capture_num_tokens=[8, 0]),
        inside("torch_compile_config", capture_num_tokens=[8, 1]),
    ),
    "torch_compile_config.max_num_streams below 1": (
        inside("torch_compile_config", max_num_streams=0),
        inside("torch_compile_config", max_num_streams=1),
    ),
    "load_format with an unknown name": ({"load_format": "gguf"}, {"load_format": "dummy"}),
    "stream_interval below 1": ({"stream_interval": 0}, {"stream_interval": 1}),
    "moe_config.load_balancer with an unknown key": (
        inside("moe_config", load_balancer={"slots": 8}),
        inside("moe_config", load_balancer={"num_slots": 8}),
    ),
    "attention_dp_config.batching_wait_iters below 0": (
        inside("attention_dp_config", enable_balance=True, batching_wait_iters=-1),
        inside("attention_dp_config", enable_balance=False, batching_wait_iters=-1),
    ),
    "attention_dp_config.timeout_iters below 0": (
        inside("attention_dp_config", enable_balance=True, timeout_iters=-1),
        inside("attention_dp_config", enable_balance=True, timeout_iters=0),
    ),
    "batch_wait_timeout_ms below 0": ({"batch_wait_timeout_ms": -1.0}, {"batch_wait_timeout_ms": 0}),
    "batch_wait_timeout_iters below 0": ({"batch_wait_timeout_iters": -1}, {"batch_wait_timeout_iters": 0}),
    "batch_wait_max_tokens_ratio outside 0 to 1": (
        {"batch_wait_max_tokens_ratio": 2.0},
        {"batch_wait_max_tokens_ratio": 0.5},
    ),
    "ray_worker_extension_cls without ray": (
        {"ray_worker_extension_cls": "a.B"},
        {"ray_worker_extension_cls": "a.B", "orchestrator_type": "ray"},
    ),
    "ray_placement_config without ray": (
        {"ray_placement_config": {"defer_workers_init": True}},
        {"ray_placement_config": {"defer_workers_init": True}, "orchestrator_type": "ray"},
    ),
    "ray_placement_config with one of two lists": (
        {"ray_placement_config": {"placement_bundle_indices": [[0]]}, "orchestrator_type": "ray"},
        {"ray_placement_config": {"defer_workers_init": False}, "orchestrator_type": "ray"},
    ),
    "ray_placement_config.per_worker_gpu_share outside 0 to 1": (
        {"ray_placement_config": {"per_worker_gpu_share": 0.0}, "orchestrator_type": "ray"},
        {"ray_placement_config": {"per_worker_gpu_share": 1.0}, "orchestrator_type": "ray"},
    ),
    "peft_cache_config.lora_prefetch_dir": (
        inside("peft_cache_config", lora_prefetch_dir="/adapters"),
        inside("peft_cache_config", lora_prefetch_dir=None),
    ),
    "cp_config.tokens_per_block with another block size": (
        {"cp_config": {"cp_type": "HELIX", "tokens_per_block": 64}, "context_parallel_size": 2},
        {"cp_config": {"cp_type": "HELIX", "tokens_per_block": 32}, "context_parallel_size": 2},
    ),
    "layer_wise_benchmarks_config without calibration_file_path": (
        inside("layer_wise_benchmarks_config", calibration_mode="COLLECT"),
        inside("layer_wise_benchmarks_config", calibration_mode="NONE"),
    ),
    "enable_lora with lora_config": (
        {"enable_lora": True, "lora_config": {"lora_dir": ["/a"]}},
        {"lora_config": {"lora_dir": ["/a"]}},
    ),
    "lora_config without directories and modules": (
        inside("lora_config", max_lora_rank=8),
        inside("lora_config", lora_target_modules=["attn_q"]),
    ),
    "attn_backend FLASHINFER with enable_block_reuse": (
        {"attn_backend": "FLASHINFER"},
        {"attn_backend": "FLASHINFER", "kv_cache_config": {"enable_block_reuse": False}},
    ),
    "attn_backend FLASHINFER_STAR_ATTENTION with enable_chunked_prefill": (
        {"attn_backend": "FLASHINFER_STAR_ATTENTION", "enable_chunked_prefill": True},
        {"attn_backend": "FLASHINFER_STAR_ATTENTION", "enable_chunked_prefill": False},
    ),
    "kv_cache_config.dtype that is unknown": (
        inside("kv_cache_config", dtype="int8"),
        inside("kv_cache_config", dtype="nvfp4"),
    ),
    "kv_cache_config.use_kv_cache_manager_v2 with max_beam_width over 1": (
        {"max_beam_width": 2, "kv_cache_config": {"use_kv_cache_manager_v2": True}},
        {"max_beam_width": 2, "kv_cache_config": {"use_kv_cache_manager_v2": False}},
    ),
    "kv_cache_config.use_kv_cache_manager_v2 with event_buffer_max_size": (
        inside("kv_cache_config", use_kv_cache_manager_v2=True, event_buffer_max_size=8),
        inside("kv_cache_config", use_kv_cache_manager_v2=True, event_buffer_max_size=0),
    ),
    "kv_cache_config.use_kv_cache_manager_v2 with kv_connector_config": (
        {"kv_connector_config": CONNECTOR, "kv_cache_config": {"use_kv_cache_manager_v2": True}},
        {"kv_connector_config": CONNECTOR},
    ),
    "kv_connector_config with another policy": (
        {
            "kv_connector_config": CONNECTOR,
            "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        },
        {"scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"}},
    ),
    "sampler_type TRTLLMSampler with MTP": (
        {"sampler_type": "TRTLLMSampler", **drafting({"decoding_type": "MTP"})},
        {"sampler_type": "auto", **drafting({"decoding_type": "MTP"})},
    ),
    "sampler_type TRTLLMSampler with Eagle": (
        {"sampler_type": "TRTLLMSampler", **drafting(EAGLE)},
        {"sampler_type": "TorchSampler", **drafting(EAGLE)},
    ),
    "speculative_config: acceptance_window below 0": (
        drafting(NGRAM, acceptance_window=-1),
        drafting(NGRAM, acceptance_window=0),
    ),
    "speculative_config: acceptance_length_threshold below 0": (
        drafting(NGRAM, acceptance_length_threshold=-0.1),
        drafting(NGRAM, acceptance_length_threshold=0.5),
    ),
    "speculative_config: draft_len_schedule with a batch below 1": (
        drafting(NGRAM, draft_len_schedule={"0": 4, "1": 4}),
        drafting(NGRAM, draft_len_schedule={"1": 4}),
    ),
    "speculative_config: draft_len_schedule with a length below 0": (
        drafting(NGRAM, draft_len_schedule={"1": 4, "8": -1}),
        drafting(NGRAM, draft_len_schedule={"1": 4, "8": 0}),
    ),
    "speculative_config: draft_len_schedule without batch 1": (
        drafting(NGRAM, draft_len_schedule={"8": 2}),
        drafting(NGRAM, draft_len_schedule={"1": 4, "8": 2}),
    ),
    "speculative_config: draft_len_schedule that begins with another length": (
        drafting(NGRAM, draft_len_schedule={"1": 2}),
        drafting(NGRAM, draft_len_schedule={"1": 4}),
    ),
    "speculative_config: draft_len_schedule over max_draft_len": (
        drafting(NGRAM, draft_len_schedule={"1": 4, "2": 5}),
        drafting(NGRAM, draft_len_schedule={"1": 4, "2": 3}),
    ),
    "speculative_config: a type that the PyTorch backend lacks": (
        drafting({"decoding_type": "Medusa", "max_draft_len": 3}),
        drafting(NGRAM),
    ),
    "speculative_config: Lookahead in the PyTorch backend": (drafting({"decoding_type": "Lookahead"}), drafting(NGRAM)),
    "speculative_config: Lookahead with sizes below 1": (
        drafting({"decoding_type": "Lookahead", "max_ngram_size": 0}),
        drafting({"decoding_type": "AUTO"}),
    ),
    "speculative_config: Eagle without max_draft_len": (drafting(EAGLE, max_draft_len=...), drafting(EAGLE)),
    "speculative_config: Eagle with max_draft_len below 1": (drafting(EAGLE, max_draft_len=0), drafting(EAGLE)),
    "speculative_config: Eagle without a draft model": (drafting(EAGLE, speculative_model=...), drafting(EAGLE)),
    "speculative_config: Eagle with choices and a dynamic tree": (
        drafting(EAGLE, eagle_choices=[[0]], use_dynamic_tree=True, dynamic_tree_max_topK=2),
        drafting(EAGLE, eagle_choices=[[0]]),
    ),
    "speculative_config: Eagle with a dynamic tree and no dynamic_tree_max_topK": (
        drafting(EAGLE, use_dynamic_tree=True),
        drafting(EAGLE, use_dynamic_tree=True, dynamic_tree_max_topK=2),
    ),
    "speculative_config: Eagle with choices that are not connected": (
        drafting(EAGLE, eagle_choices=[[0], [1, 0]]),
        drafting(EAGLE, eagle_choices=[[0], [0, 0]]),
    ),
    "speculative_config: Eagle instead of Eagle3": (drafting(EAGLE, decoding_type="Eagle"), drafting(EAGLE)),
    "speculative_config: NGram without lengths": (drafting(NGRAM, max_matching_ngram_size=...), drafting(NGRAM)),
    "speculative_config: DraftTarget without max_draft_len": (drafting(TARGET, max_draft_len=...), drafting(TARGET)),
    "speculative_config: DraftTarget without a draft model": (
        drafting(TARGET, speculative_model_dir=...),
        drafting(TARGET),
    ),
    "speculative_config: MTP with num_nextn_predict_layers below 1": (
        drafting({"decoding_type": "MTP", "num_nextn_predict_layers": 0}),
        drafting({"decoding_type": "MTP", "num_nextn_predict_layers": 1}),
    ),
    "speculative_config: SaveState": (
        drafting({"decoding_type": "SaveState", "output_directory": "/o"}),
        drafting({"decoding_type": "AUTO"}),
    ),
    "speculative_config: NGram with the overlap scheduler": (
        drafting(NGRAM),
        {**drafting(NGRAM), "disable_overlap_scheduler": True},
    ),
    "speculative_config: one model without allow_advanced_sampling": (
        drafting({"decoding_type": "MTP"}),
        drafting({"decoding_type": "MTP", "allow_advanced_sampling": True}),
    ),
}
"""Record -> arguments that it applies to, and arguments that differ in one thing and are accepted."""

OF_THE_SCHEMA = {
    f"{LLM_API}: speculative_config: an unknown decoding_type": drafting({"decoding_type": "Draft_Target"}),
    f"{LLM_API}: sparse_attention_config with an unknown algorithm": inside("sparse_attention_config", algorithm="x"),
    f"{LLM_API}: sparse_attention_config without algorithm": inside("sparse_attention_config", index_topk=1),
}
"""Records that the schema of arguments finds."""
OF_THE_SERVER = {f"{LLM_API}: moe_config.load_balancer that is no file"}
OF_THE_GPU = {f"{LLM_API}: bfloat16 before Ampere"}
"""Records that the check of GPUs finds."""


def of_engines_only() -> set[str]:
    """Records of the LLM API before it had the PyTorch backend."""
    return {name for name in refusal_ids(LLM_API) if refusal(name, NEWEST).value is None}


def refused(llm: dict[str, Any], release: str = NEWEST) -> list[Finding]:
    return [one for one in findings({"release": release}, llm=llm) if one.path.startswith("llm.")]


def notes(llm: dict[str, Any], release: str = NEWEST) -> list[str]:
    return BACKEND.notes(request_of({"release": release}, llm=llm))


def test_every_record_has_a_rule_or_is_found_by_the_schema() -> None:
    ruled = {f"{LLM_API}: {rule.id}" for rule in RULES}
    assert ruled | set(OF_THE_SCHEMA) | OF_THE_SERVER | OF_THE_GPU | of_engines_only() == set(refusal_ids(LLM_API))
    assert not ruled & of_engines_only()
    assert {rule.id for rule in RULES} == set(CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_plan_says_what_the_validators_do_and_accepts_what_they_accept(rule: Rule) -> None:
    record = refusal(f"{LLM_API}: {rule.id}", NEWEST).value
    assert record
    bad, good = CASES[rule.id]
    if record.stops:
        (found,) = [one for one in refused(bad) if record.says in one.problem]
        assert (found.code, found.level) == ("E404", "error")
        assert found.path.startswith("llm.")
    else:
        assert not refused(bad)
        assert any(note.startswith("llm.") and record.says in note for note in notes(bad))
    assert not refused(good)
    assert not any(record.says in note for note in notes(good))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_release_after_the_read_one_does_as_it(rule: Rule) -> None:
    record = refusal(f"{LLM_API}: {rule.id}", NEWEST).value
    assert record
    text = [one.problem for one in refused(CASES[rule.id][0], "1.3.0rc5")]
    assert any(record.says in one for one in [*text, *notes(CASES[rule.id][0], "1.3.0rc5")])


def test_a_release_that_was_not_read_is_warned_of_only() -> None:
    (found,) = refused({"kv_cache_config": {"free_gpu_memory_fraction": 1.5}}, "1.2.1")
    assert (found.code, found.level) == ("W169", "warning")
    assert "1.2.1 was not read" in found.problem


@pytest.mark.parametrize("name", OF_THE_SCHEMA)
def test_an_unknown_type_or_algorithm_is_refused_by_the_schema(name: str) -> None:
    assert "E404" in {one.code for one in refused(OF_THE_SCHEMA[name])}


@pytest.mark.parametrize("name", ["speculative_model", "speculative_model_dir"])
def test_a_draft_model_can_be_given_by_both_names(name: str) -> None:
    assert not refused(drafting({"decoding_type": "Eagle3", "max_draft_len": 3, name: "/draft"}))


def test_a_draft_model_cannot_be_given_by_both_names_at_once() -> None:
    (found,) = refused(drafting(EAGLE, speculative_model_dir="/other"))
    assert found.path == "llm.speculative_config.speculative_model_dir"
    assert "another name of speculative_model" in found.problem


def test_what_comes_from_another_field_of_the_spec_is_said_there() -> None:
    request = request_of(
        {"release": NEWEST}, serving={"enable_kv_cache_reuse": True}, llm={"attn_backend": "FLASHINFER"}
    )
    assert any(note.startswith("serving.enable_kv_cache_reuse: 1.3.0rc3 turns") for note in BACKEND.notes(request))


def test_the_algorithm_of_sparse_attention_can_be_in_capitals() -> None:
    assert not refused({"sparse_attention_config": {"algorithm": "DSA"}})


@pytest.mark.parametrize(
    ("largest", "padding", "sizes"),
    [
        (1, True, [1]),
        (8, True, [1, 2, 4, 8]),
        (10, True, [1, 2, 4, 8, 10]),
        (300, True, [1, 2, 4, *range(8, 129, 8), 256, 300]),
        (5, False, [1, 2, 3, 4, 5]),
        (512, False, [*range(1, 33), 64, 128, 256, 512]),
    ],
)
def test_the_sizes_of_graphs_are_those_that_the_release_makes(largest: int, padding: bool, sizes: list[int]) -> None:  # noqa: FBT001
    assert graph_sizes(largest, padding=padding) == sizes


@pytest.mark.parametrize(
    "llm",
    [
        {"nvfp4_gemm_config": {"allowed_backends": [[1], {"a": 1}]}},
        {"cuda_graph_config": {"batch_sizes": [1], "max_batch_size": float("inf")}},
        {"cuda_graph_config": {"batch_sizes": [1, None], "max_batch_size": 10**30}},
        drafting(NGRAM, draft_len_schedule={"--1": 1, "²": 2, "9" * 5000: 3, "x": None}),
        drafting(EAGLE, eagle_choices=[1, [[0]], None]),
        {"speculative_config": [1]},
        {"kv_cache_config": {"max_attention_window": [[], "1"], "dtype": []}},
        {"moe_config": {"load_balancer": [1]}, "cp_config": 7, "sampler_type": {}},
    ],
)
@pytest.mark.parametrize("release", ["0.17.0", "0.21.0", "1.2.1", NEWEST])
def test_values_of_any_type_are_refused_and_not_more(llm: dict[str, Any], release: str) -> None:
    assert all(one.problem for one in refused(llm, release))


def test_bfloat16_is_refused_before_ampere() -> None:
    assert "E402" in {one.code for one in findings({"release": NEWEST}, gpu="T4")}
