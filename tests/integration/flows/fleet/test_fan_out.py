"""Tests of a build that sends its targets to several work pools, on a real Prefect server and S3."""

import signal
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Cancelling

from enginery.core.errors import EngineryError, PlanError
from enginery.core.process.service import Service
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.tasks.pool_run import PoolError, PoolRun, _find_or_start
from enginery.store import open_store
from tests.support.paths import CHECKOUT
from tests.support.prefect.fan_out import (
    FanOutSite,
    FanPipeline,
    InThread,
    fan_spec,
    make_pool,
    pipeline,
    runs_named,
    shared_fleet,
    site,
)
from tests.support.prefect.fleet import ended, flow_run
from tests.support.s3.fixtures import server
from tests.support.waiting import wait_until

__all__ = ["pipeline", "server", "shared_fleet", "site"]


BUILD = """
import sys
from pathlib import Path
from enginery.pipeline.flows import build
from tests.support.prefect.fan_out import FanPipeline, fan_spec

directory, name, store, pools = Path(sys.argv[1]), *sys.argv[2:]
pipeline = FanPipeline(directory)
pipeline.scripts["build/l4-1"] = f"sleep 300 & echo $$ > {directory}/parent; echo $! > {directory}/child; wait"
build.make_plan = pipeline.plan
build.build_model(fan_spec("l4-1", name=name), store=store, pools=pools)
"""


def new_name() -> str:
    """A model name that no other test uses."""
    return f"fan-{uuid4().hex[:8]}"


def test_targets_are_built_by_the_workers_of_their_pools_and_shared_steps_run_once(
    site: FanOutSite, pipeline: FanPipeline
) -> None:
    spec = fan_spec("l4-1", "l40s-1", "l4-2", name=new_name())
    summary = build_model(spec, store=site.store, pools=site.pools())
    assert [outcome.id for outcome in summary.ran] == [
        "download", "build/l4-1", "package/l4-1", "build/l40s-1", "package/l40s-1", "build/l4-2", "package/l4-2",
    ]  # fmt: skip
    assert pipeline.runs("download") == 1
    assert runs_named(f"{spec.name}: l4-1, l4-2 on {site.l4}")[-1].state_name == "Completed"
    sent = runs_named(f"{spec.name}: l40s-1 on {site.l40s}")
    assert sent[-1].state_name == "Completed"
    again = build_model(spec, store=site.store, pools=site.pools())
    assert not again.ran
    assert runs_named(sent[-1].name) == sent  # there was nothing to do, so no run was started


def test_a_pool_without_a_worker_is_reported_while_waiting_and_ends_the_build_with_its_name(
    site: FanOutSite, pipeline: FanPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pool, spec = make_pool("empty"), fan_spec("l4-1", name=new_name())
    with pytest.raises(PoolError, match="no worker for") as caught:
        build_model(spec, store=site.store, pools=site.pools(l4={"work_pool": pool}), wait_for_worker_seconds=2)
    assert caught.value.subject.endswith(f"work pool {pool}")
    assert f"prefect worker start --pool {pool}" in caught.value.remedy
    assert f"work pool {pool} has no worker; waiting 2 s more for one" in caplog.text
    assert [run.state_name for run in runs_named(f"{spec.name}: l4-1 on {pool}")] == ["Cancelled"]
    assert pipeline.runs("download") == 0


def test_a_pool_that_the_server_does_not_know_stops_the_build_before_it_begins(
    site: FanOutSite, pipeline: FanPipeline
) -> None:
    with pytest.raises(PlanError) as caught:
        build_model(fan_spec("l4-1"), store=site.store, pools=site.pools(l4={"work_pool": "nowhere"}))
    assert "no work pool nowhere" in str(caught.value)
    assert "no deployment build-target/nowhere" in str(caught.value)
    assert "flows.prepare_fleet" in str(caught.value)


def test_a_target_that_no_pool_takes_stops_the_build_before_it_begins(site: FanOutSite, pipeline: FanPipeline) -> None:
    pools = site.pools(l4={"work_pool": site.l4})
    with pytest.raises(PlanError, match=r"targets.1 \(l40s-1\).gpu: no work pool takes L40S"):
        build_model(fan_spec("l4-1", "l40s-1"), store=site.store, pools=pools)


def test_a_step_that_fails_on_another_machine_is_reported_and_stops_no_other_target(
    site: FanOutSite, pipeline: FanPipeline
) -> None:
    pipeline.scripts["build/l4-1"] = "echo 'it broke'; exit 3"
    with pytest.raises(EngineryError) as caught:
        build_model(fan_spec("l4-1", "l4-2"), store=site.store, pools=site.pools())
    assert "exit status 3" in str(caught.value)
    assert pipeline.runs("package/l4-1") == 0
    assert pipeline.runs("package/l4-2") == 1


def test_a_run_whose_machine_dies_is_started_again_and_does_no_finished_step_twice(
    site: FanOutSite, pipeline: FanPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    gate = pipeline.directory / "gate"
    pipeline.scripts["package/l4-1"] = f"while [ ! -e {gate} ]; do sleep 0.1; done"
    spec = fan_spec("l4-1", name=new_name())
    build = InThread(lambda: build_model(spec, store=site.store, pools=site.pools()))
    wait_until(lambda: pipeline.runs("package/l4-1") == 1, seconds=120)
    site.machine.kill()
    gate.touch()
    site.machine.start()
    summary = build.result(seconds=240)
    assert [outcome.id for outcome in summary.ran] == ["download", "build/l4-1", "package/l4-1"]
    assert [pipeline.runs(step) for step in ("download", "build/l4-1", "package/l4-1")] == [1, 1, 2]
    assert [run.state_name for run in runs_named(f"{spec.name}: l4-1 on {site.l4}")] == ["Crashed", "Completed"]
    assert "its worker or its machine is gone; starting it again" in caplog.text


def is_written(file: Path) -> bool:
    return file.exists() and file.read_text() != ""


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_build_that_is_ended_ends_its_runs_and_their_commands_on_other_machines(
    site: FanOutSite, tmp_path: Path, *, cancelled: bool
) -> None:
    name, directory = new_name(), tmp_path / "pipeline"
    argv = [sys.executable, "-c", BUILD, str(directory), name, site.store, site.pools()]
    environment = {**site.fleet.environment, "ENGINERY_HOME": str(tmp_path / "build-home")}
    build = Service.start(argv, env=environment, cwd=CHECKOUT, log_file=tmp_path / "build.log")
    try:
        wait_until(lambda: all(is_written(directory / file) for file in ("parent", "child")), seconds=120)
        commands = [psutil.Process(int((directory / file).read_text())) for file in ("parent", "child")]
        assert set(commands) <= set(site.machine.processes())
        (parent,) = (process for process in psutil.Process(build.pid).children() if process.cmdline()[:2] == argv[:2])
        if cancelled:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(runs_named(f"{name}: l4-1")[0].id, Cancelling())
        else:
            parent.send_signal(signal.SIGTERM)
        wait_until(lambda: not any(command.is_running() for command in commands), seconds=60)
        wait_until(lambda: not build.alive(), seconds=60)
        (run,) = runs_named(f"{name}: l4-1 on {site.l4}")
        wait_until(lambda: ended(run.id), seconds=60)
        assert flow_run(run.id).state_name == "Cancelled"
        assert runs_named(f"{name}: l4-1")[0].state_name == ("Cancelled" if cancelled else "Crashed")
        wait_until(lambda: len(site.machine.processes()) == 2, seconds=60)  # the worker and its supervisor
    finally:
        build.stop()


def test_a_build_that_is_tried_again_finds_the_run_it_has_started(site: FanOutSite, own_home: Path) -> None:
    """The run still waits for a worker. The same work is one run, even if it is requested twice."""
    pool = make_pool("empty")
    wanted = PoolRun(
        pool=pool,
        queue="default",
        name=new_name(),
        parameters={"plan": "0" * 64, "targets": ["l4-1"]},
        key=uuid4().hex,
        store=open_store(site.store),
        wait_for_worker=600,
    )
    lines: list[str] = []
    with get_client(sync_client=True) as client:
        first = _find_or_start(wanted, client, lines.append)
        assert _find_or_start(wanted, client, lines.append).id == first.id
        assert lines == [f"waiting for {wanted.name}, which was started before"]
        client.set_flow_run_state(first.id, Cancelled())
        assert _find_or_start(wanted, client, lines.append).id != first.id
    assert len(runs_named(wanted.name)) == 2
