from pathlib import Path
from typing import Any

import pytest

from enginery.backends.reference.recipe import planned_reference, reference_call, reference_findings, toolchain_problem
from enginery.backends.request import Request
from enginery.core.errors import SourceError, ToolchainError
from enginery.models import ModelFacts
from enginery.spec import ValidationOptions, gpus
from enginery.spec.spec import parse_spec
from enginery.store import ANY_GPU, Call
from enginery.toolchains import ToolchainIdentity
from enginery.toolchains.identity import Kind
from tests.support.plans.plan import spec_data


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    (path / "english.txt").write_text("A text.")
    return path


def validation(texts: Path | None, *, prompt: dict[str, Any] | None = None, **reference: Any) -> ValidationOptions:
    given = {"texts": str(texts)} if texts else {}
    prompts = [prompt or {"prompt": "Hi", "contains": "there"}]
    return ValidationOptions.model_validate({"prompts": prompts, "reference": {**given, **reference}})


def request(texts: Path | None, *, publish: bool = True, **reference: Any) -> Request:
    made = validation(texts, **reference).model_dump(mode="json", exclude_unset=True)
    data = spec_data(validation=made)
    spec = parse_spec(data if publish else {key: data[key] for key in data.keys() - {"publish", "rollout"}})
    return Request(spec, spec.targets[0], gpus.CPU, ModelFacts())


def identify(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
    return ToolchainIdentity(name=name, kind=kind, image=image, pins=("torch==2",), python="3.11")


def test_what_an_answer_should_be_does_not_change_the_recipe(texts: Path) -> None:
    asked = [
        validation(texts, prompt={"prompt": "Hi", **expected}) for expected in ({"contains": "a"}, {"equals": "b"})
    ]
    assert reference_call(asked[0]) == reference_call(asked[1])


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": {"prompt": "Ho"}},
        {"prompt": {"prompt": "Hi", "max_tokens": 3}},
        {"prompt": {"prompt": "Hi", "chat": True}},
        {"max_tokens": 100},
        {"dtype": "float32"},
        {"device": "cpu"},
    ],
)
def test_what_decides_the_result_changes_the_recipe(texts: Path, change: dict[str, Any]) -> None:
    assert reference_call(validation(texts, **change)) != reference_call(validation(texts))


def test_a_changed_text_changes_the_recipe_and_another_place_does_not(texts: Path, tmp_path: Path) -> None:
    before = reference_call(validation(texts))
    moved = texts.rename(tmp_path / "moved")
    assert reference_call(validation(moved)) == before
    (moved / "english.txt").write_text("Another text.")
    assert reference_call(validation(moved)) != before


def test_the_window_is_no_longer_than_what_the_engine_takes(texts: Path) -> None:
    windows = [reference_call(validation(texts), longest).parameters["window"] for longest in (0, 100, 4096)]
    assert windows == [512, 100, 512]


def test_the_step_runs_in_the_toolchain_of_transformers_and_sees_the_users_texts(texts: Path) -> None:
    made = planned_reference(request(texts), "weights-key", identify)
    assert made is not None
    assert made.toolchain is not None
    assert made.toolchain.name.startswith("transformers-")
    assert made.places == {"texts": str(texts)}
    assert made.step.inputs == {"weights": "weights-key"}
    assert made.step.runs_on == "any"


@pytest.mark.parametrize(("device", "runs_on"), [("auto", "any"), ("cpu", "cpu"), ("cuda", ANY_GPU)])
def test_the_step_runs_where_the_spec_says(texts: Path, device: str, runs_on: str) -> None:
    made = planned_reference(request(texts, device=device), "weights-key", identify)
    assert made is not None
    assert made.step.runs_on == runs_on


def test_without_a_reference_there_is_no_step(texts: Path) -> None:
    assert planned_reference(request(None, use="off"), "weights-key", identify) is None
    assert list(reference_findings(request(texts / "gone", use="off"))) == []


def test_the_reference_of_a_build_needs_no_toolchain() -> None:
    made = planned_reference(request(None, use="build", build="tiny/cpu-fp32-0123456789ab"), "weights-key", identify)
    assert made is not None
    assert made.toolchain is None
    assert isinstance(made.step.recipe, Call)
    parameters = made.step.recipe.parameters
    assert (parameters["registry"], parameters["build"]) == ("s3://engines/test", "tiny/cpu-fp32-0123456789ab")
    assert "texts_sha256" not in parameters


def test_the_address_before_a_build_is_its_registry(texts: Path) -> None:
    call = reference_call(validation(texts, use="build", build="s3://other/place/#tiny/b-1"), registry="s3://engines")
    assert (call.parameters["registry"], call.parameters["build"]) == ("s3://other/place", "tiny/b-1")


@pytest.mark.parametrize("build", ["tiny", "tiny@stable/cpu", "a/b/c", "s3://engines#tiny", "#tiny/b"])
def test_a_build_that_is_not_named_in_full_is_found_before_work_starts(build: str) -> None:
    found = list(reference_findings(request(None, use="build", build=build)))
    assert [(finding.code, finding.path) for finding in found] == [("E531", "validation.reference.build")]
    with pytest.raises(SourceError, match="does not name a build"):
        reference_call(validation(None, use="build", build=build), registry="s3://engines")


def test_a_build_without_a_registry_is_found_before_work_starts() -> None:
    found = list(reference_findings(request(None, publish=False, use="build", build="tiny/b-1")))
    assert [finding.code for finding in found] == ["E531"]
    assert "s3://registry/prefix#tiny/b-1" in found[0].remedy


def test_texts_that_cannot_be_used_are_found_before_work_starts(texts: Path) -> None:
    (texts / "more.jsonl").write_text("no json")
    found = list(reference_findings(request(texts)))
    assert [(finding.code, finding.path) for finding in found] == [("E530", "validation.reference.texts")]
    assert "more.jsonl line 1 is not JSON" in found[0].problem
    (texts / "more.jsonl").write_text('{"text": "Corrected."}')
    assert list(reference_findings(request(texts))) == []


def test_a_machine_without_a_python_for_the_toolchain_cannot_run_a_reference() -> None:
    def identify_nothing(name: str, kind: Kind = "venv", image: str = "") -> ToolchainIdentity:
        raise ToolchainError("it needs Python >=3.11,<3.13", subject=f"{name}{kind}{image}", remedy="install one")

    problem = toolchain_problem(identify_nothing)
    assert problem is not None
    assert problem.endswith("it needs Python >=3.11,<3.13; install one")
    assert toolchain_problem(identify) is None
