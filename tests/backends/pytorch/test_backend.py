"""Tests of the backend `pytorch` in a plan: releases, steps, keys and notes."""

from dataclasses import replace
from typing import Any

import pytest
from packaging.version import Version

from enginery.backends import Backend, Checks, backend_for, gates_step_of
from enginery.backends.pytorch.backend import PyTorch
from enginery.core.errors import PlanError, UsageError
from enginery.models.facts import ModelFacts
from enginery.releases.facts import releases
from enginery.spec.findings import Finding
from enginery.spec.types import BackendName
from enginery.store.steps import ANY_GPU, Call, Command, Stage
from enginery.toolchains.drivers import DRIVERS
from tests.support.plans.pytorch import BACKEND, LLAMA, WEIGHTS, findings, identify, request_of

FP8 = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}


def package_of(target: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    recipe = BACKEND.chain(request_of(target, **more), WEIGHTS).package.step.recipe
    assert isinstance(recipe, Call)
    return dict(recipe.parameters)


def stages(target: dict[str, Any] | None = None, **more: Any) -> list[str]:
    return [str(made.step.stage) for made in BACKEND.chain(request_of(target, **more), WEIGHTS).steps]


def notes(target: dict[str, Any] | None = None, **more: Any) -> str:
    return "\n".join(BACKEND.notes(request_of(target, **more)))


def test_the_backend_is_what_the_plan_asks_for() -> None:
    backend: Backend = BACKEND
    assert backend.name is BackendName.PYTORCH
    assert isinstance(backend_for(request_of(), identify), PyTorch)


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("latest", "1.2.1"),
        (">=1.0,<1.2", "1.1.0"),
        (">=1.3.0rc1", "1.3.0rc3"),
        ("<1.0", "0.21.0"),
        ("1.3.0rc22", "1.3.0rc22"),
        ("2.0.0", "2.0.0"),
        ("0.17.0", "0.17.0"),
    ],
)
def test_a_release_is_chosen_and_there_is_no_upper_end(wanted: str, release: str) -> None:
    assert BACKEND.release(request_of({"release": wanted}).target) == release


@pytest.mark.parametrize("wanted", ["0.16.0", "0.8.0", "<0.17", ">=7.0"])
def test_a_release_without_the_backend_is_refused_and_the_first_with_it_named(wanted: str) -> None:
    request = request_of({"release": wanted})
    (found,) = BACKEND.findings(request)
    assert (found.code, found.path) == ("E401", "release")
    assert "0.17.0 is the first" in found.problem
    with pytest.raises(PlanError, match="0.17.0 is the first"):
        BACKEND.release(request.target)


@pytest.mark.parametrize("release", ["0.17.5", "0.18.7", "1.0.7"])
def test_a_release_that_was_never_made_is_refused(release: str) -> None:
    (found,) = BACKEND.findings(request_of({"release": release}))
    assert (found.code, found.path) == ("E102", "release")
    assert "1.2.1" in found.remedy


def test_what_is_no_release_is_refused_as_by_every_backend() -> None:
    assert [found.code for found in findings({"release": "newest"})] == ["E101"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_plain_precision_uses_the_weights_as_they_are(precision: str) -> None:
    assert findings({"precision": precision}) == []
    assert stages({"precision": precision}) == ["validate", "bench", "package"]
    chain = BACKEND.chain(request_of({"precision": precision}), WEIGHTS)
    assert chain.validate.step.inputs == chain.package.step.inputs == {"engine": WEIGHTS, "weights": WEIGHTS}
    assert package_of({"precision": precision})["arguments"]["dtype"] == precision


@pytest.mark.parametrize(
    ("precision", "gpu", "cache"),
    [
        ("fp8", "H100-SXM5-80GB", "fp8"),
        ("nvfp4", "B200", "fp8"),
        ("int4_awq", "A100-SXM4-80GB", "auto"),
        ("w4a8_awq", "L40S", "auto"),
    ],
)
def test_a_quantized_precision_is_made_by_modelopt(precision: str, gpu: str, cache: str) -> None:
    request = request_of({"precision": precision}, gpu=gpu)
    assert BACKEND.findings(request) == []
    chain = BACKEND.chain(request, WEIGHTS)
    (making,) = chain.making
    recipe = making.step.recipe
    assert isinstance(recipe, Command)
    assert recipe.argv == (
        *("{python}", "{drivers}/convert_modelopt.py", "--model_dir", "{weights}", "--output_dir", "{output}"),
        *("--format", "hf", "--dtype", "bfloat16", "--qformat", precision, "--kv_cache_dtype", cache),
        *("--device", "cuda"),
    )
    assert (recipe.runner, making.step.stage, making.step.runs_on) == ("export_checkpoint", Stage.CONVERT, ANY_GPU)
    assert making.toolchain is not None
    assert making.toolchain.name.startswith("modelopt-")
    assert chain.package.step.inputs == {"engine": making.step.key, "weights": WEIGHTS}
    assert package_of({"precision": precision}, gpu=gpu)["arguments"]["dtype"] == "auto"


def test_the_driver_takes_every_argument_it_is_given() -> None:
    driver = (DRIVERS / "convert_modelopt.py").read_text()
    calibration = {"size": 4, "max_length": 8, "batch_size": 2, "seed": 1, "dataset": __file__}
    convert = {"calibration": calibration, "device": "cpu", "kv_cache": "fp8"}
    recipe = BACKEND.chain(request_of({"precision": "fp8"}, convert=convert), WEIGHTS).making[0].step.recipe
    assert isinstance(recipe, Command)
    flags = [argument for argument in recipe.argv if argument.startswith("--")]
    assert len(flags) == 12
    for flag in flags:
        assert f'add_argument("{flag}"' in driver


def test_on_the_cpu_the_quantization_runs_anywhere() -> None:
    request = request_of({"precision": "fp8"}, convert={"device": "cpu"})
    assert BACKEND.chain(request, WEIGHTS).making[0].step.runs_on == "any"


def test_the_users_texts_are_part_of_the_key_but_not_their_place(tmp_path: Any) -> None:
    def key(directory: str, text: str) -> tuple[str, dict[str, str]]:
        path = tmp_path / directory / "texts.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        request = request_of({"precision": "fp8"}, convert={"calibration": {"dataset": str(path)}})
        (making,) = BACKEND.chain(request, WEIGHTS).making
        return making.step.key, dict(making.places)

    one, two, other = key("a", "same"), key("b", "same"), key("c", "other")
    assert one[0] == two[0] != other[0]
    assert one[1] == {"dataset": str(tmp_path / "a" / "texts.txt")}


def test_targets_that_differ_only_in_gpu_and_release_share_the_quantization() -> None:
    one = BACKEND.chain(request_of({"precision": "fp8"}), WEIGHTS)
    other = BACKEND.chain(request_of({"precision": "fp8", "release": "1.0.0"}, gpu="L40S"), WEIGHTS)
    assert one.making[0].step.key == other.making[0].step.key
    assert one.validate.step.key != other.validate.step.key


def test_a_source_that_is_quantized_already_is_used_as_it_is() -> None:
    model = ModelFacts(dtype="bfloat16", quantization={"quant_method": "modelopt", "quant_algo": "FP8"})
    assert findings({"precision": "fp8"}, model=model) == []
    assert stages({"precision": "fp8"}, model=model) == ["validate", "bench", "package"]
    assert "is quantized already (FP8)" in notes({"precision": "fp8"}, model=model)


def test_without_a_modelopt_toolchain_a_quantization_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("enginery.toolchains.pins.directories", lambda: [tmp_path])
    assert [(found.code, found.path) for found in findings({"precision": "fp8"})] == [("E180", "toolchain")]
    assert findings() == []


def test_a_toolchain_that_cannot_be_had_is_a_finding() -> None:
    def refuse(name: str, kind: Any = "venv", image: str = "") -> Any:
        raise UsageError("no image is known", subject=name, remedy="name one")

    found = PyTorch(refuse).findings(request_of())
    assert found == [Finding("E180", "toolchain", "tensorrt-llm-1.2.1: no image is known", "name one")]


def test_the_steps_run_in_the_releases_toolchain_and_on_the_targets_gpu() -> None:
    chain = BACKEND.chain(request_of({"release": "1.0.0"}), WEIGHTS)
    assert chain.validate.toolchain == identify("tensorrt-llm-1.0.0")
    assert chain.validate.step.runs_on == "H100-SXM5-80GB"
    assert (chain.package.toolchain, chain.package.step.runs_on) == (None, "any")


def test_the_package_has_all_it_needs_as_parameters() -> None:
    found = package_of({"tensor_parallel": 2, "pipeline_parallel": 2}, serving={"decoupled": True})
    assert (found["world_size"], found["release"], found["precision"]) == (4, "1.2.1", "bfloat16")
    assert found["serving"] == {"decoupled": True, "exclude_input_in_output": True}
    assert found["arguments"]["tensor_parallel_size"] == found["arguments"]["pipeline_parallel_size"] == 2


@pytest.mark.parametrize(
    ("triton", "largest", "sizes"),
    [
        ({}, 6, [1, 2, 4, 6]),
        ({"warm_up": True}, 1, [1]),
        ({"warm_up": False}, 6, []),
        ({"warm_up": [8, 2]}, 6, [2, 8]),
        ({}, 256, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_server_warms_up_with_the_default_batches_or_the_configured_ones(
    triton: dict[str, Any], largest: int, sizes: list[int]
) -> None:
    assert package_of(llm={"triton_config": triton}, serving={"max_batch_size": largest})["warm_up"] == sizes


def test_the_backend_is_named_where_it_is_not_the_default() -> None:
    having = [release for release in releases() if Version(release) >= Version("0.17.0")]
    named = {release: package_of({"release": release})["arguments"].get("backend") for release in having}
    assert {name for name, backend in named.items() if backend} == {"0.19.0", "0.20.0", "0.21.0"}


def test_equal_specs_have_equal_keys_and_any_difference_another() -> None:
    def keys(**more: Any) -> list[str]:
        return [made.step.key for made in BACKEND.chain(request_of(**more), WEIGHTS).steps]

    plain = keys()
    assert plain == keys()
    assert all(one != other for one, other in zip(plain, keys(llm={"max_num_tokens": 100}), strict=True))
    assert all(one != other for one, other in zip(plain, keys(target={"release": "1.1.0"}), strict=True))
    assert keys(serving={"exclude_input_in_output": False})[0] == plain[0]


def test_the_notes_have_the_decisions_and_what_the_server_does_at_its_start() -> None:
    text = notes()
    assert "release latest is 1.2.1" in text
    assert "known of 1.3.0rc3 (parsed), not of 1.2.1" in text
    assert "max_batch_size is 64" in text
    assert "CUDA graphs are captured at the start for batches of 1, 2, 4, 8, 16, 32, 64; others are padded" in text
    assert "warms up with batches of 1, 2, 4, 8, 16, 32, 64" in text
    assert "autotuner" in text


@pytest.mark.parametrize(("release", "kept"), [("1.2.1", True), ("1.3.0rc3", True), ("1.1.0", False)])
def test_where_the_autotuner_can_keep_what_it_found_the_plan_says_where_to_read_how(
    release: str, *, kept: bool
) -> None:
    text = notes({"release": release})
    assert "the autotuner measures kernels at each start" in text
    assert ("launch.md says how to keep its measurements" in text) == kept


def test_nothing_is_noted_about_what_is_certain_or_switched_off() -> None:
    off = {"cuda_graph_config": None, "enable_autotuner": False, "triton_config": {"warm_up": False}}
    text = notes({"release": "1.3.0rc3"}, llm=off, serving={"max_batch_size": 4})
    assert text == ""


def test_a_rollout_needs_room_for_two_models_and_the_plan_says_so() -> None:
    more: dict[str, Any] = {"publish": {"to": "s3://engines/prod"}, "rollout": {"endpoints": ["http://triton:8000"]}}
    assert "while the old one still uses" in notes(**more)
    assert "while the old one still uses" not in notes()


def test_settings_without_an_effect_are_noted() -> None:
    text = notes(build={"gemm_plugin": "auto", "max_seq_len": 4096}, serving={"batching_strategy": "V1"})
    assert "build.gemm_plugin is ignored" in text
    assert "serving.batching_strategy is ignored" in text
    assert "max_seq_len" not in text


def test_the_model_need_not_be_known_for_a_plan() -> None:
    assert findings(model=None) == []
    assert stages({"precision": "fp8"}, model=None) == ["convert", "validate", "bench", "package"]
    assert LLAMA.quantization is None


@pytest.mark.parametrize("written", ["v1.2.1", "1.2.1"])
def test_a_release_has_one_name_however_it_is_written(written: str) -> None:
    request = request_of({"release": written})
    assert BACKEND.release(request.target) == "1.2.1"
    assert not any(note.startswith("release") for note in BACKEND.notes(request))


@pytest.mark.parametrize(
    ("precision", "dtype", "bits"),
    [("float32", "bfloat16", 16), ("bfloat16", "float32", 32), ("bfloat16", "bfloat16", 16), ("float32", "", 32)],
)
def test_the_gate_of_the_size_knows_the_bits_of_weights_that_nothing_converts(
    precision: str, dtype: str, bits: int
) -> None:
    request = request_of({"precision": precision})
    assert request.model is not None
    request = replace(request, model=replace(request.model, dtype=dtype))
    recipe = gates_step_of(request, BACKEND.chain(request, WEIGHTS), {}, Checks()).step.recipe
    assert isinstance(recipe, Call)
    assert recipe.parameters["float_bits"] == bits
