"""Tests of the backend `onnxruntime`: choice of backend, findings, notes, and the steps of a target."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery import toolchains
from enginery.backends import Backend, Chain, Request, backend_for
from enginery.backends.onnxruntime import SUPPORTED, OnnxRuntime
from enginery.core import process
from enginery.core.errors import PlanError
from enginery.models.facts import ModelFacts
from enginery.spec import gpus
from enginery.spec.gpus import CPU, Gpu
from enginery.spec.spec import Spec, Target, parse_spec
from enginery.spec.types import BackendName, Precision
from enginery.store.steps import Call, Command, Stage, Step
from enginery.toolchains import pins

H100 = gpus.find("H100-SXM5-80GB")
T4 = gpus.find("T4")
WEIGHTS = "a" * 64


def spec_of(target: dict[str, Any] | None = None, **more: Any) -> tuple[Spec, Target]:
    data = {"name": "cpu", "gpu": "cpu", "backend": "onnxruntime", "precision": "int4", **(target or {})}
    spec = parse_spec({"name": "tiny", "source": {"path": "model"}, "targets": [data], **more})
    return spec, spec.targets[0]


def request_of(target: dict[str, Any] | None = None, *, gpu: Gpu = CPU, **more: Any) -> Request:
    spec, read = spec_of(target, **more)
    return Request(spec, read, gpu)


def problems(target: dict[str, Any] | None = None, **more: Any) -> list[str]:
    request = request_of(target, **more)
    return [str(finding).rpartition(" [")[0] for finding in backend_for(request).findings(request)]


def notes(target: dict[str, Any] | None = None, **more: Any) -> list[str]:
    request = request_of(target, **more)
    return backend_for(request).notes(request)


def chain(target: dict[str, Any] | None = None, **more: Any) -> Chain:
    request = request_of(target, **more)
    return backend_for(request).chain(request, WEIGHTS)


def build_step(target: dict[str, Any] | None = None, **more: Any) -> Step:
    return chain(target, **more).making[0].step


def argv(target: dict[str, Any] | None = None, **more: Any) -> tuple[str, ...]:
    recipe = build_step(target, **more).recipe
    assert isinstance(recipe, Command)
    return recipe.argv


Pin = Callable[..., None]


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pin:
    """Writes pin files for these releases. There are no other toolchains."""
    monkeypatch.setattr(pins, "directories", lambda: [tmp_path])

    def write(*releases: str, package: str = "onnxruntime-genai", backend: str = "onnxruntime") -> None:
        for release in releases:
            text = f"# backend: {backend}\n# release: {release}\n{package}=={release}\n"
            (tmp_path / f"{package}-{release}.txt").write_text(text)

    return write


def test_the_backend_is_what_the_plan_asks_for() -> None:
    backend: Backend = OnnxRuntime("cpu")
    assert backend.name is BackendName.ONNXRUNTIME


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_cpu_gets_onnxruntime(backend: str) -> None:
    assert backend_for(request_of({"backend": backend})) == OnnxRuntime("cpu")


def test_a_gpu_gets_onnxruntime_for_cuda_where_that_is_asked_for() -> None:
    assert backend_for(request_of(gpu=H100)) == OnnxRuntime("cuda")


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_what_a_cpu_can_run_has_no_problems(precision: str) -> None:
    assert problems({"precision": precision}) == []


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ("float16", "fails to run it on a CPU"),
        ("bfloat16", "no bfloat16 kernels for a CPU"),
        ("fp8", "does not make them"),
        ("nvfp4", "does not make them"),
        ("int8_sq", "no such quantization"),
        ("int8_wo", "no such quantization"),
        ("int4_wo", "no such quantization"),
        ("int4_awq", "no such quantization"),
        ("w4a8_awq", "no such quantization"),
    ],
)
def test_what_a_cpu_cannot_run_is_refused_with_the_reason_and_what_to_use(precision: str, reason: str) -> None:
    (problem,) = problems({"precision": precision})
    assert problem.startswith(f"precision: onnxruntime cannot build {precision} for cpu: ")
    assert reason in problem
    assert problem.endswith("; use one of float32, int8, int4")


def test_every_precision_is_either_built_or_refused() -> None:
    refused = [precision for precision in Precision if problems({"precision": precision.value})]
    assert set(refused) | set(SUPPORTED["cpu"]) == set(Precision)
    assert not set(refused) & set(SUPPORTED["cpu"])


def test_a_gpu_without_a_toolchain_is_refused_with_the_pin_to_add(pin: Pin) -> None:
    pin("0.18.0")
    pin("2.51.0", package="onnxruntime-genai-cuda", backend="triton")
    (problem,) = problems({"precision": "float16"}, gpu=H100)
    assert problem.startswith("gpu: no toolchain runs onnxruntime on H100-SXM5-80GB")
    assert "onnxruntime-genai-cuda" in problem


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8", "int4"])
def test_what_cuda_can_run_has_no_problems(pin: Pin, precision: str) -> None:
    pin("0.18.0", package="onnxruntime-genai-cuda")
    assert problems({"precision": precision}, gpu=H100) == []


def test_what_cuda_cannot_run_is_refused(pin: Pin) -> None:
    pin("0.18.0", package="onnxruntime-genai-cuda")
    (problem,) = problems({"precision": "fp8"}, gpu=H100)
    assert problem.endswith("does not make them; use one of float16, bfloat16, int8, int4")


def test_an_old_gpu_is_refused_what_it_cannot_compute(pin: Pin) -> None:
    pin("0.18.0", package="onnxruntime-genai-cuda")
    (problem,) = problems({"precision": "bfloat16"}, gpu=T4)
    assert problem == (
        "precision: onnxruntime cannot build bfloat16 for T4: it needs compute capability 8.0, this GPU has 7.5; "
        "use one of float16, int8, int4"
    )


def test_all_problems_are_reported_at_once_each_with_its_field() -> None:
    wrong = {
        "precision": "fp8",
        "release": "9.9",
        "tensor_parallel": 2,
        "pipeline_parallel": 3,
        "build": {"gemm_plugin": "float16", "int4_block_size": 64},
    }
    fields = [problem.split(":")[0] for problem in problems(wrong)]
    expected = ["release", "precision", "tensor_parallel", "pipeline_parallel"]
    assert fields == [*expected, "build.gemm_plugin", "build.int4_block_size"]


def test_settings_for_all_targets_that_mean_nothing_here_are_only_noted() -> None:
    build = {"gpt_attention_plugin": "bfloat16", "int4_block_size": 64}
    serving = {"kv_cache_free_gpu_mem_fraction": 0.5}
    assert problems({"precision": "float32"}, build=build, serving=serving) == []
    found = notes({"precision": "float32"}, build=build, serving=serving)
    assert any(note.startswith("build.gpt_attention_plugin is ignored") for note in found)
    assert any(note.startswith("build.int4_block_size is ignored") for note in found)
    assert any(note.startswith("serving.kv_cache_free_gpu_mem_fraction is ignored") for note in found)


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("build", {"max_seq_len": 4096}),
        ("build", {"extra_args": ["--fast_build"]}),
        ("convert", {"converter": "modelopt"}),
        ("llm", {"max_num_tokens": 8192}),
    ],
)
def test_what_is_for_tensorrt_llm_is_refused_in_a_target_and_noted_in_a_spec(
    part: str, setting: dict[str, Any]
) -> None:
    field = f"{part}.{next(iter(setting))}" if part == "build" else part
    (problem,) = problems({part: setting})
    assert problem.startswith(f"{field}: ")
    assert problems(**{part: setting}) == []
    assert [note for note in notes(**{part: setting}) if note.startswith(f"{field} is ignored")]


def test_settings_of_tensorrt_llms_server_are_noted() -> None:
    assert "serving.max_beam_width is ignored: it is for TensorRT-LLM" in notes(serving={"max_beam_width": 4})
    assert not [note for note in notes(serving={"max_batch_size": 4, "decoupled": True}) if "serving" in note]


def test_a_target_may_unset_what_means_nothing_to_it() -> None:
    target = {"build": {"gemm_plugin": None}}
    assert problems(target, build={"gemm_plugin": "float16"}) == []
    assert not [note for note in notes(target, build={"gemm_plugin": "float16"}) if "gemm_plugin" in note]


def test_what_was_decided_for_the_user_is_noted() -> None:
    found = notes({"gpu": "auto", "backend": "auto"})
    assert "gpu auto is cpu (no NVIDIA GPU in this machine)" in found
    assert "backend auto is onnxruntime: TensorRT-LLM needs an NVIDIA GPU" in found
    assert "int4_block_size is 32, the builder's default" in found


def test_nothing_is_noted_where_the_spec_says_it_all(pin: Pin) -> None:
    pin("0.18.0")
    build = {"int4_algorithm": "rtn", "int4_block_size": 64, "int4_accuracy_level": 4}
    assert notes({"release": "0.18.0"}, build=build, validation={"prompts": [{"prompt": "a"}]}) == []


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("latest", "0.20.0"),
        ("0.18", "0.18.0"),
        ("0.18.0", "0.18.0"),
        (">=0.18,<0.20", "0.19.1"),
        ("<0.19", "0.18.0"),
        ("~=0.19.0", "0.19.1"),
        ("0.9", "0.9.0"),
    ],
)
def test_a_release_is_the_newest_that_fits(pin: Pin, wanted: str, release: str) -> None:
    pin("0.20.0", "0.9.0", "0.18.0", "0.19.1")
    pin("0.30.0", package="onnxruntime-genai-cuda")
    backend = OnnxRuntime("cpu")
    assert backend.release(spec_of({"release": wanted})[1]) == release
    toolchain = chain({"release": wanted, "precision": "float32"}).making[0].toolchain
    assert toolchain is not None
    assert toolchain.name == f"onnxruntime-genai-{release}"


def test_each_provider_has_toolchains_of_its_own(pin: Pin) -> None:
    pin("0.18.0")
    pin("0.17.0", package="onnxruntime-genai-cuda")
    target = spec_of()[1]
    assert [OnnxRuntime(provider).release(target) for provider in SUPPORTED] == ["0.18.0", "0.17.0"]


@pytest.mark.parametrize("wanted", ["0.17", ">=1.0", "<0.18"])
def test_a_release_without_toolchain_is_refused_with_those_there_are(pin: Pin, wanted: str) -> None:
    pin("0.18.0", "0.19.1")
    target = {"release": wanted}
    assert problems(target | {"backend": "onnxruntime"}) == [
        f"release: no toolchain for {wanted!r}; there are 0.18.0, 0.19.1"
    ]
    (automatic,) = problems(target | {"backend": "auto"})
    assert "backend auto is onnxruntime, since TensorRT-LLM needs an NVIDIA GPU; there are 0.18.0" in automatic
    with pytest.raises(PlanError):
        OnnxRuntime("cpu").release(spec_of(target)[1])


@pytest.mark.parametrize("wanted", ["newest", "> 0.18 please", ""])
def test_what_is_no_release_is_refused(wanted: str) -> None:
    (problem,) = problems({"release": wanted})
    assert problem.startswith(f"release: {wanted!r} is no version, no range")


def test_the_recipe_is_the_builders_command() -> None:
    assert argv({"precision": "int8"}) == (
        *("{python}", "-m", "onnxruntime_genai.models.builder"),
        *("-i", "{weights}", "-o", "{output}", "-c", "{output}.cache", "-p", "int8", "-e", "cpu"),
        *("--extra_options", "hf_token=false", "hf_remote=false"),
    )


def test_int4_options_reach_the_builder() -> None:
    options = argv(build={"int4_block_size": 128, "int4_accuracy_level": 0})
    assert options[-2:] == ("block_size=128", "accuracy_level=0")
    assert argv({"build": {"int4_block_size": 16}}, build={"int4_block_size": 128})[-1] == "block_size=16"


def test_int4_options_change_no_other_engine() -> None:
    plain = build_step({"precision": "float32"})
    assert build_step({"precision": "float32"}, build={"int4_block_size": 64}).key == plain.key


def test_settings_that_mean_nothing_here_leave_the_key_alone() -> None:
    other = build_step(build={"gemm_plugin": "float16"}, serving={"max_batch_size": 2}, validation={"max_tokens": 3})
    assert other.key == build_step().key


def test_the_build_is_offline_and_reports_to_nobody() -> None:
    recipe = build_step().recipe
    assert isinstance(recipe, Command)
    assert recipe.environment["HF_HUB_OFFLINE"] == "1"
    assert recipe.environment["TRANSFORMERS_OFFLINE"] == "1"
    assert recipe.environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_build_step_names_its_toolchain_and_where_it_runs() -> None:
    step = build_step()
    assert step.stage is Stage.BUILD
    assert step.inputs == {"weights": WEIGHTS}
    assert step.runs_on == "cpu"
    assert step.toolchain == toolchains.identify("onnxruntime-0.18").digest()


def test_the_validation_asks_the_targets_prompts() -> None:
    made = chain(validation={"max_tokens": 5, "prompts": [{"prompt": "a", "equals": "b"}]})
    step = made.validate.step
    assert step.stage is Stage.VALIDATE
    assert step.inputs == {"engine": made.making[0].step.key, "weights": WEIGHTS}
    assert isinstance(step.recipe, Call)
    assert step.recipe.function == "validate"
    assert step.recipe.parameters["prompts"] == [{"prompt": "a", "equals": "b"}]
    assert step.toolchain == toolchains.identify("onnxruntime-0.18").digest()


def test_changed_prompts_change_the_validation_only() -> None:
    prompts = {"prompts": [{"prompt": "a", "contains": "c"}]}
    assert build_step(validation=prompts).key == build_step().key
    keys = [chain(**options).validate.step.key for options in ({}, {"validation": prompts})]
    assert keys[0] != keys[1]


def test_planning_loads_nothing_heavy() -> None:
    heavy = ["boto3", "huggingface_hub", "onnxruntime_genai", "prefect", "torch", "tritonclient"]
    check = f"import sys, enginery.backends.onnxruntime; print('loaded', set({heavy}) & set(sys.modules))"
    assert process.run([sys.executable, "-c", check]).last_lines == ("loaded set()",)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 8, "group_size": 128, "desc_act": False}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128}


def source_problems(precision: str, quantization: dict[str, Any] | None, gpu: Gpu = CPU) -> list[str]:
    """The findings about a quantized source."""
    spec, target = spec_of({"precision": precision, "gpu": gpu.name})
    request = Request(spec, target, gpu, ModelFacts.from_config({**LLAMA, "quantization_config": quantization}))
    found = backend_for(request).findings(request)
    return [str(finding).rpartition(" [")[0] for finding in found if finding.code == "E193"]


@pytest.mark.parametrize(
    ("precision", "quantization"),
    [("int4", None), ("float32", None), ("int4", AWQ), ("int8", GPTQ), ("int4", {"quant_method": "quark"})],
)
def test_a_source_that_the_builder_reads_is_accepted(precision: str, quantization: dict[str, Any] | None) -> None:
    assert source_problems(precision, quantization) == []


@pytest.mark.parametrize(
    ("precision", "quantization", "words"),
    [
        ("float32", AWQ, "quantized already (awq), and stays as it is; use precision: int4, or the plain model"),
        ("int8", AWQ, "use precision: int4"),
        ("int4", GPTQ, "use precision: int8"),
        ("int4", {"quant_method": "awq", "bits": 4}, "(awq), which the builder does not read"),
        ("int4", {"quant_method": "awq", "bits": "4", "group_size": 128}, "(awq), which the builder does not read"),
        ("int4", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "(bitsandbytes), which the builder does not"),
        ("int4", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "or backend: pytorch and precision: fp8"),
        ("int4", {"quant_method": "fp8"}, "(fp8), which the builder does not read; use the plain model"),
        ("int4", {"quant_algo": "NVFP4", "quant_method": "modelopt"}, "or backend: pytorch and precision: nvfp4"),
        ("int4", {"quant_method": ["awq"]}, "which the builder does not read"),
        ("int4", {"bits": 4, "group_size": 64}, "in an unnamed format"),
        (
            "int4",
            AWQ | {"said_in": "quant_config.json"},
            "(awq, as quant_config.json says), which the builder does not",
        ),
    ],
)
def test_a_source_that_the_builder_does_not_read_is_refused_with_its_format_and_what_to_do(
    precision: str, quantization: dict[str, Any], words: str
) -> None:
    (problem,) = source_problems(precision, quantization)
    assert words in problem
