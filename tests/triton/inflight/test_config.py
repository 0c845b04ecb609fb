"""Tests of the five `config.pbtxt` of every release: complete, as in the template, with the spec's values."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from enginery.releases.facts import releases_read
from enginery.releases.models import MODELS, STEPS, Template, template
from enginery.spec.serving import ServingOptions
from enginery.triton.inflight import FIELDS, KNOWN, model_config, text
from enginery.triton.problems import serving_problems, set_fields
from enginery.triton.repository import to_text

KNOWN_RELEASES = releases_read("templates", "tensorrt_llm/parameters")
OTHERS = ("0.17.0.post1", "0.20.0", "0.21.0", "1.0.0", "1.2.0", "1.2.1", "1.3.0rc20")
RELEASES = (*KNOWN_RELEASES, *OTHERS)

EXAMPLES: dict[str, Any] = {
    "accumulate_tokens": True,
    "add_special_tokens": False,
    "skip_special_tokens": False,
    "max_queue_size": 77,
    "batching_strategy": "V1",
    "scheduler_policy": "max_utilization",
    "max_beam_width": 3,
    "kv_cache_free_gpu_mem_fraction": 0.625,
    "cross_kv_cache_fraction": 0.375,
    "kv_cache_host_memory_bytes": 12345,
    "kv_cache_onboard_blocks": False,
    "max_tokens_in_paged_kv_cache": 4321,
    "max_attention_window_size": 1234,
    "sink_token_length": 5,
    "enable_kv_cache_reuse": True,
    "enable_chunked_context": True,
    "enable_trt_overlap": True,
    "normalize_log_probs": False,
    "gpu_device_ids": (2, 3),
    "participant_ids": (1, 2),
    "num_nodes": 2,
    "lora_cache_optimal_adapter_size": 9,
    "lora_cache_max_adapter_size": 65,
    "lora_cache_gpu_memory_fraction": 0.125,
    "lora_cache_host_memory_bytes": 54321,
    "lora_prefetch_dir": "/adapters",
    "decoding_mode": "top_k",
    "medusa_choices": ((0,), (0, 1)),
    "eagle_choices": ((0,), (1, 0)),
    "lookahead_window_size": 6,
    "lookahead_ngram_size": 7,
    "lookahead_verification_set_size": 8,
    "speculative_decoding_fast_logits": True,
    "guided_decoding_backend": "xgrammar",
    "xgrammar_tokenizer_info_path": "/grammar/info.json",
    "gpu_weights_percent": 0.25,
    "enable_context_fmha_fp32_acc": True,
    "multi_block_mode": False,
    "cuda_graph_mode": True,
    "cuda_graph_cache_size": 11,
    "cancellation_check_period_ms": 101,
    "stats_check_period_ms": 102,
    "iter_stats_max_iterations": 103,
    "request_stats_max_iterations": 104,
    "logits_datatype": "TYPE_FP16",
    "encoder_input_features_data_type": "TYPE_BF16",
    "prompt_embedding_table_data_type": "TYPE_FP32",
}
"""A value for each field of TensorRT-LLM. No value is a default."""


@cache
def plain(release: str) -> dict[str, Any]:
    """The files for a spec without settings. Tests must not change them."""
    return rendered(release)


def rendered(release: str, **serving: Any) -> dict[str, Any]:
    """The written configurations, parsed again."""
    found = {}
    for model, config in made(release, **serving).items():
        written = to_text(config)
        assert "${" not in written
        found[model] = text_format.Parse(written, model_config_pb2.ModelConfig())
    return found


def made(release: str, **serving: Any) -> dict[str, Any]:
    options = ServingOptions(**serving)
    return {model: model_config(model, release, options) for model in MODELS}


def of(release: str, model: str) -> Template:
    found = template(release, model).value
    assert found is not None
    return found


def one_of_each_kind(releases: Iterable[str]) -> list[str]:
    """For each set of template values, the last release that has it."""
    kinds = {}
    for release in releases:
        templates = [of(release, model) for model in MODELS]
        kinds[tuple((frozenset(one.placeholders), frozenset(one.parameters.items())) for one in templates)] = release
    return list(kinds.values())


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_has_exactly_its_templates_parameters(release: str) -> None:
    for model, config in plain(release).items():
        assert set(config.parameters) == set(of(release, model).parameters)


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_has_exactly_its_templates_tensors(release: str) -> None:
    for model, config in plain(release).items():
        for tensors, known in ((config.input, of(release, model).inputs), (config.output, of(release, model).outputs)):
            assert [tensor.name for tensor in tensors] == list(known)
            for tensor in tensors:
                fact = known[tensor.name]
                assert list(tensor.dims) == fact["dims"]
                assert tensor.HasField("reshape") == ("reshape" in fact)
                assert getattr(tensor, "optional", False) == fact.get("optional", False)
                assert getattr(tensor, "allow_ragged_batch", False) == fact.get("allow_ragged_batch", False)
                if not fact["data_type"].startswith("$"):
                    assert model_config_pb2.DataType.Name(tensor.data_type) == fact["data_type"]


@pytest.mark.parametrize("release", RELEASES)
def test_every_placeholder_of_a_release_can_be_filled(release: str) -> None:
    for model in MODELS:
        assert set(of(release, model).placeholders) <= KNOWN


@pytest.mark.parametrize("release", RELEASES)
def test_the_ensemble_asks_as_the_template_does(release: str) -> None:
    steps = plain(release)["ensemble"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == list(STEPS)
    for step in steps:
        known = of(release, step.model_name)
        assert (dict(step.input_map), dict(step.output_map)) == (known.takes, known.gives)


@pytest.mark.parametrize("release", RELEASES)
def test_the_engine_is_served_by_the_cpp_backend_and_the_others_by_python(release: str) -> None:
    configs = plain(release)
    assert {model: config.backend for model, config in configs.items()} == {
        "preprocessing": "python",
        "postprocessing": "python",
        "tensorrt_llm": "tensorrtllm",
        "tensorrt_llm_bls": "python",
        "ensemble": "",
    }
    assert configs["ensemble"].platform == "ensemble"


def test_release_0_8_0_has_the_articles_values() -> None:
    configs = plain("0.8.0")
    assert {config.max_batch_size for config in configs.values()} == {64}
    before, after = parameters(configs["preprocessing"]), parameters(configs["postprocessing"])
    assert (before["tokenizer_type"], after["tokenizer_type"]) == ("auto", "auto")
    assert before["tokenizer_dir"] == "/models/preprocessing/1/tokenizer"
    assert after["tokenizer_dir"] == "/models/postprocessing/1/tokenizer"
    counts = [configs[model].instance_group[0].count for model in MODELS if model != "ensemble"]
    assert counts == [1, 1, 1, 1]
    assert parameters(configs["tensorrt_llm_bls"]) == {"accumulate_tokens": "False"}
    engine = configs["tensorrt_llm"]
    assert not engine.model_transaction_policy.decoupled
    assert not configs["tensorrt_llm_bls"].model_transaction_policy.decoupled
    assert list(engine.dynamic_batching.preferred_batch_size) == [64]
    assert engine.dynamic_batching.max_queue_delay_microseconds == 0
    filled = {
        "max_beam_width": "1",
        "gpt_model_path": "/models/tensorrt_llm/1",
        "max_tokens_in_paged_kv_cache": "2560",
        "max_attention_window_size": "2560",
        "kv_cache_free_gpu_mem_fraction": "0.5",
        "exclude_input_in_output": "True",
        "enable_kv_cache_reuse": "False",
        "gpt_model_type": "inflight_fused_batching",
    }
    assert {name: parameters(engine)[name] for name in filled} == filled


def test_what_the_templates_of_0_8_0_fix_stays_unless_the_spec_says_otherwise() -> None:
    assert parameters(plain("0.8.0")["preprocessing"])["add_special_tokens"] == "False"
    assert parameters(plain("0.8.0")["postprocessing"])["skip_special_tokens"] == "True"
    assert parameters(plain("0.8.0")["tensorrt_llm"])["FORCE_CPU_ONLY_INPUT_TENSORS"] == "no"
    configs = rendered("0.8.0", add_special_tokens=True, skip_special_tokens=False)
    assert parameters(configs["preprocessing"])["add_special_tokens"] == "True"
    assert parameters(configs["postprocessing"])["skip_special_tokens"] == "False"


@pytest.mark.parametrize("release", [release for release in RELEASES if release != "0.8.0"])
def test_the_articles_limits_are_of_0_8_0_alone(release: str) -> None:
    engine = parameters(plain(release)["tensorrt_llm"])
    left = ("max_tokens_in_paged_kv_cache", "max_attention_window_size", "kv_cache_free_gpu_mem_fraction")
    assert [engine[name] for name in (*left, "enable_kv_cache_reuse")] == ["", "", "", ""]


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_backend_refuses_to_find_empty_is_filled(release: str) -> None:
    configs = plain(release)
    engine = parameters(configs["tensorrt_llm"])
    assert engine["gpt_model_type"] == "inflight_fused_batching"
    assert engine["gpt_model_path"] == "/models/tensorrt_llm/1"
    for model in ("preprocessing", "postprocessing"):
        assert parameters(configs[model])["tokenizer_dir"].startswith(f"/models/{model}/1/")


@pytest.mark.parametrize("release", [*one_of_each_kind(KNOWN_RELEASES), "1.2.1"])
def test_each_field_of_the_spec_shows_in_the_repository_or_is_a_finding(release: str) -> None:
    unset = made(release)
    for field, example in EXAMPLES.items():
        value = not example if (release, field) == ("0.8.0", "add_special_tokens") else example
        found = [one for one in serving_problems(ServingOptions(**{field: value}), release) if one.path.endswith(field)]
        changed = [model for model, config in made(release, **{field: value}).items() if config != unset[model]]
        lacking = [one for one in found if one.code in {"E170", "W170"}]
        assert bool(lacking) != bool(changed), f"{field} in {release}: {found}, {changed}"


def test_every_field_for_the_engine_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(set_fields(ServingOptions(**EXAMPLES)))
    fields = {FIELDS.get(name, name) for name in KNOWN} & ServingOptions.model_fields.keys()
    always = {"max_batch_size", "decoupled", "exclude_input_in_output", "max_queue_delay_microseconds", "mount"}
    assert fields - always - {field for field in fields if field.endswith("_instance_count")} == set(EXAMPLES)


def test_the_specs_values_are_written_as_the_backend_reads_them() -> None:
    engine = parameters(rendered("1.3.0rc3", **EXAMPLES)["tensorrt_llm"])
    assert engine["gpt_model_type"] == "V1"
    assert engine["batch_scheduler_policy"] == "max_utilization"
    assert engine["gpu_device_ids"] == "2,3"
    assert engine["medusa_choices"] == "{0}, {0,1}"
    assert engine["kv_cache_free_gpu_mem_fraction"] == "0.625"
    assert engine["multi_block_mode"] == "False"
    assert engine["xgrammar_tokenizer_info_path"] == "/grammar/info.json"


def test_tensor_types_are_the_specs() -> None:
    configs = rendered("1.3.0rc3", **EXAMPLES)
    types = {tensor.name: tensor.data_type for tensor in configs["tensorrt_llm"].input}
    kinds = model_config_pb2.DataType
    assert types["encoder_input_features"] == kinds.TYPE_BF16
    assert types["prompt_embedding_table"] == kinds.TYPE_FP32
    for model in ("tensorrt_llm", "tensorrt_llm_bls", "ensemble"):
        assert {tensor.name: tensor.data_type for tensor in configs[model].output}["context_logits"] == kinds.TYPE_FP16
    unset = {tensor.name: tensor.data_type for tensor in plain("1.3.0rc3")["tensorrt_llm"].output}
    assert unset["context_logits"] == kinds.TYPE_FP32


def test_batching_and_instances_are_the_specs() -> None:
    configs = rendered(
        "0.19.0",
        max_batch_size=5,
        max_queue_size=9,
        max_queue_delay_microseconds=1000,
        preprocessing_instance_count=2,
        postprocessing_instance_count=3,
        bls_instance_count=4,
        decoupled=True,
    )
    assert {config.max_batch_size for config in configs.values()} == {5}
    for model in ("preprocessing", "tensorrt_llm"):
        batching = configs[model].dynamic_batching
        assert list(batching.preferred_batch_size) == [5]
        assert batching.default_queue_policy.max_queue_size == 9
        assert batching.max_queue_delay_microseconds == 1000
    counts = {model: config.instance_group[0].count for model, config in configs.items() if config.instance_group}
    assert counts == {"preprocessing": 2, "postprocessing": 3, "tensorrt_llm": 1, "tensorrt_llm_bls": 4}
    assert configs["tensorrt_llm"].model_transaction_policy.decoupled
    assert configs["tensorrt_llm_bls"].model_transaction_policy.decoupled


def test_pieces_of_a_stream_cannot_overtake_each_other() -> None:
    several = {"postprocessing_instance_count": 2}
    streamed = rendered("0.8.0", **several, decoupled=True)["postprocessing"]
    assert streamed.dynamic_batching.preserve_ordering
    for serving in ({**several, "decoupled": False}, {"postprocessing_instance_count": 1, "decoupled": True}):
        assert not rendered("0.8.0", **serving)["postprocessing"].HasField("dynamic_batching")


def test_paths_are_below_the_mount() -> None:
    configs = rendered("0.16.0", mount="/srv/models")
    assert parameters(configs["tensorrt_llm"])["gpt_model_path"] == "/srv/models/tensorrt_llm/1"
    assert parameters(configs["preprocessing"])["gpt_model_path"] == "/srv/models/tensorrt_llm/1"
    assert parameters(configs["postprocessing"])["tokenizer_dir"] == "/srv/models/postprocessing/1/tokenizer"


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, ""), (True, "True"), (0.5, "0.5"), (7, "7"), ((0, 1), "0,1"), (((0,), (1, 2)), "{0}, {1,2}"), ("a", "a")],
)
def test_values_as_text(value: Any, written: str) -> None:
    assert text(value) == written


def test_lists_of_windows_are_written_with_commas() -> None:
    engine = parameters(rendered("0.13.0", max_attention_window_size=(64, 32))["tensorrt_llm"])
    assert engine["max_attention_window_size"] == "64,32"
