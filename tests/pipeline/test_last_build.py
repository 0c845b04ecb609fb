"""A plan for another release lists which unset fields change their meaning since the last build."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.app import main
from enginery.pipeline.explain import with_last_builds
from enginery.pipeline.plan import Plan, make_plan
from enginery.sources import ResolvedSource
from enginery.spec.spec import parse_spec
from enginery.store import Store, open_store
from enginery.store.steps import Stage, StepRecord
from tests.support.models.examples import FLEET
from tests.support.paths import CHECKOUT
from tests.support.store.records import STARTED, a_record

EXAMPLE = next(example for example in FLEET if example.spec["targets"][0]["precision"] == "bfloat16")


def plan_for(release: str, *, commit: str = "0" * 40, repository: str = "owner/llama", **build: Any) -> Plan:
    data = {
        **EXAMPLE.spec,
        "source": {"huggingface": repository},
        "build": {"gpt_attention_plugin": "bfloat16", **build},
        "force": ["W133"],
    }
    data["targets"] = [{**target, "release": release} for target in EXAMPLE.spec["targets"]]
    source = ResolvedSource(
        kind="huggingface", location=repository, commit=commit, files=(), config=dict(EXAMPLE.config)
    )
    return make_plan(parse_spec(data), resolver=lambda _: source)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def build(plan: Plan, store: Store, output: Path, *, days: int = 0) -> None:
    """Write records of the plan's steps up to the engine."""
    output.mkdir(exist_ok=True)
    for planned in plan.steps:
        if planned.step.stage in {Stage.DOWNLOAD, Stage.CONVERT, Stage.BUILD}:
            made: StepRecord = a_record(planned.step.stage).model_copy(
                update={
                    "key": planned.key,
                    "step": planned.step,
                    "label": planned.label,
                    "started": STARTED + timedelta(days=days),
                }
            )
            store.add(made, output)


def changes(plan: Plan, store: Store) -> list[str]:
    return [note for note in with_last_builds(plan, store).notes if "the last build was for" in note]


def test_unset_fields_that_change_their_meaning_are_noted(store: Store, tmp_path: Path) -> None:
    build(plan_for("0.8.0"), store, tmp_path / "out")
    lines = changes(plan_for("1.2.1"), store)
    assert any("the last build was for 0.8.0; unset in the spec: max_batch_size: 1 -> 2048" in note for note in lines)


def test_a_field_that_is_set_is_not_among_them(store: Store, tmp_path: Path) -> None:
    build(plan_for("0.8.0", max_batch_size=8), store, tmp_path / "out")
    assert not [note for note in changes(plan_for("1.2.1", max_batch_size=8), store) if "max_batch_size" in note]


def test_nothing_is_noted_for_the_same_release_or_without_a_build(store: Store, tmp_path: Path) -> None:
    assert changes(plan_for("1.2.1"), store) == []
    build(plan_for("1.2.1"), store, tmp_path / "out")
    assert changes(plan_for("1.2.1"), store) == []


def test_another_commit_of_the_same_repository_is_the_same_model(store: Store, tmp_path: Path) -> None:
    build(plan_for("0.8.0"), store, tmp_path / "out")
    assert changes(plan_for("1.2.1", commit="1" * 40), store)


def test_another_models_build_is_not_the_last_one(store: Store, tmp_path: Path) -> None:
    build(plan_for("0.8.0", repository="owner/other"), store, tmp_path / "out")
    assert changes(plan_for("1.2.1"), store) == []


def test_the_newest_build_counts(store: Store, tmp_path: Path) -> None:
    build(plan_for("0.8.0"), store, tmp_path / "out")
    build(plan_for("0.12.0"), store, tmp_path / "out", days=1)
    lines = changes(plan_for("1.2.1"), store)
    assert lines
    assert all("the last build was for 0.12.0" in note for note in lines)


def test_the_command_line_tells_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(plan_for("0.8.0"), store, tmp_path / "out")
    monkeypatch.setattr("enginery.pipeline.make_plan", lambda *_arguments, **_named: plan_for("1.2.1"))
    spec = CHECKOUT / "infra" / "models" / "tiny-llama.yaml"
    monkeypatch.setattr("sys.argv", ["enginery", "plan", str(spec), "--store", str(tmp_path / "store")])
    with pytest.raises(SystemExit):
        main()
    assert "unset in the spec: max_batch_size: 1 -> 2048" in capsys.readouterr().out
