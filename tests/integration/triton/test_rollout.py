# ruff: noqa: F811  fixtures are imported
"""Tests of rollouts with a fake Triton: success, failure, undo, and killed rollouts."""

import json
from pathlib import Path

import pytest

from enginery.builds.manifest import Manifest
from enginery.core.errors import RolloutError
from enginery.registry import publish
from enginery.store.context import StepContext
from enginery.triton.placement import open_repository
from enginery.triton.rollout import is_serving, rollout, serving_build
from enginery.triton.state import read_state, write_state
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.fake import running_fake_triton
from tests.support.triton.rollouts import FIRST, ORDER, SECOND, THIRD, Site, address, site, triton  # noqa: F401


def test_a_build_is_loaded_engine_first_with_its_files_and_labels_and_answers_and_is_named(site: Site) -> None:
    (result,) = site.roll_out(site.publish(FIRST))
    assert site.triton.calls == [f"load {model}" for model in ORDER]
    assert site.triton.loaded == dict.fromkeys(ORDER, (1, FIRST))
    assert (site.triton.repository / "tensorrt_llm" / "1" / "model.py").is_file()
    assert (site.triton.repository / "ensemble" / "1").is_dir()
    assert serving_build(site.triton.url) == FIRST
    assert site.ask() == ANSWERS[QUESTION]
    assert (result.build_id, result.version, result.endpoint) == (FIRST, 1, site.triton.url)
    assert [(answer.prompt, answer.answer) for answer in result.answers] == list(ANSWERS.items())


def test_the_next_build_is_another_version_and_the_one_before_it_stays_on_disk(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    site.roll_out(site.publish(SECOND, "the second"))
    assert site.ask() == "the second"
    assert site.versions() == {"1", "2"}
    site.roll_out(site.publish(THIRD, "the third"))
    assert site.ask() == "the third"
    assert site.versions() == {"2", "3"}


def test_a_build_that_is_served_already_is_only_loaded_and_asked(site: Site) -> None:
    manifest = site.publish(FIRST)
    site.roll_out(manifest)
    site.triton.loaded.clear()
    (result,) = site.roll_out(manifest)
    assert result.version == 1
    assert site.versions() == {"1"}
    assert site.ask() == ANSWERS[QUESTION]


def test_a_build_whose_files_were_spoiled_is_placed_again(site: Site) -> None:
    manifest = site.publish(FIRST)
    site.roll_out(manifest)
    (site.triton.repository / "tensorrt_llm" / "1" / "answers.json").write_text("{}")
    (result,) = site.roll_out(manifest)
    assert result.version == 2
    assert site.ask() == ANSWERS[QUESTION]


@pytest.mark.parametrize("model", ORDER)
def test_when_a_model_does_not_load_the_previous_build_serves_again(site: Site, model: str) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.refuses, site.triton.refuses_build = {model: "out of memory"}, SECOND
    with pytest.raises(RolloutError, match=f"model {model} failed to load.*out of memory.*{FIRST} serves again"):
        site.roll_out(second)
    assert site.triton.loaded == dict.fromkeys(ORDER, (1, FIRST))
    assert site.ask() == ANSWERS[QUESTION]
    assert site.versions() == {"1"}


@pytest.mark.parametrize("model", ORDER)
def test_when_the_first_build_does_not_load_nothing_is_left(site: Site, model: str) -> None:
    manifest = site.publish(FIRST)
    site.triton.refuses = {model: "out of memory"}
    with pytest.raises(RolloutError, match="failed to load.*no build"):
        site.roll_out(manifest)
    assert site.triton.loaded == {}
    assert [path.name for path in site.triton.repository.iterdir()] == ["rollout.json"]


def test_when_the_answers_differ_the_previous_build_serves_again(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    wrong = Build(build_id=SECOND, answers={QUESTION: "garbage"}, recorded=ANSWERS).publish(site.address)
    with pytest.raises(RolloutError, match=f"answers differently.*got 'garbage'.*{FIRST} serves again"):
        site.roll_out(wrong)
    assert serving_build(site.triton.url) == FIRST
    assert site.ask() == ANSWERS[QUESTION]


def test_a_failed_rollout_can_be_tried_again(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.refuses, site.triton.refuses_build = {"ensemble": "out of memory"}, SECOND
    with pytest.raises(RolloutError):
        site.roll_out(second)
    site.triton.refuses = {}
    site.roll_out(second)
    assert site.ask() == "the second"


def test_a_server_that_keeps_an_old_engine_and_says_yes_is_found_out(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.keeps_old = {"tensorrt_llm"}
    with pytest.raises(RolloutError, match=f"serves another version of it.*{FIRST} serves again"):
        site.roll_out(second)
    assert site.triton.loaded == dict.fromkeys(ORDER, (1, FIRST))


def test_a_previous_build_that_cannot_be_put_back_is_said(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.refuses = {"tensorrt_llm": "out of memory"}
    with pytest.raises(RolloutError, match=f"{FIRST} could not be put back at {site.triton.url}"):
        site.roll_out(second)


def test_a_server_that_is_down_stops_it_before_anything_is_placed(site: Site) -> None:
    manifest = site.publish(FIRST)
    with pytest.raises(RolloutError, match="cannot be reached") as caught:
        site.roll_out(manifest, site.triton.url, "http://127.0.0.1:9")
    assert caught.value.transient
    assert not any(site.triton.repository.iterdir())


def test_several_servers_get_the_build_one_after_the_other(site: Site) -> None:
    with running_fake_triton(site.triton.repository) as other:
        results = site.roll_out(site.publish(FIRST), site.triton.url, other.url)
        assert [result.endpoint for result in results] == [site.triton.url, other.url]
        assert site.triton.loaded == other.loaded == dict.fromkeys(ORDER, (1, FIRST))


def test_when_the_second_server_fails_the_first_goes_back_too(site: Site) -> None:
    with running_fake_triton(site.triton.repository) as other:
        site.roll_out(site.publish(FIRST), site.triton.url, other.url)
        other.refuses, other.refuses_build = {"tensorrt_llm": "out of memory"}, SECOND
        with pytest.raises(RolloutError, match=f"{FIRST} serves again"):
            site.roll_out(site.publish(SECOND, "the second"), site.triton.url, other.url)
        assert site.triton.loaded == other.loaded == dict.fromkeys(ORDER, (1, FIRST))


def leave_killed_rollout(site: Site, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """Leave the state of a rollout that was killed after this phase."""
    from enginery.triton import loading
    from enginery.triton import rollout as module

    with monkeypatch.context() as patched:
        patched.setattr(module, "undo", lambda *_: (None, []))
        if phase == "placing":
            patched.setattr(module, "read_configs", lambda *_: 1 / 0)
        else:
            patched.setattr(loading, "check_answers", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            site.roll_out(manifest)
    repository = open_repository(str(site.triton.repository))
    state = read_state(repository)
    assert state is not None
    assert state.phase == phase
    gone = state.worker.model_copy(update={"started": 1.0})
    write_state(repository, state.model_copy(update={"worker": gone}))


@pytest.mark.parametrize("phase", ["placing", "loading"])
def test_a_rollout_that_died_is_undone_by_the_next(site: Site, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    site.roll_out(site.publish(FIRST))
    leave_killed_rollout(site, site.publish(SECOND, "the second"), monkeypatch, phase)
    site.triton.calls.clear()
    site.roll_out(site.publish(THIRD, "the third"))
    assert any("died while" in line and SECOND in line for line in site.lines)
    assert site.ask() == "the third"
    assert site.versions() == {"1", "2"}
    assert json.loads((site.triton.repository / "tensorrt_llm" / "1" / "answers.json").read_text()) == ANSWERS


@pytest.mark.parametrize("phase", ["placing", "loading"])
def test_a_rollout_that_died_can_be_done_again(site: Site, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    manifest = site.publish(FIRST)
    leave_killed_rollout(site, manifest, monkeypatch, phase)
    site.roll_out(manifest)
    assert site.ask() == ANSWERS[QUESTION]
    assert site.versions() == {"1"}


def test_a_rollout_that_another_process_is_at_is_left_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    leave_killed_rollout(site, site.publish(FIRST), monkeypatch, "loading")
    repository = open_repository(str(site.triton.repository))
    state = read_state(repository)
    assert state is not None
    parent = psutil.Process().parent()
    assert parent is not None
    at_work = state.worker.model_copy(update={"pid": parent.pid, "started": parent.create_time()})
    write_state(repository, state.model_copy(update={"worker": at_work}))
    with pytest.raises(RolloutError, match=f"process {parent.pid} is rolling out {FIRST}"):
        site.roll_out(site.publish(SECOND))
    assert site.versions() == {"1"}


def test_a_state_that_cannot_be_understood_is_said(site: Site) -> None:
    manifest = site.publish(FIRST)
    (site.triton.repository / "rollout.json").write_text('{"phase": "odd"}')
    with pytest.raises(RolloutError, match="cannot be understood"):
        site.roll_out(manifest)


def test_models_that_somebody_put_there_by_hand_are_put_back_too(site: Site) -> None:
    from tests.support.registry.builds import write_repository

    write_repository(site.triton.repository, {QUESTION: "by hand"})
    before = {path: path.read_bytes() for path in site.triton.repository.glob("*/config.pbtxt")}
    for model in ORDER:
        site.triton.load(model)
    manifest = site.publish(FIRST)
    site.triton.refuses, site.triton.refuses_build = {"ensemble": "out of memory"}, FIRST
    with pytest.raises(RolloutError, match="out of memory"):
        site.roll_out(manifest)
    assert {path: path.read_bytes() for path in before} == before
    assert site.versions() == {"1"}


def step_context(site: Site, build: Build, directory: Path) -> StepContext:
    published = build.context(directory, site.address)
    publish(published)
    output = directory / "rolled-out"
    output.mkdir()
    return StepContext(
        key="1" * 64,
        parameters={
            "model": build.model,
            "build_id": build.build_id,
            "endpoints": [site.triton.url],
            "model_repository": str(site.triton.repository),
        },
        inputs={"published": published.output},
        output=output,
        chain=(),
        toolchain=None,
        log=site.lines.append,
    )


def test_the_step_writes_what_it_did(site: Site, tmp_path: Path) -> None:
    context = step_context(site, Build(), tmp_path / "step")
    facts = rollout(context)
    assert json.loads((context.output / "rollout.json").read_text()) == facts
    assert facts["build_id"] == FIRST


def test_a_rollout_step_stays_done_while_its_build_serves(site: Site, tmp_path: Path) -> None:
    context = step_context(site, Build(), tmp_path / "step")
    assert not is_serving(context.parameters)
    rollout(context)
    assert is_serving(context.parameters)
    site.roll_out(site.publish(SECOND, "the second"))
    assert not is_serving(context.parameters)
    site.roll_out(site.publish(FIRST))
    assert is_serving(context.parameters)
    site.triton.loaded.clear()
    assert not is_serving(context.parameters)


def test_a_server_that_is_down_does_not_serve() -> None:
    order = {"model": "m", "build_id": FIRST, "endpoints": ["http://127.0.0.1:9"], "model_repository": "/nowhere"}
    assert not is_serving(order)  # type: ignore[arg-type]
