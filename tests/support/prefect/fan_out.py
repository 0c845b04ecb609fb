"""Workers on machines of their own for the tests of fan-out, with tiny steps: only commands of `sh`.

A run on another machine takes its plan from the store, so `make_plan` is replaced only in the test's process, where
`build-model` runs.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.utilities.callables import parameter_schema

from enginery.core import s3
from enginery.pipeline.plan import PlannedStep
from enginery.spec.spec import Spec, parse_spec
from tests.conftest import FOREIGN_SETTINGS
from tests.support.paths import CHECKOUT
from tests.support.plans.small_pipeline import SmallPipeline
from tests.support.prefect.fleet import LEASE_SECONDS, Fleet, Machine
from tests.support.s3.server import S3Server

GPUS = {"l4": "L4", "l40s": "L40S"}
"""Targets in these tests are named after their GPU, followed by a number."""


def fan_spec(*targets: str, name: str = "fan") -> Spec:
    """A spec for targets such as `l4-1`."""
    return parse_spec(
        {
            "name": name,
            "source": {"path": "weights"},
            "targets": [
                {"name": target, "gpu": GPUS[target.partition("-")[0]], "precision": "float16"} for target in targets
            ],
            "validation": {"prompts": [{"prompt": "How do I count to nine in French?"}]},
        }
    )


class FanPipeline(SmallPipeline):
    """Makes plans of tiny steps, download -> build -> package, which run on any machine."""

    def steps(self, spec: Spec, name: str, download: PlannedStep) -> list[PlannedStep]:  # noqa: ARG002
        copy = "cp {in}/*.txt {output}/"
        build = self.command(f"build/{name}", f"{copy}engine.txt", {"in": download.key}, (name,))
        return [build, self.command(f"package/{name}", f"{copy}model.txt", {"in": build.key}, (name,))]


class FanOutSite:
    """Two machines with a worker each, which all tests of a module share, and a store for this test only.

    There is no pool for `build-model`: it runs in the test's own process.

    Attributes:
        l4: the pool for targets on an L4; `l40s` is the pool for targets on an L40S.
    """

    def __init__(self, fleet: Fleet, directory: Path, bucket: str) -> None:
        self.fleet, self.directory = fleet, directory
        self.l4, self.l40s = fleet.machines
        self.store = f"s3://{bucket}/{uuid4().hex}"

    @property
    def machine(self) -> Machine:
        """The machine of the pool `l4`."""
        return self.fleet.machines[self.l4]

    def pools(self, **more: dict[str, object]) -> str:
        """Write a pools file. `more`: `l4` or `l40s` -> the fields of that pool; both pools when left out."""
        known: dict[str, dict[str, object]] = {"l4": {"work_pool": self.l4}, "l40s": {"work_pool": self.l40s}}
        entries = [{"gpu": GPUS[name], **entry} for name, entry in (more or known).items()]
        file = self.directory / "pools.yaml"
        file.write_text(yaml.safe_dump({"pools": entries}))
        return str(file)


def make_pool(word: str) -> str:
    """Make a process pool with a unique name, and its deployment."""
    name = f"{word}-{uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        _deploy(name, client)
    return name


def _deploy(pool: str, client: SyncPrefectClient) -> UUID:
    from enginery.pipeline.flows.build_target import build_target

    pull = {"prefect.deployments.steps.set_working_directory": {"directory": str(CHECKOUT)}}
    return client.create_deployment(
        client.create_flow(build_target),
        pool,
        entrypoint="flows/build_target.py:build_target",
        pull_steps=[pull],
        work_pool_name=pool,
        parameter_openapi_schema=parameter_schema(build_target).model_dump_for_openapi(),
        job_variables={"command": f"{sys.executable} -m prefect.engine"},  # a run starts in half the time
    )


class InThread:
    """A call in a new thread, with the Prefect settings of this thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._future = self._threads.submit(copy_context().run, call)

    def result(self, *, seconds: float) -> Any:
        """The result of the call. Raises the error of the call."""
        try:
            return self._future.result(seconds)
        finally:
            self._threads.shutdown(wait=False)


def runs_named(name: str) -> list[FlowRun]:
    """The flow runs with this name, oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])), limit=50)
    return sorted(found, key=lambda run: run.created or run.expected_start_time)  # type: ignore[arg-type,return-value]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FanPipeline:
    """A pipeline that the flow uses instead of the real one."""
    made = FanPipeline(tmp_path / "pipeline")
    monkeypatch.setattr("enginery.pipeline.flows.build.make_plan", made.plan)
    return made


@pytest.fixture(scope="module")
def shared_fleet(prefect_server: str, server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two machines with a worker each."""
    api, directory = f"{prefect_server}/api", tmp_path_factory.mktemp("fleet")
    fleet = Fleet(api, directory, "", {**clean_environment(), **server.environment()})
    with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: directory / "prefect"}):
        pools = [make_pool("l4"), make_pool("l40s")]
    try:
        for pool in pools:
            fleet.start(pool)
        yield fleet
    finally:
        fleet.stop()


def clean_environment() -> dict[str, str]:
    """This process's environment without the user's settings, for processes that start before a test removes these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}


@pytest.fixture
def site(
    prefect_api: str, shared_fleet: Fleet, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FanOutSite]:
    """The shared machines and a new store. The test's own process is a machine of the fleet too."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", LEASE_SECONDS)
    server.create_bucket(bucket := f"fleet-{uuid4().hex}")
    yield FanOutSite(shared_fleet, tmp_path, bucket)
    s3.close_clients()
