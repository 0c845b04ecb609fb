"""A build that is ended, from outside or in Prefect, leaves no process behind, and Prefect knows what became of it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import CancelledRun, ObjectNotFound
from prefect.states import Cancelled, Cancelling

from enginery.core.process.service import Service
from enginery.pipeline.flows import build as build_flow
from enginery.pipeline.tasks import cancellation
from enginery.spec.spec import Spec
from enginery.store import open_store
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec
from tests.support.prefect.fan_out import InThread, runs_named
from tests.support.prefect.fleet import flow_run
from tests.support.waiting import ACCEPT_INTERRUPTS, wait_until

__all__ = ["pipeline"]

CHECKOUT = Path(__file__).parents[4]
BUILD = """
import sys
from pathlib import Path
from enginery.pipeline import functions
from enginery.pipeline.flows import build
from tests.support.plans.small_pipeline import SmallPipeline, small_spec

directory = Path(sys.argv[1])
pipeline = SmallPipeline(directory)
pipeline.scripts["build/a"] = f"sleep 300 & echo $! > {directory}/child; echo $$ > {directory}/parent; wait"
build.make_plan = pipeline.plan
functions.PREPARATION_CHECKS.clear()  # its publish needs no registry
from enginery.pipeline.flows.console import build_from_cli
build_from_cli(small_spec("a"))
"""


FROM_THE_COMMAND_LINE = (
    BUILD.replace('from enginery.pipeline.flows.console import build_from_cli\nbuild_from_cli(small_spec("a"))', "")
    + """
from enginery.cli.app import main
sys.argv = ["enginery", "build", sys.argv[2]]
main()
"""
)


def test_ctrl_c_ends_the_command_line_with_130_and_says_that_finished_steps_are_kept(
    prefect_api: str, tmp_path: Path
) -> None:
    directory, spec = tmp_path / "pipeline", tmp_path / "spec.yaml"
    spec.write_text(json.dumps(small_spec("a").model_dump(mode="json")))
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    argv = [sys.executable, "-c", ACCEPT_INTERRUPTS + FROM_THE_COMMAND_LINE, str(directory), str(spec)]
    with subprocess.Popen(argv, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as build:
        try:
            wait_until((directory / "parent").exists, seconds=60)
            build.send_signal(signal.SIGINT)
            _, errors = build.communicate(timeout=60)
        finally:
            build.kill()
    assert build.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; finished steps are kept"
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_command_behind(
    number: signal.Signals, prefect_api: str, tmp_path: Path
) -> None:
    directory = tmp_path / "pipeline"
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    argv = [sys.executable, "-c", BUILD, str(directory)]
    service = Service.start(argv, env=environment, cwd=CHECKOUT, log_file=tmp_path / "build.log")
    try:
        parent, child = directory / "parent", directory / "child"
        wait_until(lambda: parent.exists() and parent.read_text().strip(), seconds=60)
        commands = [psutil.Process(int(file.read_text())) for file in (parent, child)]
        (build,) = (process for process in psutil.Process(service.pid).children() if process.cmdline()[:2] == argv[:2])
        build.send_signal(number)
        wait_until(lambda: not any(command.is_running() for command in commands), seconds=20)
        wait_until(lambda: not service.alive(), seconds=30)
    finally:
        service.stop()


def cancel(run: FlowRun) -> None:
    """Press Cancel in the UI."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())


def delete(run: FlowRun) -> None:
    with get_client(sync_client=True) as client:
        client.delete_flow_run(run.id)


def is_written(file: Path) -> bool:
    return file.exists() and file.read_text().strip() != ""


@pytest.mark.parametrize("action", [cancel, delete])
def test_a_run_of_the_command_line_ends_its_commands_when_it_is_ended_in_prefect(
    action: Callable[[FlowRun], None], prefect_api: str, tmp_path: Path
) -> None:
    directory, spec, name = tmp_path / "pipeline", tmp_path / "spec.yaml", f"ended-{uuid4().hex[:8]}"
    spec.write_text(json.dumps(small_spec("a", name=name).model_dump(mode="json")))
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    argv = [sys.executable, "-c", FROM_THE_COMMAND_LINE, str(directory), str(spec)]
    with subprocess.Popen(argv, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as build:
        try:
            wait_until(lambda: is_written(directory / "parent") and is_written(directory / "child"), seconds=60)
            commands = [psutil.Process(int((directory / file).read_text())) for file in ("parent", "child")]
            (run,) = runs_named(f"{name}: a")
            action(run)
            _, errors = build.communicate(timeout=60)
        finally:
            build.kill()
    assert not any(command.is_running() for command in commands)
    assert (build.returncode, "Traceback" in errors) == (130, False), errors
    why = "was cancelled in Prefect" if action is cancel else "was deleted in Prefect"
    last = f"error: {name}: the run has ended early: it {why}"
    assert any(line.startswith(last) for line in errors.splitlines()), errors
    assert [record.label for record in open_store().records()] == ["download"]
    if action is cancel:
        assert (flow_run(run.id).state_name, why in flow_run(run.id).state.message) == ("Cancelled", True)  # type: ignore[union-attr,operator]
    else:
        with pytest.raises(ObjectNotFound):
            flow_run(run.id)


@pytest.fixture
def looking_often(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "POLL_SECONDS", 0.05)


@pytest.mark.usefixtures("looking_often", "pipeline")
@pytest.mark.parametrize("state", [Cancelling, Cancelled])
def test_a_run_is_cancelled_before_its_first_step(
    state: Callable[[], State[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, planning = f"planning-{uuid4().hex[:8]}", threading.Event()

    def plan(_: Spec, **_more: object) -> None:
        planning.set()
        wait_until(lambda: False, seconds=60)

    monkeypatch.setattr(build_flow, "make_plan", plan)
    build = InThread(lambda: build_flow.build_model(small_spec("a", name=name)))
    assert planning.wait(60)
    (run,) = runs_named(f"{name}: a")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state())
    with pytest.raises(CancelledRun, match="it was cancelled in Prefect"):
        build.result(seconds=60)
    assert flow_run(run.id).state_name == "Cancelled"


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_is_cancelled_at_its_very_end_is_cancelled_and_its_steps_are_kept(
    pipeline: SmallPipeline, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """Prefect lets a run that is Cancelling end in no other state."""
    name = f"late-{uuid4().hex[:8]}"
    summary_of = build_flow.summary_of

    def cancelled_at_the_end(*arguments: Any) -> Any:
        cancel(runs_named(f"{name}: a")[0])
        if fails:
            raise RuntimeError("failed at the end")
        return summary_of(*arguments)

    monkeypatch.setattr(build_flow, "summary_of", cancelled_at_the_end)
    monkeypatch.setattr(cancellation, "POLL_SECONDS", 600)
    with pytest.raises(CancelledRun):
        build_flow.build_model(small_spec("a", name=name))
    assert [run.state_name for run in runs_named(f"{name}: a")] == ["Cancelled"]
    assert (pipeline.runs("publish/a"), len(list(open_store().records()))) == (1, 5)


@pytest.mark.usefixtures("looking_often")
def test_only_the_run_that_was_cancelled_ends_and_the_flow_that_called_it_goes_on(pipeline: SmallPipeline) -> None:
    name, waits = f"inner-{uuid4().hex[:8]}", pipeline.directory / "waits"
    pipeline.scripts["build/a"] = f"touch {waits}; sleep 300"

    @flow(name="outer", flow_run_name=f"outer-{name}")
    def outer() -> str:
        try:
            build_flow.build_model(small_spec("a", name=name))
        except CancelledRun:
            return "went on"
        return "was not cancelled"

    calling = InThread(outer)
    wait_until(waits.exists, seconds=60)
    cancel(runs_named(f"{name}: a")[0])
    assert calling.result(seconds=60) == "went on"
    assert [runs_named(one)[0].state_name for one in (f"{name}: a", f"outer-{name}")] == ["Cancelled", "Completed"]
