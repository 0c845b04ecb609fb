"""Tests of the conversion command for each precision, family and release."""

from pathlib import Path
from typing import Any

import pytest

from enginery.backends.request import Request
from enginery.backends.tensorrt.converters import conversion
from enginery.backends.tensorrt.release import architectures, family_for, first_release
from enginery.backends.tensorrt.script_arguments import argument_problems
from enginery.releases.facts import builds_engines, releases
from enginery.releases.flags import flags_of
from enginery.store.steps import Stage
from tests.support.models.examples import GEMMA_7B, LLAMA_2_7B, LLAMA_3_8B, MISTRAL_7B, MIXTRAL_8X7B, PHI_2, QWEN2_7B
from tests.support.plans.tensorrt import codes, command, convert_argv, findings, request_of, step

SCRIPT = "{python} {examples}/llama/convert_checkpoint.py --model_dir {weights} --output_dir {output}"
QUANTIZE = "{python} {examples}/quantization/quantize.py --model_dir {weights} --output_dir {output} --dtype bfloat16"
GEMMA = "{python} {examples}/gemma/convert_checkpoint.py"
PHI = "{python} {examples}/phi/convert_checkpoint.py"
LATER = "{python} {examples}/models/core/llama/convert_checkpoint.py --model_dir {weights} --output_dir {output}"


def request(release: str, config: dict[str, Any] | None = None, **more: Any) -> Request:
    build = {"gpt_attention_plugin": "auto", "nccl_plugin": "auto"}
    spec = {"build": build if release == "0.10.0" else {"gpt_attention_plugin": "auto"}, **more.pop("spec", {})}
    return request_of(config, spec=spec, release=release, **more)


@pytest.mark.parametrize(
    ("release", "more", "argv"),
    [
        ("0.8.0", {}, f"{SCRIPT} --dtype bfloat16"),
        ("0.16.0", {"precision": "float16"}, f"{SCRIPT} --dtype float16"),
        ("1.2.1", {}, f"{LATER} --dtype bfloat16"),
        ("0.9.0", {"tensor_parallel": 2}, f"{SCRIPT} --dtype bfloat16 --tp_size 2"),
        (
            "0.12.0",
            {"tensor_parallel": 4, "pipeline_parallel": 2},
            f"{SCRIPT} --dtype bfloat16 --tp_size 4 --pp_size 2",
        ),
        (
            "0.8.0",
            {"precision": "int8_wo"},
            f"{SCRIPT} --dtype bfloat16 --use_weight_only --weight_only_precision int8",
        ),
        (
            "1.2.1",
            {"precision": "int4_wo"},
            f"{LATER} --dtype bfloat16 --use_weight_only --weight_only_precision int4",
        ),
        (
            "0.16.0",
            {"precision": "int8_sq"},
            f"{SCRIPT} --dtype bfloat16 --smoothquant 0.5 --per_token --per_channel",
        ),
        ("0.16.0", {"convert": {"kv_cache": "int8"}}, f"{SCRIPT} --dtype bfloat16 --int8_kv_cache"),
        ("0.8.0", {"precision": "fp8"}, f"{QUANTIZE} --qformat fp8 --kv_cache_dtype fp8"),
        ("1.2.1", {"precision": "int4_awq"}, f"{QUANTIZE} --qformat int4_awq"),
        ("0.16.0", {"precision": "w4a8_awq"}, f"{QUANTIZE} --qformat w4a8_awq"),
        ("1.2.1", {"precision": "nvfp4", "gpu": "B200"}, f"{QUANTIZE} --qformat nvfp4 --kv_cache_dtype fp8"),
        ("0.16.0", {"convert": {"kv_cache": "fp8"}}, f"{QUANTIZE} --qformat full_prec --kv_cache_dtype fp8"),
        (
            "0.16.0",
            {"precision": "int8_wo", "convert": {"kv_cache": "fp8"}},
            f"{QUANTIZE} --qformat int8_wo --kv_cache_dtype fp8",
        ),
        (
            "0.16.0",
            {"precision": "fp8", "convert": {"kv_cache": "int8"}},
            f"{QUANTIZE} --qformat fp8 --kv_cache_dtype int8",
        ),
    ],
)
def test_each_precision_has_its_command(release: str, more: dict[str, Any], argv: str) -> None:
    assert convert_argv(request(release, **more)) == argv


@pytest.mark.parametrize(
    ("release", "config", "argv"),
    [
        ("0.8.0", MISTRAL_7B, f"{SCRIPT} --dtype bfloat16"),
        ("0.16.0", MIXTRAL_8X7B, f"{SCRIPT} --dtype bfloat16"),
        ("0.12.0", QWEN2_7B, f"{SCRIPT} --dtype bfloat16".replace("llama", "qwen")),
        (
            "0.9.0",
            GEMMA_7B,
            f"{GEMMA} --ckpt-type hf --model-dir {{weights}} --output-model-dir {{output}} --dtype bfloat16",
        ),
        (
            "0.10.0",
            PHI_2,
            f"{PHI} --model_type phi-2 --model_dir {{weights}} --output_dir {{output}} --dtype bfloat16",
        ),
    ],
)
def test_each_family_has_its_own_script_and_flags(release: str, config: dict[str, Any], argv: str) -> None:
    assert convert_argv(request(release, config)) == argv


def test_the_world_size_of_gemma_is_its_tensor_parallelism() -> None:
    assert convert_argv(request("0.16.0", GEMMA_7B, tensor_parallel=2)).endswith("--world-size 2")
    assert "E122" in codes(request("0.16.0", GEMMA_7B, pipeline_parallel=2))


@pytest.mark.parametrize(("release", "flag"), [("0.16.0", "--use-weight-only-with-precision"), ("1.2.1", None)])
def test_gemmas_weights_only_quantization_is_written_as_the_release_has_it(release: str, flag: str | None) -> None:
    argv = convert_argv(request(release, GEMMA_7B, precision="int8_wo"))
    assert argv.endswith(f"{flag} int8" if flag else "--use_weight_only --weight_only_precision int8")


def test_a_script_that_cannot_quantize_leaves_it_to_quantize_py() -> None:
    asked = request("0.10.0", PHI_2, precision="int8_wo", spec={"force": ["W135"]})
    assert "quantize.py" in convert_argv(asked)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("LlamaForCausalLM", "llama"),
        ("MistralForCausalLM", "llama"),
        ("MixtralForCausalLM", "llama"),
        ("Qwen2ForCausalLM", "qwen"),
        ("Qwen2MoeForCausalLM", "qwen"),
        ("Gemma2ForCausalLM", "gemma"),
        ("Phi3ForCausalLM", "phi"),
        ("GPT2LMHeadModel", "gpt"),
        ("InternLM2ForCausalLM", "internlm2"),
        ("FalconForCausalLM", "falcon"),
    ],
)
@pytest.mark.parametrize("release", ["0.16.0", "1.2.1"])
def test_the_plain_family_of_a_model_converts_it(release: str, architecture: str, family: str) -> None:
    assert family_for(release, architecture).family == family


def test_no_family_that_needs_another_model_or_makes_no_text_is_ever_chosen() -> None:
    special = {"medusa", "eagle", "redrafter", "cogvlm", "grok", "enc_dec", "whisper", "bert"}
    for release in filter(builds_engines, releases()):
        chosen = {family_for(release, name).family for name in architectures(release)}
        assert chosen
        assert not chosen & special


@pytest.mark.parametrize(
    ("release", "architecture", "family"),
    [
        ("0.10.0", "Qwen2ForCausalLM", "qwen"),
        ("0.9.0", "Qwen2ForCausalLM", None),
        ("0.9.0", "Starcoder2ForCausalLM", "gpt"),
        ("0.8.0", "GPT2LMHeadModel", None),
        ("0.8.0", "BaiChuanForCausalLM", "baichuan"),
        ("0.10.0", "Phi3ForCausalLM", "phi"),
        ("1.2.1", "ChatGLMModel", "glm-4-9b"),
    ],
)
def test_a_script_serves_models_that_it_does_not_name(release: str, architecture: str, family: str | None) -> None:
    assert family_for(release, architecture).family == family


def test_the_first_script_for_qwen_gets_the_version_of_qwen() -> None:
    assert "--qwen_type qwen2" in convert_argv(request("0.10.0", QWEN2_7B))


def test_the_first_release_with_a_converter_is_known() -> None:
    assert first_release("Qwen2ForCausalLM") == "0.10.0"
    assert first_release("LlamaForCausalLM") == "0.8.0"
    assert first_release("NobodyForCausalLM") == ""


def test_quantized_weights_are_computed_with_in_the_models_own_format() -> None:
    assert "--dtype float16" in convert_argv(request("0.16.0", LLAMA_2_7B, precision="int4_awq"))
    assert "--dtype bfloat16" in convert_argv(request("0.16.0", LLAMA_3_8B, precision="int4_awq"))


def test_a_gpu_without_bfloat16_computes_in_float16() -> None:
    wanted = request("0.14.0", LLAMA_3_8B, gpu="T4", precision="int8_wo")
    assert "--dtype float16" in " ".join(conversion(wanted, "0.14.0", "llama").argv)


CALIBRATION = {"dataset": "cnn_dailymail", "size": 64, "max_length": 128, "batch_size": 8, "seed": 7}


def test_the_calibration_is_in_the_command_and_so_in_the_key() -> None:
    wanted = request("0.16.0", precision="fp8", convert={"calibration": CALIBRATION})
    assert convert_argv(wanted).endswith(
        "--calib_dataset cnn_dailymail --calib_size 64 --calib_max_seq_length 128 --batch_size 8 --seed 7"
    )
    other = request("0.16.0", precision="fp8", convert={"calibration": CALIBRATION | {"seed": 8}})
    assert step(wanted, Stage.CONVERT).key != step(other, Stage.CONVERT).key


def test_the_calibrations_flags_have_their_names_of_the_release() -> None:
    wanted = request("0.9.0", precision="fp8", convert={"calibration": {"max_length": 128}})
    assert convert_argv(wanted).endswith("--max_seq_length 128")


@pytest.mark.parametrize(
    ("release", "field", "value"),
    [("0.8.0", "seed", 1), ("0.8.0", "dataset", "cnn_dailymail"), ("0.8.0", "max_length", 9)],
)
def test_a_calibration_without_an_argument_of_the_script_is_refused(release: str, field: str, value: object) -> None:
    wanted = request(release, precision="fp8", convert={"calibration": {field: value}})
    (finding,) = findings(wanted)
    assert (finding.code, finding.path) == ("E122", f"convert.calibration.{field}")
    assert "0.8.0's quantize.py has no --" in finding.problem
    assert finding.remedy


def test_smoothquant_by_the_familys_script_takes_what_that_has() -> None:
    calibration = {"size": 64, "max_length": 256}
    argv = convert_argv(request("0.16.0", precision="int8_sq", convert={"calibration": calibration}))
    assert argv.endswith("--calib_size 64 --calib_max_seq_length 256")
    assert codes(request("0.13.0", precision="int8_sq", convert={"calibration": calibration})) == ["E122", "E122"]


def test_calibration_means_nothing_where_nothing_is_calibrated() -> None:
    assert convert_argv(request("0.8.0", convert={"calibration": CALIBRATION})) == f"{SCRIPT} --dtype bfloat16"


def test_the_users_own_texts_are_named_by_a_placeholder_and_their_digest(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "one.jsonl").write_text('{"text": "one"}\n')
    wanted = request("0.16.0", precision="fp8", convert={"calibration": {"dataset": str(texts)}})
    first = command(wanted)
    assert first.argv[-2:] == ("--calib_dataset", "{dataset}")
    assert str(tmp_path) not in first.model_dump_json()
    (texts / "one.jsonl").write_text('{"text": "two!"}\n')
    assert command(wanted).parameters["dataset_sha256"] != first.parameters["dataset_sha256"]


def test_only_a_calibration_with_texts_of_the_hub_reaches_the_network(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one\n")
    own = request("0.16.0", precision="fp8", convert={"calibration": {"dataset": str(tmp_path)}})
    assert command(own).environment["HF_HUB_OFFLINE"] == "1"
    assert command(request("0.16.0")).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in command(request("0.16.0", precision="fp8")).environment


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({}, "any"),
        ({"precision": "int4_wo"}, "any"),
        ({"precision": "int8_sq"}, "nvidia"),
        ({"precision": "fp8"}, "nvidia"),
        ({"precision": "fp8", "convert": {"device": "cpu"}}, "any"),
    ],
)
def test_only_what_calibrates_needs_a_gpu_and_any_will_do(more: dict[str, Any], where: str) -> None:
    assert step(request("0.16.0", **more), Stage.CONVERT).runs_on == where


def test_a_quantizer_without_cpu_support_gets_no_device_argument() -> None:
    (finding,) = findings(request("0.10.0", precision="fp8", convert={"device": "cpu"}))
    assert (finding.code, finding.path) == ("E122", "convert.device")


@pytest.mark.parametrize(
    ("config", "more", "remedy"),
    [
        (
            LLAMA_3_8B,
            {"convert": {"kv_cache": "nvfp4"}},
            "another precision or release, or convert.converter: modelopt",
        ),
        (GEMMA_7B, {"pipeline_parallel": 2}, "another precision or release"),
        (PHI_2, {"convert": {"kv_cache": "nvfp4"}}, "another precision or release"),
    ],
)
def test_modelopt_is_named_only_for_what_it_can_make(config: dict[str, Any], more: dict[str, Any], remedy: str) -> None:
    found = [finding for finding in findings(request("0.16.0", config, **more)) if finding.code == "E122"]
    assert [finding.remedy for finding in found] == [f"use {remedy}"]


def test_more_arguments_are_passed_on_and_checked() -> None:
    wanted = request("0.8.0", convert={"extra_args": ["--rotary_base", "500000.0", "--load_by_shard"]})
    assert convert_argv(wanted) == f"{SCRIPT} --dtype bfloat16 --rotary_base 500000.0 --load_by_shard"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--no_such_flag"], "has no --no_such_flag"),
        (["--workers", "many"], "an integer"),
        (["--workers"], "needs a value"),
        (["--load_by_shard=yes"], "takes no value"),
        (["loose"], "takes no argument 'loose'"),
        (["--embedding_sharding_dim", "2"], "only 0, 1"),
        (["--dtype", "float16"], "--dtype is set from the spec already"),
        (["-sq", "0.5", "--output_dir=x"], "--output_dir is set from the spec already"),
    ],
)
def test_more_arguments_that_the_script_would_refuse_are_refused(extra: list[str], says: str) -> None:
    (finding,) = findings(request("0.16.0", convert={"extra_args": extra}))
    assert (finding.code, finding.path) == ("E122", "convert.extra_args")
    assert says in finding.problem


def test_arguments_are_read_as_argparse_reads_them() -> None:
    known = flags_of("0.8.0", "convert_checkpoint.py llama").value
    good = (
        "--rotary_scaling",
        "linear",
        "2.0",
        "-sq",
        "0.5",
        "--workers=4",
        "--lora_target_modules",
        "attn_q",
        "attn_k",
    )
    assert argument_problems(known, good) == []
    assert argument_problems(known, ["--lora_target_modules", "attn_q", "nothing"]) != []
    too_few = ["--rotary_scaling", "linear", "-sq", "0.5"]
    assert argument_problems(known, too_few) == ["takes 2 values for --rotary_scaling, not 1"]
