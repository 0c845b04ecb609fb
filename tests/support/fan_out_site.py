"""Workers on machines of their own for the tests of fan-out, with tiny steps: commands of `sh` alone.

A run on another machine takes its plan from the store, so nothing has to be put in its place there; only the build
itself, in the test's process, gets the small plan.
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
from enginery.pipeline.plan import Plan, PlannedStep, PlannedTarget
from enginery.sources import ResolvedSource
from enginery.spec.spec import Spec, parse_spec
from enginery.store.steps import Command, Stage, Step
from tests.conftest import FOREIGN_SETTINGS
from tests.support.fleet_site import CHECKOUT, LEASE_SECONDS, Fleet, Machine
from tests.support.s3_server import S3Server, running_s3_server

GPUS = {"l4": "L4", "l40s": "L40S"}
"""Targets of these tests are named for their GPU, with a number behind it."""


def fan_spec(*targets: str, name: str = "fan") -> Spec:
    """A spec for targets such as `l4-1`."""
    return parse_spec(
        {
            "name": name,
            "source": {"path": "weights"},
            "targets": [{"name": target, "gpu": _gpu(target), "precision": "float16"} for target in targets],
            "validation": {"prompts": [{"prompt": "How do I count to nine in French?"}]},
        }
    )


def _gpu(target: str) -> str:
    return GPUS[target.partition("-")[0]]


class FanPipeline:
    """Makes plans of tiny steps, download -> build -> package, and counts their runs.

    Attributes:
        directory: where runs are counted, and where steps may wait for a file.
        scripts: step id -> shell commands that the step runs before it makes its output.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scripts: dict[str, str] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def runs(self, step: str) -> int:
        """How often a step's work was begun, on whatever machine."""
        counter = self.directory / step.replace("/", "-")
        return len(counter.read_text().splitlines()) if counter.exists() else 0

    def plan(self, spec: Spec) -> Plan:
        """Stands where `make_plan` does."""
        names = tuple(target.name for target in spec.targets)
        download = self._step("download", "echo weights > {output}/weights.txt", {}, names)
        steps = [download]
        for name in names:
            build = self._step(
                f"build/{name}", "cp {in}/weights.txt {output}/engine.txt", {"in": download.key}, (name,)
            )
            package = self._step(f"package/{name}", "cp {in}/engine.txt {output}/model.txt", {"in": build.key}, (name,))
            steps += [build, package]
        source = ResolvedSource(kind="path", location="weights", commit="0" * 40, files=())
        return Plan(spec=spec, source=source, targets=tuple(map(_target, names)), steps=tuple(steps))

    def _step(self, identifier: str, script: str, inputs: dict[str, str], targets: tuple[str, ...]) -> PlannedStep:
        counter = self.directory / identifier.replace("/", "-")
        more = self.scripts.get(identifier, ":")
        recipe = Command(argv=("sh", "-ec", f"echo run >> {counter}; {more}; {script}"))
        step = Step(stage=Stage(identifier.partition("/")[0]), inputs=inputs, recipe=recipe)
        return PlannedStep(id=identifier, key=step.key, step=step, targets=targets)


def _target(name: str) -> PlannedTarget:
    return PlannedTarget(
        name=name,
        gpu=_gpu(name),
        backend="onnxruntime",
        release="0.18.0",
        precision="float16",
        tensor_parallel=1,
        pipeline_parallel=1,
        build_id=f"{name}-0123456789ab",
    )


class FanOutSite:
    """Two machines, each the worker of a pool, which all tests of a module share; and a store for this test alone.

    There is no pool for builds: these run in the test's own process.

    Attributes:
        l4: the pool for targets on an L4; `l40s` for those on an L40S.
    """

    def __init__(self, fleet: Fleet, directory: Path, bucket: str) -> None:
        self.fleet, self.directory = fleet, directory
        self.l4, self.l40s = fleet.machines
        self.store = f"s3://{bucket}/{uuid4().hex}"

    @property
    def machine(self) -> Machine:
        """That of the pool `l4`."""
        return self.fleet.machines[self.l4]

    def pools(self, **more: dict[str, object]) -> str:
        """A pools file: GPU by the name that targets begin with -> what is said of its pool."""
        known: dict[str, dict[str, object]] = {"l4": {"work_pool": self.l4}, "l40s": {"work_pool": self.l40s}}
        entries = [{"gpu": GPUS[name], **entry} for name, entry in (more or known).items()]
        file = self.directory / "pools.yaml"
        file.write_text(yaml.safe_dump({"pools": entries}))
        return str(file)


def make_pool(word: str) -> str:
    """A process pool with a name of its own, and its deployment."""
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
        job_variables={"command": f"{sys.executable} -m prefect.engine"},  # half the time to start a run
    )


class InThread:
    """A call in a thread of its own, with the settings of this one."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._future = self._threads.submit(copy_context().run, call)

    def result(self, *, seconds: float) -> Any:
        """What it returned; its error is raised."""
        try:
            return self._future.result(seconds)
        finally:
            self._threads.shutdown(wait=False)


def runs_named(name: str) -> list[FlowRun]:
    """The flow runs of that name, oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])), limit=50)
    return sorted(found, key=lambda run: run.created or run.expected_start_time)  # type: ignore[arg-type,return-value]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FanPipeline:
    """A pipeline whose steps the flow finds in place of the real ones."""
    made = FanPipeline(tmp_path / "pipeline")
    monkeypatch.setattr("enginery.pipeline.flows.build.make_plan", made.plan)
    return made


@pytest.fixture(scope="module")
def shared_s3() -> Iterator[S3Server]:
    with running_s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def shared_fleet(prefect_server: str, shared_s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two machines with a worker each."""
    api, directory = f"{prefect_server}/api", tmp_path_factory.mktemp("fleet")
    fleet = Fleet(api, directory, "", {**clean_environment(), **shared_s3.environment()})
    with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: directory / "prefect"}):
        pools = [make_pool("l4"), make_pool("l40s")]
    try:
        for pool in pools:
            fleet.start(pool)
        yield fleet
    finally:
        fleet.stop()


def clean_environment() -> dict[str, str]:
    """This process's environment without the user's settings, for what is started before a test removes them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}


@pytest.fixture
def site(
    prefect_api: str, shared_fleet: Fleet, shared_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FanOutSite]:
    """The shared machines; the test's own process is a machine of the fleet too."""
    for name, value in shared_s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", LEASE_SECONDS)
    shared_s3.create_bucket(bucket := f"fleet-{uuid4().hex}")
    yield FanOutSite(shared_fleet, tmp_path, bucket)
    s3.close_clients()
