"""Tests of the placeholders of Triton's five templates for each release."""

import itertools

import pytest

from enginery.core.errors import UsageError
from enginery.releases.facts import Certainty
from enginery.releases.models import MODELS, STEPS, Template, template

CAME = (
    ("0.8.0", "0.9.0", "tensorrt_llm", ("decoding_mode lora_cache_optimal_adapter_size lora_cache_max_adapter_size "
     "lora_cache_gpu_memory_fraction lora_cache_host_memory_bytes medusa_choices")),
    ("0.8.0", "0.9.0", "preprocessing", "add_special_tokens"),
    ("0.9.0", "0.10.0", "tensorrt_llm", ("triton_backend iter_stats_max_iterations request_stats_max_iterations "
     "kv_cache_host_memory_bytes gpu_weights_percent")),
    ("0.10.0", "0.11.0", "tensorrt_llm", "encoder_engine_dir"),
    ("0.10.0", "0.11.0", "postprocessing", "skip_special_tokens"),
    ("0.11.0", "0.12.0", "tensorrt_llm", "enable_context_fmha_fp32_acc multi_block_mode max_queue_size"),
    ("0.11.0", "0.12.0", "preprocessing", "engine_dir visual_model_path"),
    ("0.12.0", "0.13.0", "tensorrt_llm", "participant_ids"),
    ("0.12.0", "0.13.0", "tensorrt_llm_bls", "multimodal_encoders_name"),
    ("0.13.0", "0.14.0", "tensorrt_llm", "cross_kv_cache_fraction"),
    ("0.14.0", "0.15.0", "tensorrt_llm", ("cuda_graph_mode cuda_graph_cache_size speculative_decoding_fast_logits "
     "encoder_input_features_data_type")),
    ("0.14.0", "0.15.0", "preprocessing", "max_num_images"),
    ("0.15.0", "0.16.0", "tensorrt_llm", "eagle_choices"),
    ("0.16.0", "0.17.0", "tensorrt_llm", "logits_datatype"),
    ("0.16.0", "0.17.0", "ensemble", "logits_datatype"),
    ("0.16.0", "0.17.0", "tensorrt_llm_bls", "logits_datatype"),
    ("0.18.2", "0.19.0", "preprocessing", "multimodal_model_path max_queue_delay_microseconds max_queue_size"),
    ("0.18.2", "0.19.0", "tensorrt_llm", ("guided_decoding_backend tokenizer_dir xgrammar_tokenizer_info_path "
     "num_nodes lora_prefetch_dir")),
    ("0.19.0", "1.3.0rc3", "tensorrt_llm", "enable_trt_overlap prompt_embedding_table_data_type"),
)  # fmt: skip

LEFT = (
    ("0.8.0", "0.9.0", "preprocessing", "tokenizer_type"),
    ("0.8.0", "0.9.0", "postprocessing", "tokenizer_type"),
    ("0.9.0", "0.10.0", "tensorrt_llm", "enable_trt_overlap"),
    ("0.18.2", "0.19.0", "preprocessing", "visual_model_path"),
)

UNQUOTED = (
    ("0.8.0", "preprocessing", "triton_max_batch_size preprocessing_instance_count"),
    ("0.19.0", "preprocessing", ("triton_max_batch_size preprocessing_instance_count max_queue_delay_microseconds "
     "max_queue_size")),
    ("0.8.0", "postprocessing", "triton_max_batch_size postprocessing_instance_count"),
    ("0.19.0", "postprocessing", "triton_max_batch_size postprocessing_instance_count"),
    ("0.8.0", "tensorrt_llm", "triton_max_batch_size decoupled_mode max_queue_delay_microseconds"),
    ("0.12.0", "tensorrt_llm", "triton_max_batch_size decoupled_mode max_queue_delay_microseconds max_queue_size"),
    ("0.19.0", "tensorrt_llm", ("triton_max_batch_size decoupled_mode max_queue_delay_microseconds max_queue_size "
     "encoder_input_features_data_type logits_datatype")),
    ("0.8.0", "tensorrt_llm_bls", "triton_max_batch_size decoupled_mode bls_instance_count"),
    ("0.17.0", "tensorrt_llm_bls", "triton_max_batch_size decoupled_mode bls_instance_count logits_datatype"),
    ("0.8.0", "ensemble", "triton_max_batch_size"),
    ("0.17.0", "ensemble", "triton_max_batch_size logits_datatype"),
)  # fmt: skip


def of(release: str, model: str) -> Template:
    found = template(release, model).value
    assert found is not None
    return found


@pytest.mark.parametrize(("old", "new", "model", "names"), CAME)
def test_placeholders_that_came(old: str, new: str, model: str, names: str) -> None:
    assert not set(names.split()) & set(of(old, model).placeholders)
    assert set(names.split()) <= set(of(new, model).placeholders)


@pytest.mark.parametrize(("old", "new", "model", "names"), LEFT)
def test_placeholders_that_left(old: str, new: str, model: str, names: str) -> None:
    assert set(names.split()) <= set(of(old, model).placeholders)
    assert not set(names.split()) & set(of(new, model).placeholders)


def test_nothing_else_left_up_to_0_19() -> None:
    order = ("0.8.0", "0.9.0", "0.10.0", "0.11.0", "0.12.0", "0.13.0", "0.14.0", "0.15.0", "0.16.0", "0.17.0", "0.18.2",
             "0.19.0")  # fmt: skip
    left = {
        (old, new, model, name)
        for model in MODELS
        for old, new in itertools.pairwise(order)
        for name in set(of(old, model).placeholders) - set(of(new, model).placeholders)
    }
    assert left == set(LEFT)


@pytest.mark.parametrize(("release", "model", "names"), UNQUOTED)
def test_placeholders_outside_of_quotes(release: str, model: str, names: str) -> None:
    assert {name for name, quoted in of(release, model).placeholders.items() if not quoted} == set(names.split())


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.16.0", "0.19.0", "1.3.0rc3"])
@pytest.mark.parametrize("model", MODELS)
def test_each_placeholder_in_a_parameter_is_listed(release: str, model: str) -> None:
    found = of(release, model)
    used = {value[2:-1] for value in found.parameters.values() if value.startswith("${")}
    assert used <= set(found.placeholders)
    assert not {name for name in used if not found.placeholders[name]} - {"tokenizer_dir"}


def test_parameters_and_tensors_are_known() -> None:
    found = of("0.16.0", "tensorrt_llm")
    assert found.parameters["gpt_model_path"] == "${engine_dir}"
    assert found.parameters["gpt_model_type"] == "${batching_strategy}"
    assert found.inputs["input_ids"]["data_type"] == "TYPE_INT32"
    assert "output_ids" in found.outputs


def test_statistics_are_asked_for_by_another_name_from_0_19_on() -> None:
    assert "return_kv_cache_reuse_stats" in of("0.18.2", "tensorrt_llm").inputs
    assert "return_perf_metrics" in of("0.19.0", "tensorrt_llm").inputs


@pytest.mark.parametrize(
    ("release", "names"), [("0.19.0", {"min_length", "random_seed"}), ("1.3.0rc3", {"min_tokens", "seed"})]
)
def test_requests_have_new_names_for_their_limits_after_0_19(release: str, names: set[str]) -> None:
    assert names <= set(of(release, "ensemble").inputs)


def test_a_release_that_was_not_read_is_answered_from_the_nearest() -> None:
    found = template("1.2.1", "tensorrt_llm")
    assert found.provenance.certainty is Certainty.NEAREST
    assert found.provenance.release == "1.3.0rc3"
    assert template("0.20.0", "tensorrt_llm").provenance.release == "0.20.0.dev0"


def test_there_are_none_once_engines_are_gone() -> None:
    assert template("1.3.0rc21", "ensemble").value is None


def test_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="tensorrt_llm_blss"):
        template("0.8.0", "tensorrt_llm_blss")


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.13.0", "0.16.0", "0.19.0", "1.3.0rc3"])
def test_the_ensemble_asks_each_model_for_tensors_it_has_and_fills_what_it_must(release: str) -> None:
    models = {model: of(release, model) for model in STEPS}
    known = set(of(release, "ensemble").inputs)
    for model in models.values():
        assert set(model.takes) <= set(model.inputs)
        assert set(model.gives) <= set(model.outputs)
        required = {name for name, tensor in model.inputs.items() if not tensor.get("optional")}
        assert required <= set(model.takes)
        assert set(model.takes.values()) <= known
        known |= set(model.gives.values())
    assert set(of(release, "ensemble").outputs) <= known


def test_how_models_are_run_is_known() -> None:
    assert of("0.8.0", "tensorrt_llm").settings["backend"] == "tensorrtllm"
    assert of("0.10.0", "tensorrt_llm").settings["backend"] == "${triton_backend}"
    assert of("0.8.0", "ensemble").settings["platform"] == "ensemble"
    assert "dynamic_batching" not in of("0.12.0", "postprocessing").settings
    assert of("0.13.0", "postprocessing").settings["dynamic_batching"] == {}


def test_only_models_that_the_ensemble_asks_are_wired() -> None:
    assert not of("0.16.0", "tensorrt_llm_bls").takes
    assert of("0.16.0", "tensorrt_llm").takes["runtime_top_k"] == "top_k"
    assert of("0.19.0", "tensorrt_llm").takes["min_length"] == "min_length"
    assert of("0.20.0", "tensorrt_llm").takes["min_tokens"] == "min_tokens"
