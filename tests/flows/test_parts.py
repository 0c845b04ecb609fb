"""Tests of the flows and tasks that need no server: locks, errors, artifacts, the retry rule."""

import subprocess
import sys
import threading
import time
from typing import Literal

import pytest
from prefect.artifacts import TableArtifact
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.locking.protocol import LockManager

from enginery.core.errors import CommandError, EngineryError, RegistryError, SourceError, ValidationError
from enginery.pipeline.flows.artifacts import build_artifacts, plan_artifacts
from enginery.pipeline.flows.failures import BuildError, failure
from enginery.pipeline.run import Outcome
from enginery.pipeline.tasks import interrupt
from enginery.pipeline.tasks.locks import StoreLocks
from enginery.pipeline.tasks.progress import artifact_key
from enginery.pipeline.tasks.schedule import step_jobs
from enginery.pipeline.tasks.stages import STAGE_TASKS, is_transient
from enginery.store import open_store
from enginery.store.steps import Stage
from enginery.toolchains.identity import ToolchainIdentity
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec
from tests.support.waiting import wait_until

__all__ = ["pipeline"]

HOLD = """
from enginery.store import open_store
from enginery.pipeline.tasks.locks import StoreLocks
locks = StoreLocks(open_store())
locks.acquire_lock("key", "holder")
print("held", flush=True)
input()
"""


def test_a_lock_is_held_by_one_holder_at_a_time() -> None:
    locks, others = StoreLocks(open_store()), StoreLocks(open_store())
    assert isinstance(locks, LockManager)
    assert locks.acquire_lock("key", "one")
    assert locks.is_lock_holder("key", "one")
    assert not others.acquire_lock("key", "two", acquire_timeout=0)
    assert others.is_locked("key")
    assert not others.wait_for_lock("key", timeout=0)
    locks.release_lock("key", "one")
    assert others.wait_for_lock("key", timeout=0)
    assert others.acquire_lock("key", "two", acquire_timeout=0)
    others.release_lock("key", "two")


def test_a_lock_can_only_be_released_by_its_holder() -> None:
    locks = StoreLocks(open_store())
    locks.acquire_lock("key", "one")
    with pytest.raises(ValueError, match="not held by two"):
        locks.release_lock("key", "two")
    locks.release_lock("key", "one")


def test_a_lock_of_a_killed_process_is_free() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "held\n"
        assert StoreLocks(open_store()).is_locked("key")
        it.kill()
        it.wait()
    locks = StoreLocks(open_store())
    assert locks.acquire_lock("key", "next", acquire_timeout=5)
    locks.release_lock("key", "next")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RegistryError("the server is away", transient=True), True),
        (SourceError("no access"), False),
        (TimeoutError("too long"), False),
        (ValueError("a mistake of ours"), False),
    ],
)
def test_only_what_says_that_it_can_pass_is_tried_again(*, error: Exception, again: bool) -> None:
    state: State[object] = State(type=StateType.FAILED, data=error)
    assert is_transient(STAGE_TASKS[Stage.BUILD], TaskRun(task_key="build", dynamic_key="0"), state) is again


def test_every_stage_has_a_task_of_its_name() -> None:
    assert {stage: task.name for stage, task in STAGE_TASKS.items()} == {stage: stage.value for stage in Stage}


def test_one_failure_keeps_its_class_and_names_its_step() -> None:
    error = CommandError("it broke", cause="disk-full", remedy="free some space")
    raised = failure({"build a": error}, ["validate a"])
    assert isinstance(raised, CommandError)
    assert (raised.cause, raised.exit_code) == ("disk-full", CommandError.exit_code)
    assert str(raised) == "build a: it broke\nnot run because of it: validate a\n  -> free some space"
    assert str(error) == "it broke\n  -> free some space"


def test_a_failure_that_names_its_step_itself_names_it_once() -> None:
    error = ValidationError("1 of 1 answers is wrong", subject="validate a")
    assert str(failure({"validate a": error}, [])) == "validate a: 1 of 1 answers is wrong"
    both = str(failure({"validate a": error, "build b": CommandError("x", subject="builder")}, []))
    assert "\n- validate a: 1 of 1 answers is wrong\n- build b: builder: x" in both


def test_failures_of_several_kinds_end_with_the_general_exit_code() -> None:
    raised = failure({"build a": CommandError("x"), "publish b": RegistryError("y")}, [])
    assert isinstance(raised, BuildError)
    assert raised.exit_code == EngineryError.exit_code
    assert "build a: x" in str(raised)
    assert "publish b: y" in str(raised)


def test_a_failure_of_our_own_is_reported_with_its_type() -> None:
    raised = failure({"build a": KeyError("engine")}, [])
    assert "KeyError: 'engine'" in str(raised)


def test_notes_about_logs_are_kept() -> None:
    error = CommandError("x")
    error.add_note("whole log: here")
    assert failure({"a": error}, []).__notes__ == ["whole log: here"]
    assert failure({"a": error, "b": CommandError("y")}, []).__notes__ == ["whole log: here"]


@pytest.mark.parametrize("name", ["tiny-llama", "Llama_3.1-8B", "a..b__c"])
def test_artifact_keys_follow_prefects_rule(name: str) -> None:
    TableArtifact(key=artifact_key("plan", name), table=[])
    assert set(artifact_key("plan", name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_plan_table_has_a_row_for_each_step(pipeline: SmallPipeline) -> None:
    plan = pipeline.plan(small_spec("a", "b"))
    table, notes = plan_artifacts(plan, {})
    assert isinstance(table, TableArtifact)
    assert [row["step"] for row in table.table if isinstance(row, dict)] == [step.label for step in plan.steps]
    assert notes.key == "plan-notes-small"


def test_a_target_that_shares_the_engine_of_another_has_its_size_too(pipeline: SmallPipeline) -> None:
    plan = pipeline.plan(small_spec("a", "b"))
    steps = [step.model_copy(update={"targets": ("a", "b")}) for step in plan.steps if step.id != "build/b"]
    shared = plan.model_copy(update={"steps": tuple(steps)})
    outcomes = {
        step.id: Outcome(
            id=step.id, key=step.key, label=step.label, stage=step.step.stage, ran=True, seconds=1.0, size=7, facts={}
        )
        for step in steps
    }
    table = build_artifacts(shared, outcomes)[1]
    assert isinstance(table, TableArtifact)
    assert [row["engine bytes"] for row in table.table if isinstance(row, dict)] == [7, 7]


def test_the_same_toolchain_on_the_host_and_from_pins_is_prepared_twice(pipeline: SmallPipeline) -> None:
    plan = pipeline.plan(small_spec("a", "b"))
    builds = [plan.find("build/a"), plan.find("build/b")]
    kinds: tuple[Literal["venv", "host"], ...] = ("venv", "host")
    identities = [ToolchainIdentity(name="tiny", kind=kind, pins=("x==1",), python="3.11") for kind in kinds]
    steps = [step.model_copy(update={"toolchain": identity}) for step, identity in zip(builds, identities, strict=True)]
    assert list(step_jobs(steps, {})) == ["toolchain tiny", "toolchain tiny (host)", "build/a", "build/b"]


def test_a_step_that_would_begin_after_the_interrupt_does_not_until_its_run_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cancellation can arrive after Prefect has checked the run's state and before the step's work starts."""
    runs = iter(["cancelled", "cancelled", "another", "cancelled", "cancelled"])
    monkeypatch.setattr("enginery.pipeline.tasks.interrupt.flow_run.get_id", lambda: next(runs))
    with pytest.raises(KeyboardInterrupt), interrupt.interrupting_steps():
        raise KeyboardInterrupt
    with pytest.raises(interrupt.StepInterrupted), interrupt.at_work():
        pass
    with interrupt.at_work():
        pass
    with interrupt.interrupting_steps(), interrupt.at_work():
        pass


def test_an_interrupt_reaches_a_thread_at_work_and_no_other() -> None:
    ended: list[str] = []
    ready = threading.Barrier(3)
    free = threading.Event()

    def work() -> None:
        try:
            with interrupt.at_work():
                ready.wait()
                while True:
                    time.sleep(0.01)  # as process.run does while it waits for output
        except interrupt.StepInterrupted:
            ended.append("interrupted")

    def rest() -> None:
        ready.wait()
        free.wait(120)
        ended.append("finished")

    threads = [threading.Thread(target=work), threading.Thread(target=rest)]
    for thread in threads:
        thread.start()
    ready.wait()
    with pytest.raises(KeyboardInterrupt), interrupt.interrupting_steps():
        raise KeyboardInterrupt
    wait_until(lambda: ended == ["interrupted"])
    free.set()
    for thread in threads:
        thread.join()
    assert ended == ["interrupted", "finished"]
