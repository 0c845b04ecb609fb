"""Each kind of bad target has its finding."""

from pathlib import Path
from typing import Any

import pytest

from enginery import toolchains
from enginery.backends.common import model_positions
from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.converters import rope_findings
from enginery.core.errors import ToolchainError
from enginery.models.facts import ModelFacts
from enginery.toolchains.identity import Kind, ToolchainIdentity
from tests.support.models.examples import GEMMA_7B, LLAMA_3_1_8B, LLAMA_3_8B, MIXTRAL_8X7B, PHI_2, QWEN2_7B
from tests.support.plans.tensorrt import codes, findings, request_of

AWQ_QWEN = QWEN2_7B | {"quantization_config": {"quant_method": "awq", "bits": 4}}
LINEAR = LLAMA_3_8B | {"rope_scaling": {"type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    ("target", "code", "path", "says"),
    [
        ({"gpu": "cpu"}, "E110", "gpu", "needs an NVIDIA GPU"),
        ({"gpu": "T4", "release": "1.2.1", "precision": "float16"}, "E110", "gpu", "compute capability 7.5 of T4"),
        ({"gpu": "B200", "release": "0.16.0"}, "E110", "gpu", "compute capability 10.0 of B200"),
        ({"gpu": "GB10"}, "E110", "gpu", "compute capability 12.1 of GB10"),
        ({"gpu": "A100-SXM4-80GB", "precision": "fp8"}, "E120", "precision", "A100-SXM4-80GB has 8.0"),
        ({"gpu": "H100-SXM5-80GB", "precision": "nvfp4"}, "E120", "precision", "on compute capability 10.0"),
        ({"gpu": "T4", "release": "0.14.0", "precision": "int8_sq"}, "E120", "precision", "T4 has 7.5"),
        ({"release": "0.16.0", "precision": "nvfp4"}, "E121", "precision", "0.16.0 computes in nvfp4 on no GPU"),
        ({"precision": "int8"}, "E121", "precision", "int8 is a precision of onnxruntime"),
        ({"precision": "int4"}, "E121", "precision", "int4 is a precision of onnxruntime"),
        ({"precision": "nvfp4", "gpu": "B200", "release": "0.18.2"}, "E122", "precision", "only fp8"),
        ({"convert": {"kv_cache": "nvfp4"}}, "E122", "convert.kv_cache", "does not take 'nvfp4'"),
        ({"tensor_parallel": 64}, "E140", "tensor_parallel", "32 attention heads"),
        ({"pipeline_parallel": 3}, "E143", "pipeline_parallel", "32 layers are not split evenly over 3 GPUs"),
        ({"build": {"max_input_len": 4096, "max_seq_len": 2048}}, "E150", "build.max_input_len", "4096"),
        ({"build": {"opt_num_tokens": 64, "max_num_tokens": 32}}, "E152", "build.opt_num_tokens", "64"),
        ({"validation": {"max_tokens": 99}, "build": {"max_seq_len": 64}}, "E153", "validation.max_tokens", "99"),
        (
            {"validation": {"prompts": [{"prompt": "x", "max_tokens": 99}]}, "build": {"max_seq_len": 80}},
            *("E153", "validation.prompts.0.max_tokens", "99"),
        ),
        ({"serving": {"max_beam_width": 4}}, "W165", "serving.max_beam_width", "engine is built with max_beam_width 1"),
        ({"build": {"max_seq_len": 9000}}, "W151", "build.max_seq_len", "longer than the 8192"),
        (
            {"build": {"max_input_len": 8000, "max_output_len": 1000}},
            "W151",
            "build.max_output_len",
            "sequences of 9000 tokens",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_figures_and_a_remedy(
    target: dict[str, Any], code: str, path: str, says: str
) -> None:
    (finding,) = findings(request_of(**{"release": "1.2.1", **target}))
    assert (finding.code, finding.path) == (code, path)
    assert says in finding.problem
    assert finding.remedy
    assert finding.level == ("warning" if code.startswith("W") else "error")


def test_an_unknown_gpu_gets_the_releases_that_know_it() -> None:
    (old,) = findings(request_of(gpu="T4", release="1.2.1", precision="float16"))
    assert "a release from 0.8.0 to 0.14.0" in old.remedy
    (new,) = findings(request_of(gpu="GB10", release="1.2.1"))
    assert "no known release" in new.remedy


def test_a_precision_that_the_release_lacks_gets_the_releases_that_have_it() -> None:
    (finding,) = findings(request_of(release="0.16.0", precision="nvfp4"))
    assert "a release from 0.17.0.post1 to 1.3.0rc3" in finding.remedy


@pytest.mark.parametrize(("precision", "instead"), [("int8", "int8_sq"), ("int4", "int4_awq")])
def test_a_precision_of_onnxruntime_is_refused_with_the_names_for_this_backend(precision: str, instead: str) -> None:
    (finding,) = findings(request_of(precision=precision))
    assert instead in finding.remedy


def test_gpus_that_divide_nothing_are_refused_for_each_reason() -> None:
    found = findings(request_of(release="1.2.1", tensor_parallel=3))
    assert [finding.code for finding in found] == ["E140", "E141", "E142"]
    assert found[0].problem == "32 attention heads cannot be split evenly over 3 GPUs"
    assert found[0].remedy == "use one of 1, 2, 4"


def test_heads_of_keys_and_values_are_split_or_copied_evenly() -> None:
    twelve = LLAMA_3_8B | {"num_attention_heads": 24, "num_key_value_heads": 6, "intermediate_size": 12288}
    assert codes(request_of(twelve, release="1.2.1", tensor_parallel=2)) == []
    assert codes(request_of(twelve, release="1.2.1", tensor_parallel=12)) == []
    assert codes(request_of(twelve, release="1.2.1", tensor_parallel=4)) == ["E141"]
    assert codes(request_of(LLAMA_3_8B, release="1.2.1", tensor_parallel=16)) == []


def test_the_intermediate_size_is_split_evenly() -> None:
    odd = LLAMA_3_8B | {"intermediate_size": 14338}
    (finding,) = findings(request_of(odd, release="1.2.1", tensor_parallel=4))
    assert finding.code == "E142"
    assert finding.remedy == "use one of 1, 2"


def test_the_vocabulary_may_be_odd_since_it_is_padded() -> None:
    assert codes(request_of(LLAMA_3_8B | {"vocab_size": 32001}, release="1.2.1", tensor_parallel=8)) == []


def test_a_model_that_the_release_does_not_know_gets_a_release_that_does() -> None:
    (finding,) = findings(request_of(QWEN2_7B, release="0.9.0", precision="float16"))
    assert (finding.code, finding.path) == ("E130", "release")
    # No other converter is suggested, because a later release has the right one.
    assert "similar architectures" not in finding.problem
    assert finding.remedy == (
        "release 0.10.0 has one: use that or a later one, or backend: pytorch with release 0.17.0 or a later one"
    )


@pytest.mark.parametrize(
    ("architecture", "remedy"),
    [
        ("Qwen3NextForCausalLM", ": use backend: pytorch"),
        ("NobodyForCausalLM", ", nor the PyTorch backend: use another model"),
    ],
)
def test_a_model_that_no_release_knows_is_sent_to_a_backend_that_does(architecture: str, remedy: str) -> None:
    (finding,) = findings(request_of(LLAMA_3_8B | {"architectures": [architecture]}, release="1.2.1"))
    assert finding.code == "E130"
    assert finding.remedy == f"no known release has one{remedy}"


def test_a_model_that_no_release_knows_gets_similar_models() -> None:
    (finding,) = findings(request_of(LLAMA_3_8B | {"architectures": ["LlamasForCausalLM"]}, release="1.2.1"))
    assert "LlamaForCausalLM" in finding.problem


def test_a_model_without_an_architecture_is_refused() -> None:
    (finding,) = findings(request_of({"hidden_size": 8}, release="1.2.1"))
    assert finding.code == "E130"
    assert "does not say its architecture" in finding.problem


def test_a_family_that_needs_a_draft_model_is_refused() -> None:
    (finding,) = findings(request_of(LLAMA_3_8B | {"architectures": ["EagleForCausalLM"]}, release="0.16.0"))
    assert finding.code == "E131"
    assert "draft model" in finding.problem


def test_weights_that_are_quantized_already_are_refused() -> None:
    (finding,) = findings(request_of(AWQ_QWEN, release="1.2.1", precision="int4_awq"))
    assert (finding.code, finding.path) == ("E123", "precision")
    assert "quantized already (awq)" in finding.problem
    assert finding.remedy == "use the plain model; no backend reads it"


@pytest.mark.parametrize(
    ("release", "remedy"),
    [
        ("1.2.1", "use the plain model, or backend: pytorch, and precision: fp8"),
        ("0.16.0", "use the plain model, or backend: pytorch with release 0.17.0 or a later one, and precision: fp8"),
    ],
)
def test_quantized_weights_go_to_a_backend_that_reads_them(release: str, remedy: str) -> None:
    quantized = LLAMA_3_8B | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    (finding,) = findings(request_of(quantized, release=release, precision="bfloat16"))
    assert (finding.code, finding.remedy) == ("E123", remedy)


def test_rotary_scaling_that_the_release_does_not_know_is_refused() -> None:
    (finding,) = findings(request_of(LLAMA_3_1_8B, release="0.11.0", spec={"build": {"gpt_attention_plugin": "auto"}}))
    assert (finding.code, finding.path) == ("E132", "release")
    assert "0.12.0" in finding.remedy
    assert codes(request_of(LLAMA_3_1_8B, release="0.12.0")) == []


def test_the_first_release_needs_the_rotary_scaling() -> None:
    build = {"build": {"gpt_attention_plugin": "bfloat16"}}
    (finding,) = findings(request_of(LINEAR, spec=build, release="0.8.0"))
    assert (finding.code, finding.path) == ("E133", "convert.extra_args")
    assert '["--rotary_scaling", "linear", "2.0"]' in finding.remedy
    convert = {"extra_args": ["--rotary_scaling", "linear", "2.0"]}
    assert codes(request_of(LINEAR, spec=build, release="0.8.0", convert=convert)) == []


def test_the_first_release_needs_the_rotary_base_or_the_loss_must_be_accepted() -> None:
    spec = {"build": {"gpt_attention_plugin": "bfloat16"}, "force": []}
    (finding,) = findings(request_of(spec=spec, release="0.8.0"))
    assert (finding.code, finding.path, finding.level) == ("W133", "convert.extra_args", "warning")
    assert 'set convert.extra_args to ["--rotary_base", "500000.0"]' in finding.remedy
    convert = {"extra_args": ["--rotary_base", "500000.0"]}
    assert codes(request_of(spec=spec, release="0.8.0", convert=convert)) == []
    assert codes(request_of(spec=spec, release="0.9.0")) == []
    assert codes(request_of(LLAMA_3_8B | {"rope_theta": 10000.0}, spec=spec, release="0.8.0")) == []
    assert codes(request_of(MIXTRAL_8X7B, spec=spec, release="0.8.0")) == []


NEW_ROPE = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}
"""Rotary settings as transformers 5 writes them."""


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0", "1.2.1"])
def test_rotary_settings_that_the_release_does_not_read_are_warned_of(release: str) -> None:
    plain = without(LLAMA_3_8B, "rope_theta", "rope_scaling")
    spec = {"build": {"gpt_attention_plugin": "bfloat16"}, "force": []}
    convert = {"extra_args": ["--rotary_base", "500000.0"]} if release == "0.8.0" else {}
    default = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
    (found,) = findings(request_of(plain | default, spec=spec, release=release, convert=convert))
    assert (found.code, found.path, found.level) == ("W191", "release", "warning")
    assert f"{release} reads only rope_theta and rope_scaling" in found.problem
    assert "top level of the model's config.json" in found.remedy
    both = plain | default | {"rope_theta": 500000.0}
    assert codes(request_of(both, spec=spec, release=release, convert=convert)) == []


def test_modelopt_reads_both_forms_of_rotary_settings() -> None:
    new = without(LLAMA_3_8B, "rope_theta", "rope_scaling") | {"rope_parameters": NEW_ROPE}
    assert "W191" not in codes(request_of(new, release="1.2.1", convert={"converter": "modelopt"}))
    assert "W191" in codes(request_of(new, release="1.2.1"))


def test_the_first_release_asks_for_a_rotary_base_that_is_not_known() -> None:
    unknown = without(LLAMA_3_8B, "rope_theta") | {"model_type": "other", "architectures": ["OtherForCausalLM"]}
    request = request_of(unknown, release="0.8.0")
    found = list(rope_findings(request, "0.8.0", "convert_checkpoint.py llama"))
    assert [(one.code, one.path) for one in found] == [("W190", "convert.extra_args")]
    assert "does not say the rotary base" in found[0].problem


@pytest.mark.parametrize("split", [{"tensor_parallel": 2}, {"pipeline_parallel": 2}])
def test_the_plan_notes_which_sizes_it_could_not_check(split: dict[str, Any]) -> None:
    other = without(LLAMA_3_8B, "num_attention_heads", "intermediate_size") | {"model_type": "other"}
    other["architectures"] = ["SkyworkForCausalLM"]
    (note,) = [one for one in TensorRT().notes(request_of(other, release="0.16.0", **split)) if "not checked" in one]
    assert "not known of the model: attention heads, width of its feed-forward blocks" in note
    known = TensorRT().notes(request_of(release="0.16.0", **split))
    assert not [one for one in [*known, *TensorRT().notes(request_of(other, release="0.16.0"))] if "evenly" in one]


def test_the_plan_notes_that_a_rotary_base_is_not_compared() -> None:
    other = without(LLAMA_3_8B, "rope_theta") | {"model_type": "other", "architectures": ["SkyworkForCausalLM"]}
    assert [note for note in TensorRT().notes(request_of(other, release="0.16.0")) if "rotary base" in note]
    assert not [note for note in TensorRT().notes(request_of(release="0.16.0")) if "rotary base" in note]


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        (None, 8192),
        ({"rope_type": "linear", "factor": 2.0}, 16384),
        ({"rope_type": "llama3", "factor": 8.0}, 8192),
        ({"rope_type": "longrope"}, 8192),
    ],
)
def test_the_models_positions_are_counted_as_the_releases_count_them(scaling: Any, positions: int) -> None:
    assert model_positions(ModelFacts(max_positions=8192, rope_scaling=scaling)) == positions


def test_a_length_beyond_the_model_can_be_accepted() -> None:
    request = request_of(release="1.2.1", build={"max_seq_len": 9000})
    (finding,) = findings(request)
    assert "--force W151" in str(finding)


def test_missing_calibration_data_is_found(tmp_path: Path) -> None:
    for dataset in (str(tmp_path / "none"), "./texts", "texts.jsonl"):
        convert = {"calibration": {"dataset": dataset}}
        (finding,) = findings(request_of(release="1.2.1", precision="fp8", convert=convert))
        assert (finding.code, finding.path) == ("E155", "convert.calibration.dataset")


def test_texts_that_the_release_cannot_be_given_are_refused_without_a_placeholder(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a text\n")
    convert = {"calibration": {"dataset": str(tmp_path / "texts.txt")}}
    request = request_of(release="0.8.0", precision="fp8", convert=convert)
    found = [str(finding) for finding in TensorRT().findings(request) if finding.path == "convert.calibration.dataset"]
    assert found
    assert not [text for text in found if "{" in text]


def test_an_empty_directory_is_no_calibration_data(tmp_path: Path) -> None:
    convert = {"calibration": {"dataset": str(tmp_path)}}
    assert codes(request_of(release="1.2.1", precision="fp8", convert=convert)) == ["E155"]


def test_the_releases_scripts_read_a_directory_and_modelopt_a_file(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one"}\n')
    convert: dict[str, Any] = {"calibration": {"dataset": str(texts)}}
    assert codes(request_of(release="1.2.1", precision="fp8", convert=convert)) == ["E156"]
    assert codes(request_of(release="1.2.1", precision="fp8", convert=convert | {"converter": "modelopt"})) == []


def test_calibration_data_that_nothing_needs_may_be_missing() -> None:
    assert codes(request_of(release="1.2.1", convert={"calibration": {"dataset": "/none"}})) == []


def test_a_toolchain_that_cannot_be_had_is_found() -> None:
    def identify(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
        raise ToolchainError("it is not here", subject=name, remedy="install it")

    (finding,) = TensorRT(identify).findings(request_of(release="1.2.1"))
    assert (finding.code, finding.path) == ("E180", "toolchain")
    assert "tensorrt-llm-1.2.1: it is not here" in finding.problem


def test_a_release_without_an_image_cannot_be_a_container() -> None:
    (finding,) = findings(request_of(release="0.18.1", toolchain="container"))
    assert finding.code == "E180"
    assert "no container image" in finding.problem


def test_what_serving_cannot_do_is_found_with_the_rest() -> None:
    request = request_of(release="1.3.0", spec={"serving": {"decoding_mode": "eagle"}})
    assert codes(request) == ["E103"]
    old = request_of(release="0.8.0", spec={"serving": {"decoding_mode": "eagle"}}, precision="float16")
    assert codes(old) == ["E170"]


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    request = request_of(
        LLAMA_3_8B | {"architectures": ["NobodyForCausalLM"]},
        release="0.16.0",
        gpu="A100-SXM4-80GB",
        precision="fp8",
        tensor_parallel=3,
        pipeline_parallel=5,
        build={"max_input_len": 10, "max_seq_len": 5},
    )
    assert {"E120", "E130", "E140", "E142", "E143", "E150", "E153"} <= set(codes(request))


@pytest.mark.parametrize(
    ("config", "target", "code"),
    [
        (LLAMA_3_8B, {"precision": "float32"}, "E122"),
        (LLAMA_3_8B | {"architectures": ["Qwen3ForCausalLM"]}, {}, "E122"),
        (GEMMA_7B, {"pipeline_parallel": 2}, "E122"),
        (LLAMA_3_8B | {"vocab_size": 128257}, {"precision": "int4_awq"}, "E122"),
        (LLAMA_3_8B | {"hidden_size": 4160}, {"precision": "int4_awq"}, "E144"),
        (LLAMA_3_8B, {"precision": "fp8", "convert": {"calibration": {"dataset": "cnn_dailymail"}}}, "E156"),
        (LLAMA_3_8B, {"convert": {"extra_args": ["--verbose"]}}, "E122"),
    ],
)
def test_what_modelopt_would_refuse_or_write_wrongly_is_refused(
    config: dict[str, Any], target: dict[str, Any], code: str
) -> None:
    convert = {**target.get("convert", {}), "converter": "modelopt"}
    found = codes(request_of(config, **{"release": "1.2.1", **target, "convert": convert}))
    assert set(found) == {code}


def test_toolchains_are_only_asked_for_by_their_names() -> None:
    calls: list[tuple[str, str]] = []

    def identify(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
        calls.append((name, kind))
        return toolchains.identify(name)

    TensorRT(identify).findings(request_of(release="1.2.1", convert={"converter": "modelopt"}))
    assert calls[0] == ("tensorrt-llm-1.2.1", "venv")
    assert calls[1][0].startswith("modelopt-")


def test_the_releases_own_length_limits_answers_too() -> None:
    request = request_of(PHI_2, release="0.8.0", precision="float16", validation={"max_tokens": 2048})
    (finding,) = findings(request)
    assert (finding.code, finding.path) == ("E153", "validation.max_tokens")


def test_a_precision_that_the_gpu_lacks_asks_for_no_plugin_in_it() -> None:
    assert codes(request_of(PHI_2, release="0.8.0", precision="bfloat16", gpu="T4")) == ["E120"]
    assert codes(request_of(PHI_2, release="0.8.0", precision="bfloat16")) == ["E164"]
