"""Tests of a fleet as in docs/operate.md: Prefect on PostgreSQL, S3, and three workers that share no disk."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from enginery.pipeline.plan import Plan, make_plan
from enginery.registry import Registry
from enginery.spec.spec import parse_spec
from enginery.store import open_store
from enginery.store.local import LocalStore
from tests.support.paths import CHECKOUT
from tests.support.prefect.fleet import Fleet, ended, flow_run, prefect_on_postgres
from tests.support.s3.server import S3Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

SHARED = CHECKOUT / ".enginery" / "toolchains"
FLOWS, FP32, INT4 = "enginery-flows", "machine-fp32", "machine-int4"
SPEC: dict[str, Any] = {
    "name": "tiny",
    "source": {"path": str(CHECKOUT / "examples" / "tiny-llama" / "model")},
    "targets": [
        {"name": "cpu-fp32", "gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "float32"},
        {"name": "cpu-int4", "gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "int4"},
    ],
    "validation": {"prompts": [{"prompt": "How do I count to nine in French?", "contains": "neuf"}]},
    "publish": {"to": "s3://fleet/registry"},
}


@pytest.fixture
def fleet(tmp_path: Path, s3_server: S3Server) -> Iterator[Fleet]:
    """The Prefect server of a fleet. There are no workers yet."""
    s3_server.create_bucket("fleet")
    with prefect_on_postgres(tmp_path) as api:
        made = Fleet(api, tmp_path, "s3://fleet/store", dict(os.environ))
        with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: tmp_path / "prefect"}):
            try:
                yield made
            finally:
                made.stop()


def with_pools_of_ours(directory: Path) -> tuple[Path, Path]:
    """Files with the repository's pools and deployments, and two more pools, as a user would add them."""
    pools = yaml.safe_load((CHECKOUT / "infra" / "pools.yaml").read_text())
    ours = [{"gpu": "cpu", "targets": [f"*{name}"], "work_pool": f"machine-{name}"} for name in ("fp32", "int4")]
    for pool in pools["pools"]:  # the path is relative to the pools file, which is in another directory now
        if "job_template" in pool:
            pool["job_template"] = str(CHECKOUT / "infra" / pool["job_template"])
    pools["pools"] = ours + pools["pools"]
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())
    cpu = next(one for one in deployments["deployments"] if one["name"] == "enginery-cpu")
    deployments["deployments"] += [{**cpu, "name": name, "work_pool": {"name": name}} for name in (FP32, INT4)]
    files = directory / "pools.yaml", directory / "prefect.yaml"
    for file, data in zip(files, (pools, deployments), strict=True):
        file.write_text(yaml.safe_dump(data))
    return files


def start_build(fleet: Fleet, pools: Path) -> UUID:
    """Start a build with `prefect deployment run`, whose parameters come from a file."""
    parameters = {"spec": SPEC, "store": fleet.store, "pools": str(pools)}
    given = "\n".join(f"{name}={json.dumps(value)}" for name, value in parameters.items())
    file = fleet.directory / "parameters.txt"
    file.write_text(given)
    arguments = [argument for line in file.read_text().splitlines() for argument in ("--param", line)]
    started = fleet.python("-m", "prefect", "deployment", "run", "build-model/build-model", *arguments)
    (found,) = re.findall(r"UUID: ([0-9a-f-]{36})", started)
    return UUID(found)


def executions(fleet: Fleet, step: str) -> int:
    """How often a step was started on any machine. Each start writes a header into the step's log."""
    logs = fleet.directory.glob(f"*/home/logs/{step.replace('/', '-')}-*.log")
    return sum(log.read_text().count("--- 20") for log in logs)


def test_three_machines_build_two_targets_each_step_once(fleet: Fleet, toolchain: object, own_home: Path) -> None:
    pools, prefect_file = with_pools_of_ours(fleet.directory)
    fleet.python("-m", "flows.prepare_fleet", str(pools), "--results", f"{fleet.store}/results")
    ours = [word for name in ("build-model", FP32, INT4) for word in ("--name", name)]
    fleet.python("-m", "prefect", "--no-prompt", "deploy", *ours, "--prefect-file", str(prefect_file))
    for pool in (FLOWS, FP32, INT4):
        fleet.start(pool, toolchains=SHARED)
    plan = make_plan(parse_spec(SPEC))

    run = start_build(fleet, pools)
    wait_until(lambda: ended(run), seconds=800, longest_pause=1.0)

    assert flow_run(run).state_name == "Completed", flow_run(run).state
    assert_published_and_comparable()
    assert_nothing_was_done_twice(fleet, plan)
    assert_engines_are_where_they_were_needed(fleet, plan)
    assert_the_run_shows_what_it_came_to(fleet, run)


def assert_engines_are_where_they_were_needed(fleet: Fleet, plan: Plan) -> None:
    """A machine fetches only the inputs of its own steps."""
    there = open_store(fleet.store)
    for target, owner in (("cpu-fp32", FP32), ("cpu-int4", INT4)):
        record = there.find(plan.find(f"build/{target}").key)
        assert record is not None
        largest = max(record.files, key=lambda file: file.size)
        stores = {name: LocalStore(machine.home / "store") for name, machine in fleet.machines.items()}
        has = {name for name, store in stores.items() if store.blobs.has(largest)}
        assert has == {owner}


def assert_the_run_shows_what_it_came_to(fleet: Fleet, run: UUID) -> None:
    """The build's own run has all artifacts, as if every step had run in it."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
    found = httpx.post(f"{fleet.api}/artifacts/filter", json=wanted).raise_for_status().json()
    keys = {artifact["key"] for artifact in found if artifact["key"]}
    kinds = ("validation", "gates")
    of_targets = {f"{kind}-tiny-{target['name']}" for kind in kinds for target in SPEC["targets"]}
    assert keys == {"plan-tiny", "plan-notes-tiny", "builds-tiny", "builds-table-tiny", *of_targets}


def assert_published_and_comparable() -> None:
    registry = Registry("s3://fleet/registry")
    manifests = [registry.find(f"tiny@candidate/{target['name']}") for target in SPEC["targets"]]
    answers = [[(result.prompt, result.got) for result in manifest.validation.results] for manifest in manifests]
    assert answers[0] == answers[1]
    assert {manifest.target.precision for manifest in manifests} == {"float32", "int4"}


def assert_nothing_was_done_twice(fleet: Fleet, plan: Plan) -> None:
    """The store has every step, and each was done once. `test_fan_out` kills a machine at work."""
    records = open_store(fleet.store).find_many([planned.key for planned in plan.steps])
    assert len(records) == len(plan.steps)
    assert [executions(fleet, planned.id) for planned in plan.steps] == [1] * len(plan.steps)
    with get_client(sync_client=True) as client:
        states = [str(run.state_name) for run in client.read_flow_runs() if " on machine-" in run.name]
    assert states == ["Completed", "Completed"]
