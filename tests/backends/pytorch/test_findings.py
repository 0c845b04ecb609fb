"""Tests of what the backend `pytorch` refuses before anything runs, and of the messages."""

from typing import Any

import pytest

from enginery.models.facts import ModelFacts
from enginery.spec.findings import Finding
from tests.support.plans.pytorch import codes, findings


def only(target: dict[str, Any] | None = None, **more: Any) -> Finding:
    (found,) = findings(target, **more)
    return found


def test_an_unknown_key_is_named_with_its_like_and_whose_facts_they_are() -> None:
    found = only(llm={"max_num_token": 4})
    assert (found.code, found.path) == ("E403", "llm.max_num_token")
    assert "1.2.1 has no such key, as far as known from 1.3.0rc3" in found.problem
    assert "did you mean max_num_tokens" in found.remedy
    assert "as far as known" not in only({"release": "1.3.0rc3"}, llm={"max_num_token": 4}).problem


def test_an_unknown_key_within_an_object_is_named_too() -> None:
    found = only(llm={"kv_cache_config": {"free_gpu_memory_fractio": 0.5}})
    assert (found.code, found.path) == ("E403", "llm.kv_cache_config.free_gpu_memory_fractio")
    assert "free_gpu_memory_fraction" in found.remedy


@pytest.mark.parametrize(
    ("llm", "path"),
    [
        ({"max_num_tokens": "many"}, "llm.max_num_tokens"),
        ({"max_num_tokens": True}, "llm.max_num_tokens"),
        ({"enable_chunked_prefill": 1}, "llm.enable_chunked_prefill"),
        ({"tokenizer_mode": "quick"}, "llm.tokenizer_mode"),
        ({"guided_decoding_backend": "outlines"}, "llm.guided_decoding_backend"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": "half"}}, "llm.kv_cache_config.free_gpu_memory_fraction"),
        ({"kv_cache_config": 0.5}, "llm.kv_cache_config"),
        ({"cuda_graph_config": {"batch_sizes": [1, "two"]}}, "llm.cuda_graph_config.batch_sizes"),
        ({"scheduler_config": {"capacity_scheduler_policy": "X"}}, "llm.scheduler_config.capacity_scheduler_policy"),
        ({"moe_config": {"backend": "FAST"}}, "llm.moe_config.backend"),
        ({"speculative_config": {"decoding_type": "Magic"}}, "llm.speculative_config"),
    ],
)
def test_a_value_that_a_key_does_not_take_is_refused_at_its_path(llm: dict[str, Any], path: str) -> None:
    found = only(llm=llm)
    assert found.code == "E404"
    assert found.path.startswith(path)
    assert "1.2.1" in found.remedy


@pytest.mark.parametrize(
    "llm",
    [
        {"kv_cache_config": {"free_gpu_memory_fraction": 1, "dtype": "fp8", "max_attention_window": [1, 2]}},
        {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1}},
        {"speculative_config": {"decoding_type": "NGram", "max_draft_len": 3, "max_matching_ngram_size": 2}},
        {"speculative_config": None},
        {"cuda_graph_config": None},
        {"moe_config": {"backend": "CUTLASS", "load_balancer": {"num_slots": 8}}},
        {"lora_config": {"lora_dir": ["a"]}},
        {"model_kwargs": {"num_hidden_layers": 2}},
        {"torch_compile_config": {"capture_num_tokens": [1, 2]}},
        {"max_seq_len": None},
    ],
)
def test_what_the_release_takes_is_not_refused(llm: dict[str, Any]) -> None:
    assert findings(llm=llm) == []


def test_a_speculative_decoding_is_checked_by_its_own_keys() -> None:
    found = only(llm={"speculative_config": {"decoding_type": "MTP", "max_ngram_size": 2}})
    assert (found.code, found.path) == ("E403", "llm.speculative_config.max_ngram_size")


@pytest.mark.parametrize(
    "name", ["model", "tokenizer", "revision", "backend", "dtype", "tensor_parallel_size", "pipeline_parallel_size"]
)
def test_a_key_that_is_set_elsewhere_is_refused_with_where(name: str) -> None:
    found = only(llm={name: "x"})
    assert (found.code, found.path, found.remedy) == ("E405", f"llm.{name}", "remove it")


def test_a_value_that_is_said_twice_and_differently_is_refused() -> None:
    found = only(
        llm={"kv_cache_config": {"free_gpu_memory_fraction": 0.3}}, serving={"kv_cache_free_gpu_mem_fraction": 0.5}
    )
    assert (found.code, found.path) == ("E405", "llm.kv_cache_config.free_gpu_memory_fraction")
    assert "is 0.3 here and 0.5 in serving.kv_cache_free_gpu_mem_fraction" in found.problem


def test_a_value_that_is_said_twice_alike_is_fine_and_so_is_one_over_a_default() -> None:
    assert findings(llm={"max_num_tokens": 5}, build={"max_num_tokens": 5}) == []
    assert findings(llm={"max_batch_size": 5}) == []


@pytest.mark.parametrize(
    ("llm", "remedy"),
    [
        ({"use_cuda_graph": True}, "from 1.0 on it is cuda_graph_config"),
        ({"cuda_graph_padding_enabled": True}, "from 1.0 on it is cuda_graph_config.enable_padding"),
        ({"cuda_graph_config": {"padding_enabled": True}}, "it is cuda_graph_config.enable_padding"),
        ({"autotuner_enabled": True}, "it is enable_autotuner"),
        ({"pytorch_backend_config": {"use_cuda_graph": True}}, "its keys are at the top level from 0.21 on"),
        ({"mixed_sampler": True}, "the sampler mixes strategies by itself"),
    ],
)
def test_an_old_name_is_reported_with_the_new_one(llm: dict[str, Any], remedy: str) -> None:
    found = only(llm=llm)
    assert found.code == "E403"
    assert remedy in found.remedy


def test_a_spec_field_without_an_argument_in_the_release_is_refused_at_its_own_path() -> None:
    found = only({"release": "0.19.0"}, build={"max_seq_len": 4096})
    assert (found.code, found.path) == ("E403", "build.max_seq_len")
    assert "0.19.0 has no max_seq_len, as far as known from 0.16.0" in found.problem


@pytest.mark.parametrize("precision", ["int8_sq", "int8_wo", "int4_wo", "int8", "int4"])
def test_a_precision_that_the_backend_does_not_read_is_refused(precision: str) -> None:
    found = only({"precision": precision})
    assert (found.code, found.path) == ("E402", "precision")
    assert "use one of float32, float16, bfloat16, fp8, nvfp4, int4_awq, w4a8_awq" in found.remedy


@pytest.mark.parametrize(
    ("precision", "gpu", "needs"),
    [
        ("nvfp4", "H100-SXM5-80GB", "10.0"),
        ("fp8", "A100-SXM4-80GB", "8.9"),
        ("w4a8_awq", "A100-SXM4-80GB", "8.9"),
        ("bfloat16", "T4", "8.0"),
    ],
)
def test_a_precision_that_the_gpu_cannot_do_is_refused(precision: str, gpu: str, needs: str) -> None:
    found = only({"precision": precision}, gpu=gpu)
    assert (found.code, found.path) == ("E402", "precision")
    assert f"needs compute capability {needs}" in found.problem


def test_a_gpu_older_than_all_that_the_release_supports_is_refused() -> None:
    found = only({"precision": "float16"}, gpu="T4")
    assert (found.code, found.path) == ("E402", "gpu")
    assert "begins at compute capability 8.0; T4 has 7.5" in found.problem


def test_a_gpu_that_the_support_matrix_does_not_list_is_a_warning() -> None:
    found = only({"release": "0.18.0"}, gpu="RTX-PRO-6000-Server")
    assert (found.code, found.level) == ("W401", "warning")


def test_there_must_be_a_gpu() -> None:
    assert codes({"precision": "float32"}, gpu="cpu") == {"E408"}


@pytest.mark.parametrize(
    ("precision", "quantization", "problem"),
    [
        ("bfloat16", {"quant_algo": "FP8"}, "quantized to fp8 (FP8) and cannot be undone"),
        ("nvfp4", {"quant_algo": "FP8"}, "cannot be quantized again"),
        ("int4_awq", {"quant_method": "gptq"}, "quantized as gptq; Enginery serves only"),
        ("fp8", {"quant_method": "mxfp4"}, "quantized as mxfp4; Enginery serves only"),
        ("fp8", {"quant_method": "fp8", "activation_scheme": "static"}, "quantized as fp8; Enginery serves only"),
        ("fp8", {"quant_method": "fp8", "weight_block_size": None}, "for each block of 128 x 128"),
        ("fp8", {"quant_method": "fp8", "weight_block_size": [64, 64]}, "for each block of 128 x 128"),
    ],
)
def test_a_source_that_is_quantized_to_something_else_is_refused(
    precision: str, quantization: dict[str, Any], problem: str
) -> None:
    model = ModelFacts(dtype="bfloat16", quantization=quantization)
    found = only({"precision": precision}, model=model, gpu="B200")
    assert found.code == "E407"
    assert problem in found.problem


@pytest.mark.parametrize(
    ("precision", "quantization"),
    [
        ("fp8", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ("fp8", {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}),
        ("nvfp4", {"quant_algo": "NVFP4"}),
        ("int4_awq", {"quant_algo": "W4A16_AWQ"}),
        ("w4a8_awq", {"quant_algo": "W4A8_AWQ"}),
    ],
)
def test_a_source_that_is_quantized_as_asked_for_is_taken(precision: str, quantization: dict[str, Any]) -> None:
    model = ModelFacts(dtype="bfloat16", quantization=quantization)
    assert codes({"precision": precision}, model=model, gpu="B200") == set()


@pytest.mark.parametrize(
    ("convert", "path"),
    [
        ({"converter": "release"}, "convert.converter"),
        ({"kv_cache": "int8"}, "convert.kv_cache"),
        ({"extra_args": ["--fast"]}, "convert.extra_args"),
        ({"calibration": {"dataset": "cnn_dailymail"}}, "convert.calibration.dataset"),
    ],
)
def test_a_conversion_that_modelopts_driver_does_not_do_is_refused(convert: dict[str, Any], path: str) -> None:
    found = only({"precision": "fp8"}, convert=convert)
    assert (found.code, found.path) == ("E409", path)


def test_blocks_of_scales_must_fit_each_gpus_part_of_the_model() -> None:
    model = ModelFacts(dtype="bfloat16", hidden_size=256, heads=4, head_size=64, intermediate_size=640)
    assert codes({"precision": "int4_awq"}, model=model) == set()
    found = only({"precision": "int4_awq", "tensor_parallel": 2}, model=model)
    assert (found.code, found.path) == ("E409", "precision")
    assert "the intermediate size 640 over 2 GPUs is no multiple of 128" in found.problem
    assert codes({"precision": "fp8", "tensor_parallel": 2}, model=model) == set()


def test_a_build_option_of_the_target_that_means_nothing_is_refused() -> None:
    found = only({"build": {"gemm_plugin": "auto", "max_num_tokens": 100}})
    assert (found.code, found.path) == ("E406", "build.gemm_plugin")


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        ({"lora_dir": ["/adapters"], "lora_plugin": "auto"}, "llm.lora_config"),
        ({"speculative_decoding_mode": "medusa"}, "llm.speculative_config"),
        ({"gather_context_logits": True}, "backend: tensorrt"),
    ],
)
def test_an_option_that_changes_what_is_served_is_never_just_ignored(build: dict[str, Any], remedy: str) -> None:
    found = only(build=build)
    assert found.code == "E406"
    assert remedy in found.remedy


def test_an_option_that_says_what_is_so_anyhow_is_fine() -> None:
    assert findings(build={"gather_context_logits": False, "max_draft_len": 0}) == []


@pytest.mark.parametrize(
    ("triton", "code"),
    [({"warm_up": "yes"}, "E404"), ({"warm_up": [0]}, "E404"), ({"max_batch_size": 4}, "E403"), ([], "E404")],
)
def test_what_the_served_model_does_not_read_is_refused(triton: Any, code: str) -> None:
    found = only(llm={"triton_config": triton})
    assert found.code == code
    assert found.path.startswith("llm.triton_config")


def test_everything_is_reported_at_once() -> None:
    found = codes(
        {"precision": "nvfp4", "build": {"gemm_plugin": "auto"}},
        llm={"max_num_token": 1, "dtype": "x", "max_seq_len": "long"},
    )
    assert found == {"E402", "E403", "E404", "E405", "E406"}
