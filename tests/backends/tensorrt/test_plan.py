"""Tests of the steps of a target, which of them are shared, and the plan's notes."""

from typing import Any

import pytest

from enginery import toolchains
from enginery.backends import Backend, Request, backend_for
from enginery.backends.choose import choose
from enginery.backends.tensorrt.backend import TensorRT
from enginery.core.errors import PlanError
from enginery.pipeline.plan import Plan, make_plan
from enginery.sources import ResolvedSource, SourceFile
from enginery.spec.read import read_spec
from enginery.spec.spec import parse_spec
from enginery.spec.types import BackendName
from enginery.store.steps import Call, Command, Stage
from tests.support.models.examples import LLAMA_3_8B, MIXTRAL_8X7B, PHI_2, QWEN2_7B
from tests.support.paths import CHECKOUT, EXAMPLES
from tests.support.plans.tensorrt import WEIGHTS, chain, command, convert_argv, fleet_request, request_of, step

TUTORIAL = CHECKOUT / "infra" / "models" / "llama-3-8b-instruct.yaml"
CONVERT = "{python} {examples}/llama/convert_checkpoint.py --model_dir {weights} --output_dir {output} --dtype bfloat16"
BUILD = (
    "trtllm-build --checkpoint_dir {checkpoint} --output_dir {output} "
    "--gpt_attention_plugin bfloat16 --gemm_plugin bfloat16"
)


def planned(data: dict[str, Any], config: dict[str, Any] = LLAMA_3_8B) -> Plan:
    files = (SourceFile(name="config.json", size=2), SourceFile(name="model.safetensors", size=10))
    source = ResolvedSource(kind="path", location="x", commit="0" * 40, files=files, config=config)
    return make_plan(parse_spec(data), resolver=lambda _source: source)


def tutorial(release: str = "0.8.0") -> dict[str, Any]:
    data = read_spec(TUTORIAL).model_dump(mode="json", exclude_unset=True)
    data["targets"][0]["release"] = release
    return {name: part for name, part in data.items() if name not in {"publish", "rollout"}}


def commands(plan: Plan) -> dict[str, str]:
    recipes = {one.step.stage: one.step.recipe for one in plan.steps}
    return {stage: " ".join(recipe.argv) for stage, recipe in recipes.items() if isinstance(recipe, Command)}


def notes(request: Request) -> list[str]:
    return TensorRT().notes(request)


def test_the_backend_is_what_the_plan_asks_for() -> None:
    backend: Backend = backend_for(request_of())
    assert backend == TensorRT()
    assert backend.name is BackendName.TENSORRT


def test_the_tutorials_spec_gives_the_tutorials_commands() -> None:
    assert commands(planned(tutorial())) == {"convert": CONVERT, "build": BUILD}


def test_the_tutorials_spec_is_translated_for_a_later_release() -> None:
    assert commands(planned(tutorial("1.2.1"))) == {
        "convert": CONVERT.replace("/llama/", "/models/core/llama/"),
        "build": BUILD,
    }


def test_a_target_is_converted_built_validated_and_packaged() -> None:
    request = request_of(release="0.16.0", tensor_parallel=2)
    made = chain(request)
    convert, build = (one.step for one in made.making)
    assert convert.inputs == {"weights": WEIGHTS}
    assert build.inputs == {"checkpoint": convert.key}
    assert made.validate.step.inputs == made.package.step.inputs == {"engine": build.key, "weights": WEIGHTS}
    assert [one.step.runs_on for one in made.steps] == ["any", *["H100-SXM5-80GB"] * 3, "any"]
    release = toolchains.identify("tensorrt-llm-0.16.0")
    assert [one.toolchain for one in made.steps] == [*[release] * 4, None]


def test_the_build_step_has_the_expected_result() -> None:
    recipe = command(request_of(release="0.16.0", tensor_parallel=2, pipeline_parallel=2), Stage.BUILD)
    assert recipe.runner == "build_engine"
    assert recipe.parameters == {
        "release": "0.16.0",
        "precision": "bfloat16",
        "world_size": 4,
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "architecture": "LlamaForCausalLM",
        "gpu": "H100-SXM5-80GB",
        "dtype": "bfloat16",
    }


def test_the_build_is_tried_if_too_little_host_memory_is_accepted() -> None:
    spec = {"force": ["W202"]}
    assert command(request_of(release="0.16.0", spec=spec), Stage.BUILD).parameters["accept_host_memory"] is True


@pytest.mark.parametrize(
    ("target", "quant_algo", "kv_cache"),
    [
        ({}, None, None),
        ({"precision": "int8_wo"}, "W8A16", None),
        ({"precision": "int8_sq"}, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", None),
        ({"precision": "int8_sq", "convert": {"kv_cache": "fp8"}}, "W8A8_SQ_PER_CHANNEL", "FP8"),
        ({"precision": "fp8"}, "FP8", "FP8"),
        ({"precision": "int4_awq", "convert": {"kv_cache": "int8"}}, "W4A16_AWQ", "INT8"),
        ({"precision": "int8_sq", "convert": {"converter": "modelopt"}}, "W8A8_SQ_PER_CHANNEL", None),
    ],
)
def test_the_conversion_step_has_the_expected_result(
    target: dict[str, Any], quant_algo: str | None, kv_cache: str | None
) -> None:
    recipe = command(request_of(release="0.16.0", tensor_parallel=2, **target))
    assert recipe.runner == "convert_checkpoint"
    parameters = recipe.parameters
    assert (parameters["quant_algo"], parameters["kv_cache_quant_algo"]) == (quant_algo, kv_cache)
    assert (parameters["dtype"], parameters["tensor_parallel"], parameters["pipeline_parallel"]) == ("bfloat16", 2, 1)


def test_targets_that_agree_share_their_checkpoint() -> None:
    target = {"backend": "tensorrt", "release": "0.16.0", "precision": "bfloat16"}
    plan = planned(
        {
            "name": "two",
            "source": {"path": "model"},
            "targets": [
                {"name": "h100", "gpu": "H100-SXM5-80GB", **target},
                {"name": "l40s", "gpu": "L40S", **target, "build": {"max_batch_size": 4}},
                {"name": "tp2", "gpu": "L40S", **target, "tensor_parallel": 2},
            ],
        }
    )
    converting = [one.targets for one in plan.steps if one.step.stage is Stage.CONVERT]
    assert converting == [("h100", "l40s"), ("tp2",)]


@pytest.mark.parametrize(
    "change",
    [
        {"release": "0.15.0"},
        {"precision": "float16"},
        {"tensor_parallel": 2},
        {"convert": {"kv_cache": "int8"}},
        {"convert": {"extra_args": ["--load_by_shard"]}},
        {"convert": {"converter": "modelopt"}},
    ],
)
def test_whatever_makes_another_checkpoint_changes_its_key(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"release": "0.16.0", "spec": {"build": {"gemm_plugin": "auto"}}}
    assert step(request_of(**base), Stage.CONVERT).key != step(request_of(**base | change), Stage.CONVERT).key


def test_where_the_users_files_lie_is_no_part_of_a_key() -> None:
    one = chain(request_of(release="0.16.0", convert={"examples": "/one/examples"}))
    two = chain(request_of(release="0.16.0", convert={"examples": "/two/examples"}))
    assert one.making[0].places == {"examples": "/one/examples"}
    assert one.validate.places == {"examples": "/one/examples"}
    assert one.package.step.key == two.package.step.key


def test_modelopt_converts_in_a_toolchain_of_its_own() -> None:
    made = chain(request_of(release="1.2.1", precision="fp8", tensor_parallel=2, convert={"converter": "modelopt"}))
    converting = made.making[0]
    recipe = converting.step.recipe
    assert isinstance(recipe, Command)
    assert " ".join(recipe.argv) == (
        "{python} {drivers}/convert_modelopt.py --model_dir {weights} --output_dir {output} --dtype bfloat16 "
        "--qformat fp8 --kv_cache_dtype fp8 --tp_size 2 --device cuda"
    )
    assert converting.toolchain is not None
    assert converting.toolchain.name.startswith("modelopt-")
    assert len(str(recipe.parameters["driver_sha256"])) == 64
    assert recipe.environment["HF_HUB_OFFLINE"] == "1"
    assert converting.step.runs_on == "nvidia"


def test_modelopt_works_on_a_cpu_where_that_will_do_or_is_asked_for() -> None:
    plain = request_of(release="1.2.1", convert={"converter": "modelopt"})
    assert convert_argv(plain).endswith("--qformat full_prec --device cpu")
    assert step(plain, Stage.CONVERT).runs_on == "any"
    convert = {"converter": "modelopt", "device": "cpu", "calibration": {"size": 4, "seed": 1, "batch_size": 2}}
    request = request_of(release="1.2.1", precision="int4_awq", convert=convert)
    assert convert_argv(request).endswith("--calib_size 4 --calib_batch_size 2 --seed 1 --device cpu")
    assert step(request, Stage.CONVERT).runs_on == "any"


def test_the_package_has_the_parameters_of_its_function() -> None:
    from enginery.backends.package import InflightParameters

    recipe = step(request_of(release="0.16.0", tensor_parallel=2), Stage.PACKAGE).recipe
    assert isinstance(recipe, Call)
    assert recipe.function == "package_inflight"
    order = InflightParameters.model_validate(dict(recipe.parameters))
    assert (order.release, order.tensor_parallel, order.pipeline_parallel) == ("0.16.0", 2, 1)


def test_the_validation_runs_as_many_ranks_as_the_engine_has() -> None:
    recipe = step(request_of(release="0.16.0", tensor_parallel=2, pipeline_parallel=2), Stage.VALIDATE).recipe
    assert isinstance(recipe, Call)
    assert (recipe.function, recipe.parameters["driver"], recipe.parameters["world_size"]) == (
        "validate",
        "tensorrt_llm",
        4,
    )


@pytest.mark.parametrize(
    ("target", "note"),
    [
        ({"release": "latest"}, "release latest is 1.2.1, the newest known release that builds engines and fits"),
        ({"release": ">=0.9,<0.13", "precision": "float16"}, "release >=0.9,<0.13 is 0.12.0, the newest known"),
        ({"gpu": "auto"}, "gpu auto is H100-SXM5-80GB"),
        ({"backend": "auto"}, "backend auto is tensorrt: 1.2.1 builds engines for H100-SXM5-80GB"),
        ({"precision": "fp8"}, "the weights are fp8, and computations are in bfloat16"),
        ({"precision": "fp8"}, "calibrated with the converter's own data set cnn_dailymail"),
        ({"precision": "fp8", "convert": {"converter": "modelopt"}}, "a few built-in texts"),
        ({"convert": {"converter": "modelopt"}}, "the checkpoint is made by ModelOpt"),
        ({"convert": {"calibration": {"size": 4}}}, "calibration.size is ignored: bfloat16 needs no calibration"),
        ({}, "flags of 1.2.1's convert_checkpoint.py of llama: known of 1.3.0rc3"),
        ({}, "max_beam_width 1, kv_cache_type paged"),
        ({}, "the machine that runs this needs the release's examples"),
    ],
)
def test_the_notes_say_what_was_decided_and_how_certain_it_is(target: dict[str, Any], note: str) -> None:
    request = request_of(**{"release": "1.2.1", "gpu": "H100-SXM5-80GB", **target} | {"gpu": "H100-SXM5-80GB"})
    if target.get("gpu") == "auto":
        request = Request(request.spec, request.target.model_copy(update={"gpu": "auto"}), request.gpu, request.model)
    assert [one for one in notes(request) if one.startswith(note) or note in one]


def test_arguments_of_another_backend_are_said_to_mean_nothing() -> None:
    request = request_of(release="1.2.1", llm={"max_num_tokens": 8})
    assert "llm.max_num_tokens is ignored: it is for backend pytorch" in notes(request)


def test_a_machine_without_a_gpu_is_noted() -> None:
    request = request_of(release="1.2.1", gpu="cpu")
    automatic = Request(request.spec, request.target.model_copy(update={"gpu": "auto"}), request.gpu, request.model)
    (finding,) = [one for one in backend_for(automatic).findings(automatic) if one.code == "E110"]
    assert finding.problem == "TensorRT-LLM needs an NVIDIA GPU, and this machine has none"


def test_where_the_examples_are_is_only_asked_where_nothing_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    question = "this needs the release's examples: name them"
    named = request_of(release="1.2.1", convert={"examples": "/examples"})
    assert not any(question in note for note in notes(named))
    absent = "there is no /examples on this machine: the machine that runs this needs"
    assert any(absent in note for note in notes(named))
    there = request_of(release="1.2.1", convert={"examples": str(EXAMPLES)})
    assert not any("on this machine" in note for note in notes(there))
    assert not any(question in note for note in notes(request_of(release="1.2.1", toolchain="container")))
    assert not any(question in note for note in notes(request_of(release="1.2.1", convert={"converter": "modelopt"})))
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", "/examples")
    assert not any(question in note for note in notes(request_of(release="1.2.1")))


@pytest.mark.parametrize(
    ("config", "precision"), [(MIXTRAL_8X7B, "int4_awq"), (QWEN2_7B, "fp8"), (PHI_2, "int8_wo"), (PHI_2, "fp8")]
)
def test_a_precision_that_the_releases_table_does_not_name_for_the_model_is_noted(
    config: dict[str, Any], precision: str
) -> None:
    found = notes(request_of(config, release="0.16.0", precision=precision))
    assert any(f"the precision table of 0.16.0 does not name {precision} for" in note for note in found)


@pytest.mark.parametrize(
    ("config", "precision"),
    [(LLAMA_3_8B, "int4_awq"), (MIXTRAL_8X7B, "fp8"), (PHI_2, "float16"), (QWEN2_7B, "w4a8_awq")],
)
def test_a_precision_that_the_table_names_or_has_no_column_for_needs_no_note(
    config: dict[str, Any], precision: str
) -> None:
    assert not any(
        "precision table" in note for note in notes(request_of(config, release="0.16.0", precision=precision))
    )


def test_a_release_with_facts_of_its_own_is_said_to_have_no_others() -> None:
    assert not any("known of" in note for note in notes(fleet_request("llama-3-8b-instruct", "0.16.0")))


def test_what_force_accepts_is_said_first_and_where_it_accepts_nothing_too() -> None:
    plan = planned(tutorial() | {"force": ["W133", "W201", "W202"]})
    assert plan.notes[0].startswith("h100: accepted: convert.extra_args: 0.8.0's converter uses a rotary base of 10000")
    assert "W201 in force accepts nothing: this plan does not warn of it" in plan.notes
    assert not [note for note in plan.notes if "W202" in note]  # the building machine decides this


def test_a_family_that_only_another_models_facts_tell_of_is_noted() -> None:
    assert any("treats as the same" in note for note in notes(fleet_request("mistral-7b", "0.8.0")))


def test_the_first_releases_loss_of_the_rotary_base_is_accepted_by_the_tutorial_and_said() -> None:
    plan = planned(tutorial())
    assert plan.spec.force == ("W133",)
    assert [
        note for note in plan.notes if "converter uses a rotary base of 10000, this model's is 500000 [W133]" in note
    ]
    assert not [note for note in planned(tutorial("0.9.0")).notes if "accepted" in note]
    with pytest.raises(PlanError, match="a rotary base of 10000, this model's is 500000"):
        planned(tutorial() | {"force": []})


@pytest.mark.parametrize(
    ("target", "config", "backend"),
    [
        ({}, LLAMA_3_8B, BackendName.TENSORRT),
        ({"release": "1.3.0"}, LLAMA_3_8B, BackendName.PYTORCH),
        ({"release": ">=1.3"}, LLAMA_3_8B, BackendName.PYTORCH),
        ({}, LLAMA_3_8B | {"architectures": ["Qwen9ForCausalLM"]}, BackendName.PYTORCH),
        ({}, QWEN2_7B | {"quantization_config": {"quant_method": "fp8"}}, BackendName.PYTORCH),
        ({"release": "0.99.0"}, LLAMA_3_8B, BackendName.TENSORRT),
        # The release has no other backend, so the findings are those of its engine.
        ({"release": "0.8.0", "gpu": "V100-SXM2-32GB"}, LLAMA_3_8B, BackendName.TENSORRT),
        ({"release": ">=0.9,<0.12", "precision": "nvfp4"}, LLAMA_3_8B, BackendName.TENSORRT),
        ({"tensor_parallel": 3}, LLAMA_3_8B, BackendName.TENSORRT),
        ({"convert": {"extra_args": ["--none"]}}, LLAMA_3_8B, BackendName.TENSORRT),
        ({"convert": {"kv_cache": "nvfp4"}}, LLAMA_3_8B, BackendName.PYTORCH),
        ({"gpu": "cpu", "precision": "float32"}, LLAMA_3_8B, BackendName.ONNXRUNTIME),
        ({"precision": "int4"}, LLAMA_3_8B, BackendName.ONNXRUNTIME),
    ],
)
def test_auto_takes_an_engine_where_the_release_can_build_one(
    target: dict[str, Any], config: dict[str, Any], backend: BackendName
) -> None:
    choice = choose(request_of(config, **{"backend": "auto", "release": "1.2.1", **target}))
    assert choice.backend is backend
    assert choice.reason


def test_a_plan_says_why_it_makes_no_engine() -> None:
    request = request_of(LLAMA_3_8B | {"architectures": ["Qwen9ForCausalLM"]}, backend="auto", release="1.2.1")
    (why,) = [note for note in backend_for(request).notes(request) if note.startswith("backend auto")]
    assert why.startswith("backend auto is pytorch: no engine: 1.2.1 has no converter for Qwen9ForCausalLM")


def test_why_there_is_no_engine_is_said() -> None:
    assert "1.3.0rc20" in choose(request_of(backend="auto", release="1.3.0")).reason
