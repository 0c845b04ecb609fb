"""Tests of the build flow on a real Prefect server, with tiny steps."""

import shutil
import threading
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.settings import PREFECT_API_URL

from enginery.core.errors import CommandError, EngineryError, ValidationError
from enginery.core.home import store_dir
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.flows.failures import BuildError
from tests.support.plans.small_pipeline import ANSWER, SmallPipeline, pipeline, small_spec
from tests.support.waiting import wait_until

__all__ = ["pipeline"]

pytestmark = pytest.mark.usefixtures("prefect_api")


def last_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)[0]


def only(run: FlowRun) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))


def task_runs(run: FlowRun) -> dict[str, TaskRun]:
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(flow_run_filter=only(run), sort=TaskRunSort.NAME_ASC, limit=200)
    return {task.name: task for task in found}


def artifacts(run: FlowRun) -> dict[str, str]:
    """The data of the run's artifacts, by key."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
    found = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json=wanted).raise_for_status().json()
    return {artifact["key"]: str(artifact["data"]) for artifact in found if artifact["key"]}


def test_a_build_runs_every_step_once_and_shares_the_download(pipeline: SmallPipeline) -> None:
    summary = build_model(small_spec("a", "b"))
    assert [outcome.id for outcome in summary.ran] == [
        "download", "build/a", "validate/a", "gates/a", "publish/a",
        "build/b", "validate/b", "gates/b", "publish/b",
    ]  # fmt: skip
    assert pipeline.runs("download") == pipeline.runs("build/a") == pipeline.runs("build/b") == 1
    assert (pipeline.directory / "published" / "b").read_text().strip() == ANSWER


def test_a_second_build_runs_no_step_and_says_so(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a", "b"))
    summary = build_model(small_spec("a", "b"))
    assert not summary.ran
    assert "nothing to do" in summary.sentence
    assert pipeline.runs("download") == pipeline.runs("publish/a") == 1
    states: set[Any] = set()

    def all_arrived() -> bool:
        states.clear()
        states.update(task.state_name for task in task_runs(last_run()).values())
        return len(task_runs(last_run())) == 9 and states == {"Cached"}

    wait_until(all_arrived, seconds=60)
    wait_until(lambda: any("nothing to do" in line for line in logged(last_run())), seconds=60)


def logged(run: FlowRun) -> list[str]:
    lines: list[str] = []

    def arrived() -> bool:
        with get_client(sync_client=True) as client:
            wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
            found = client.read_logs(wanted, limit=200, offset=0)
            lines[:] = [log.message for log in found]
            ended = [log for log in found if log.task_run_id is None and "Finished in state" in log.message]
        return bool(ended)  # logs are sent in their order, and this is the flow's last line

    wait_until(arrived)
    return lines


def test_changed_prompts_run_validation_and_what_follows_only(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a"))
    summary = build_model(small_spec("a", expected="huit"))
    assert [outcome.id for outcome in summary.ran] == ["validate/a", "gates/a", "publish/a"]
    assert pipeline.runs("build/a") == 1


def test_another_target_shares_the_download(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a"))
    summary = build_model(small_spec("a", "b"))
    assert [outcome.id for outcome in summary.ran] == ["build/b", "validate/b", "gates/b", "publish/b"]


def test_a_step_whose_files_are_gone_runs_again_although_prefect_remembers_it(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a"))
    shutil.rmtree(store_dir())
    summary = build_model(small_spec("a"))
    assert len(summary.ran) == 5
    assert pipeline.runs("build/a") == 2


def test_a_failed_validation_stops_publishing_and_says_prompt_expected_and_got(pipeline: SmallPipeline) -> None:
    with pytest.raises(ValidationError) as caught:
        build_model(small_spec("a", expected="douze"))
    message = str(caught.value)
    assert "How do I count to nine in French?" in message
    assert "douze" in message
    assert ANSWER in message
    assert "not run because of it: publish a" in message
    assert pipeline.runs("publish/a") == 0
    run = last_run()
    assert run.state_name == "Failed"
    assert run.state is not None
    assert "douze" in str(run.state.message)
    table = artifacts(run)["validation-small-a"]
    assert "douze" in table
    assert "no: not: contains" in table
    assert "fail" in artifacts(run)["gates-small-a"]


@pytest.mark.parametrize(("expected", "verdict"), [("neuf", "pass"), ("douze", "fail")])
def test_the_verdict_of_the_gates_is_an_event_for_automations(
    pipeline: SmallPipeline, expected: str, verdict: str
) -> None:
    name = f"event-{verdict}"
    with suppress(ValidationError):
        build_model(small_spec("a", expected=expected, name=name))
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        wanted = {"filter": {"event": {"prefix": ["enginery.gates."]}}}
        events = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json=wanted).raise_for_status().json()["events"]
        found[:] = [event for event in events if event["payload"]["model"] == name]
        return bool(found)

    wait_until(arrived, seconds=60)
    assert [event["event"] for event in found] == [f"enginery.gates.{verdict}"]
    assert found[0]["payload"]["target"] == "a"
    assert found[0]["payload"]["gates"][0]["gate"] == "answers"
    assert pipeline.runs("gates/a") == 1


def test_a_recorded_miss_stops_the_second_build_too(pipeline: SmallPipeline) -> None:
    for _ in range(2):
        with pytest.raises(ValidationError):
            build_model(small_spec("a", expected="douze"))
    assert pipeline.runs("validate/a") == 1
    assert pipeline.runs("publish/a") == 0


def test_one_failing_target_does_not_stop_the_others(pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = "echo 'it broke'; exit 3"
    with pytest.raises(CommandError) as caught:
        build_model(small_spec("a", "b"))
    assert pipeline.runs("publish/b") == 1
    message = str(caught.value)
    assert message.startswith("build a: ")
    assert "exit status 3" in message
    assert "it broke" in message
    assert "not run because of it: validate a, gates a, publish a" in message


def test_every_failed_step_is_listed_in_one_error(pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = "exit 3"
    pipeline.scripts["build/b"] = "exit 4"
    with pytest.raises(BuildError) as caught:
        build_model(small_spec("a", "b"))
    message = str(caught.value)
    assert "build a" in message
    assert "exit status 3" in message
    assert "exit status 4" in message
    assert "validate a, gates a, publish a, validate b, gates b, publish b" in message
    assert caught.value.exit_code == CommandError.exit_code


def test_what_cannot_pass_is_not_tried_again(pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = "exit 3"
    with pytest.raises(EngineryError):
        build_model(small_spec("a"))
    assert pipeline.runs("build/a") == 1


def test_what_can_pass_is_tried_again(pipeline: SmallPipeline) -> None:
    (pipeline.directory / "unreachable-once").touch()
    summary = build_model(small_spec("a"))
    assert pipeline.runs("publish/a") == 2
    assert summary.published == ("s3://small/models/small/builds/a-0123456789ab",)


def test_runs_and_tasks_have_names_that_people_can_read(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a", "b"))
    run = last_run()
    assert run.name == "small: a, b"
    wait_until(lambda: len(task_runs(run)) == 9)
    assert sorted(task_runs(run)) == [
        "build a", "build b", "download", "gates a", "gates b", "publish a", "publish b", "validate a", "validate b",
    ]  # fmt: skip


def test_artifacts_show_the_plan_the_validation_and_the_builds(pipeline: SmallPipeline) -> None:
    build_model(small_spec("a"))
    found = artifacts(last_run())
    assert set(found) == {
        "plan-small",
        "plan-notes-small",
        "validation-small-a",
        "gates-small-a",
        "builds-small",
        "builds-table-small",
    }
    assert '"status": "run"' in found["plan-small"]
    assert "a small plan" in found["plan-notes-small"]
    assert '"passed": "yes"' in found["validation-small-a"]
    assert "s3://small/models/small/builds/a-0123456789ab" in found["builds-small"]
    build_model(small_spec("a"))
    assert '"status": "cached"' in artifacts(last_run())["plan-small"]


def test_what_a_step_prints_is_in_the_log_of_its_task_run(pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = "echo forty-two layers"
    build_model(small_spec("a"))
    assert "forty-two layers" in logged(last_run())


def test_two_builds_of_the_same_at_once_work_once(pipeline: SmallPipeline, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pipeline.scripts["download"] = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    summaries: list[Any] = []

    def build() -> None:
        summaries.append(build_model(small_spec("a")))

    threads = [threading.Thread(target=copy_context().run, args=(build,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: pipeline.runs("download") == 1, seconds=30)
    gate.touch()
    for thread in threads:
        thread.join(60)
    assert len(summaries) == 2
    assert [pipeline.runs(step) for step in ("download", "build/a", "validate/a", "gates/a", "publish/a")] == [1] * 5
    assert sum(len(summary.ran) for summary in summaries) == 5
