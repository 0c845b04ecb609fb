"""Tests of plans: their steps, and what changes a step's key."""

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from enginery.core.errors import PlanError, SourceError
from enginery.pipeline.plan import Plan, PlannedStep, make_plan
from enginery.sources import ResolvedSource, SourceFile
from enginery.spec.spec import Source, Spec, parse_spec
from enginery.store.steps import Call, Command, Stage
from tests.support.models.examples import FLEET
from tests.support.plans.plan import planned, resolved, spec_data

MADE = ("build", "validate", "bench", "package", "gates", "publish")
"""The stages of a target, without a reference: the source of these tests has no weights."""


def keys(plan: Plan) -> dict[str, str]:
    return {step.id: step.key for step in plan.steps}


def changed(first: Plan, second: Plan) -> set[str]:
    """The ids of the steps whose keys differ."""
    before, after = keys(first), keys(second)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def step(plan: Plan, identifier: str) -> PlannedStep:
    return plan.find(identifier)


def test_a_plan_lists_every_stage_of_every_target_and_the_download_once() -> None:
    assert [planned_step.id for planned_step in planned().steps] == [
        "download",
        *(f"{stage}/cpu-fp32" for stage in MADE),
        *(f"{stage}/cpu-int4" for stage in (*MADE, "rollout")),
    ]


def test_every_step_comes_after_those_it_needs() -> None:
    seen: set[str] = set()
    for planned_step in planned().steps:
        assert set(planned_step.step.inputs.values()) <= seen
        seen.add(planned_step.key)


def test_the_download_is_shared_by_all_targets() -> None:
    assert step(planned(), "download").targets == ("cpu-fp32", "cpu-int4")


def test_the_same_spec_has_the_same_keys() -> None:
    assert keys(planned()) == keys(planned())


def test_targets_that_agree_on_everything_share_their_build() -> None:
    targets = [{"name": name, "gpu": "cpu", "precision": "int4"} for name in ("a", "b")]
    plan = planned(spec_data(targets=targets, rollout=None))
    builds = [found for found in plan.steps if found.step.stage is Stage.BUILD]
    assert [build.targets for build in builds] == [("a", "b")]


def test_changed_prompts_change_validation_and_what_follows_but_not_the_build() -> None:
    other = planned(spec_data(validation={"prompts": [{"prompt": "Hello", "contains": "there"}]}))
    assert changed(planned(), other) == {
        *(f"{stage}/cpu-fp32" for stage in ("validate", "gates", "publish")),
        *(f"{stage}/cpu-int4" for stage in ("validate", "gates", "publish", "rollout")),
    }


def test_another_precision_shares_the_download_only() -> None:
    data = spec_data()
    data["targets"][0]["precision"] = "int8"
    assert changed(planned(), planned(data)) == {f"{stage}/cpu-fp32" for stage in MADE}


def test_another_commit_changes_every_key() -> None:
    assert changed(planned(), planned(commit="f" * 40)) == set(keys(planned()))


def test_another_release_destination_changes_only_what_is_released() -> None:
    other = planned(spec_data(publish={"to": "s3://elsewhere/test"}))
    assert changed(planned(), other) == {"publish/cpu-fp32", "publish/cpu-int4", "rollout/cpu-int4"}


def test_the_same_build_has_the_same_id_wherever_it_is_published() -> None:
    other = planned(spec_data(publish={"to": "s3://elsewhere/test"}))
    assert [target.build_id for target in planned().targets] == [target.build_id for target in other.targets]


def test_serving_options_do_not_touch_the_engine() -> None:
    other = planned(spec_data(serving={"max_batch_size": 3}))
    assert {name.split("/")[0] for name in changed(planned(), other)} == {"package", "publish", "rollout"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("build", {"int4_block_size": 64}), ("build", {"int4_accuracy_level": 1})],
)
def test_a_build_option_reaches_the_command_of_the_target_it_is_for(field: str, value: dict[str, Any]) -> None:
    data = spec_data()
    data["targets"][1][field] = value
    assert "build/cpu-int4" in changed(planned(), planned(data))
    assert "build/cpu-fp32" not in changed(planned(), planned(data))


def test_an_external_steps_recipe_is_its_command() -> None:
    recipe = step(planned(), "build/cpu-int4").step.recipe
    assert isinstance(recipe, Command)
    assert recipe.argv[0] == "{python}"
    assert "{weights}" in recipe.argv
    assert "{output}" in recipe.argv


def test_the_rollout_defaults_to_a_serving_prefix_beside_the_builds() -> None:
    recipe = step(planned(), "rollout/cpu-int4").step.recipe
    assert isinstance(recipe, Call)
    assert recipe.parameters["model_repository"] == "s3://engines/test/serving/tiny"


def test_without_publish_the_plan_ends_with_the_model_repository_and_says_so() -> None:
    plan = planned(spec_data(publish=None, rollout=None))
    assert {found.step.stage for found in plan.steps}.isdisjoint({Stage.PUBLISH, Stage.ROLLOUT})
    assert any("no publish" in note for note in plan.notes)


def test_what_cannot_be_built_is_all_reported_with_paths() -> None:
    targets = [
        {"name": "a", "gpu": "cpu", "precision": "nvfp4"},
        {"name": "b", "gpu": "H9000", "precision": "int4"},
        {"name": "c", "gpu": "cpu", "backend": "tensorrt", "precision": "bfloat16"},
        {"name": "d", "gpu": "cpu", "precision": "int4", "tensor_parallel": 2},
    ]
    with pytest.raises(PlanError) as caught:
        make_plan(Spec.model_validate(spec_data(targets=targets, rollout=None)), resolver=resolved)
    text = "\n".join(caught.value.mistakes)
    for path in (
        "targets.0 (a).precision",
        "targets.1 (b).gpu",
        "targets.2 (c).gpu",
        "targets.3 (d).tensor_parallel",
    ):
        assert path in text


def rolled_out_to(**changes: Any) -> str:
    """The repository to which a plan for TensorRT-LLM rolls the build out."""
    target = {"name": "h100", "gpu": "H100-SXM5-80GB", "backend": "tensorrt", "release": "1.2.1"}
    example = next(example for example in FLEET if example.spec["targets"][0]["precision"] == "bfloat16")
    data = {**example.spec, "targets": [{**target, "precision": "bfloat16"}], "publish": {"to": "s3://engines/test"}}
    source = resolved(Source(huggingface="owner/tiny")).model_copy(update={"config": example.config})
    recipe = make_plan(parse_spec(data | changes), resolver=lambda _: source).find("rollout/h100").step.recipe
    return str(recipe.parameters["model_repository"])


def test_an_engine_of_tensorrt_llm_is_rolled_out_to_a_directory() -> None:
    servers = {"endpoints": ["http://127.0.0.1:8000"]}
    assert rolled_out_to(rollout=servers) == "/models"
    assert rolled_out_to(rollout=servers, serving={"mount": "/srv/triton"}) == "/srv/triton"
    assert rolled_out_to(rollout={**servers, "model_repository": "/mnt/models"}) == "/mnt/models"
    with pytest.raises(PlanError, match=r"rollout\.model_repository: .*\[E175\]"):
        rolled_out_to(rollout={**servers, "model_repository": "s3://engines/serving"})


def test_a_source_that_cannot_be_had_is_reported_along_with_the_rest() -> None:
    def unreachable(source: object) -> Any:
        raise SourceError("the Hub cannot be reached", subject="owner/tiny")

    data = spec_data(targets=[{"name": "a", "gpu": "cpu", "precision": "nvfp4"}], rollout=None)
    with pytest.raises(PlanError) as caught:
        make_plan(parse_spec(data), resolver=unreachable)
    precision, source = caught.value.mistakes
    assert precision.startswith("targets.0 (a).precision")
    assert source.startswith("source: owner/tiny: the Hub cannot be reached")


def test_a_source_that_cannot_be_had_is_a_failure_of_its_own_when_the_spec_is_sound() -> None:
    def unreachable(source: object) -> Any:
        raise SourceError("the Hub cannot be reached", subject="owner/tiny", transient=True)

    with pytest.raises(SourceError) as caught:
        make_plan(parse_spec(spec_data()), resolver=unreachable)
    assert caught.value.transient


def test_a_plan_survives_being_written_to_a_file() -> None:
    plan = planned()
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert [found.step.key for found in again.steps] == [found.key for found in plan.steps]


def test_a_step_is_found_by_its_id_and_by_the_start_of_its_key() -> None:
    plan = planned()
    wanted = plan.steps[2]
    assert plan.find(wanted.id) == wanted
    assert plan.find(wanted.key[:12]) == wanted


def test_an_unknown_step_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match="build/cpu-int4"):
        planned().find("build/gpu")


def test_planning_imports_neither_prefect_nor_what_only_a_run_needs() -> None:
    heavy = ("prefect", "boto3", "huggingface_hub", "tritonclient", "moto", "numpy")
    code = (
        "import sys; from tests.support.plans.plan import planned; planned();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    root = str(__import__("pathlib").Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_a_plan_whose_step_was_changed_is_refused() -> None:
    data = json.loads(planned().model_dump_json())
    build = next(step for step in data["steps"] if step["id"].startswith("build/"))
    build["step"]["recipe"]["argv"].append("--fast")
    with pytest.raises(ValidationError, match="has another key than its step"):
        Plan.model_validate(data)


# Images


def container_plan(**changes: Any) -> Plan:
    target = {"name": "h100", "gpu": "H100-SXM5-80GB", "precision": "bfloat16", "backend": "pytorch"}
    return planned({"name": "tiny", "source": {"path": "x"}, "targets": [target | {"release": "1.2.1"} | changes]})


def test_an_image_of_ones_own_is_part_of_the_key_of_what_runs_in_it() -> None:
    known = container_plan(toolchain="container")
    own = container_plan(toolchain="container", image="team/trtllm:1")
    assert "validate/h100" in changed(known, own)
    assert "package/h100" not in changed(known, own)
    toolchain = step(own, "validate/h100").toolchain
    assert toolchain is not None
    assert toolchain.image == "team/trtllm:1"


@pytest.mark.parametrize("toolchain", ["venv", "host"])
def test_an_image_that_would_not_be_used_is_found(toolchain: str) -> None:
    with pytest.raises(PlanError) as caught:
        container_plan(toolchain=toolchain, image="team/trtllm:1")
    (found,) = [mistake for mistake in caught.value.mistakes if "E181" in mistake]
    assert found.startswith(f"targets.0 (h100).image: an image is named, and the toolchain is {toolchain}; set")


def test_a_download_of_unknown_size_is_estimated_by_the_models_shape() -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "vocab_size": 1000}
    shape["intermediate_size"] = 128

    def unsized(source: Source) -> ResolvedSource:
        weights = (SourceFile(name="config.json", size=2), SourceFile(name="model.safetensors"))
        more = {"files": weights, "config": shape, "notes": ("the mirror says no sizes",)}
        return resolved(source).model_copy(update=more)

    plan = make_plan(parse_spec(spec_data()), resolver=unsized)
    assert plan.source.weight_bytes == 0
    assert plan.find("download").estimated_bytes > 2 * 1000 * 64
    assert plan.notes[0] == "the mirror says no sizes"


def with_template(source: Source) -> ResolvedSource:
    return resolved(source).model_copy(update={"chat_template": "chat_template.jinja"})


def test_a_chat_with_a_model_without_a_template_is_found_before_anything_runs() -> None:
    data = spec_data()
    data["validation"] = {"chat": True, "prompts": [{"prompt": "Hi"}]}
    with pytest.raises(PlanError, match=r"validation\.chat: it needs a chat template.*\[E520\]"):
        make_plan(parse_spec(data), resolver=resolved)
    plan = make_plan(parse_spec(data), resolver=with_template)
    assert not [note for note in plan.notes if "chat template" in note]


def test_prompts_that_ignore_the_models_chat_template_are_noted() -> None:
    data = spec_data()
    data["validation"] = {"prompts": [{"prompt": "Hi"}]}
    notes = make_plan(parse_spec(data), resolver=with_template).notes
    assert [note for note in notes if "the model has a chat template (chat_template.jinja)" in note]
    assert not [note for note in make_plan(parse_spec(data), resolver=resolved).notes if "chat template" in note]
