"""Tests of prefect.yaml's deployment on a real Prefect server: a worker runs it, and it is cancelled."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from enginery.core.process.command import run
from enginery.core.process.service import Service
from enginery.pipeline.fleet import read_pools
from tests.support.plans.light import LIGHT
from tests.support.prefect.fan_out import clean_environment
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[3]
POOL = "enginery-flows"


class Deployment:
    """The checkout's deployments on a server, with a worker."""

    worker: Service

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def prefect(self, *arguments: str) -> str:
        """Run a command of Prefect. Returns its last lines."""
        return self.python("-m", "prefect", *arguments)

    def python(self, *arguments: str) -> str:
        """Run Python in the checkout. Returns its last lines."""
        return "\n".join(run([sys.executable, *arguments], cwd=CHECKOUT, env=self.environment, timeout=240).last_lines)

    def start(self, spec: dict[str, object]) -> UUID:
        """Start the build of a spec. Returns the flow run's id."""
        parameters = json.dumps({"spec": spec})
        started = self.prefect("deployment", "run", "build-model/build-model", "--params", parameters)
        (found,) = re.findall(r"UUID: ([0-9a-f-]{36})", started)
        return UUID(found)


def flow_run(identifier: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(identifier)


@pytest.fixture(scope="module")
def deployed(deployed_flows: dict[str, str]) -> Deployment:
    """Deploy the checkout's flows to the server, as the guide describes."""
    return Deployment({**clean_environment(), **deployed_flows, "COLUMNS": "200"})


@pytest.fixture
def deployment(deployed: Deployment, prefect_api: str, own_home: Path, tmp_path: Path) -> Iterator[Deployment]:
    """The deployments with a worker for the flows."""
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    settings = {**deployed.environment, "ENGINERY_HOME": str(own_home), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    deployed.worker = Service.start(argv, env=settings, cwd=CHECKOUT, log_file=tmp_path / "worker.log")
    try:
        yield deployed
    finally:
        deployed.worker.stop()


def example(name: str) -> dict[str, object]:
    """A spec of the example model for one target. Its path is relative to the checkout, as in the deployment."""
    return {
        "name": name,
        "source": {"path": "examples/tiny-llama/model"},
        "targets": [{"name": "cpu-int4", "gpu": "cpu", "backend": "onnxruntime", "precision": "int4"}],
        "validation": {"prompts": [{"prompt": "How do I count to nine in French?", "contains": "neuf"}], **LIGHT},
    }


def commands_of(worker: Service, name: str) -> list[psutil.Process]:
    """The worker's descendants whose command line names `name`."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def ended(identifier: UUID) -> bool:
    state = flow_run(identifier).state
    return state is not None and state.is_final()


@pytest.mark.usefixtures("shared_toolchains")
def test_a_run_builds_on_a_worker_and_ends_its_commands_when_it_is_cancelled(deployment: Deployment) -> None:
    identifier = deployment.start(example("cancelled"))
    commands: list[psutil.Process] = []

    def is_building() -> bool:
        commands[:] = commands_of(deployment.worker, "onnxruntime_genai.models.builder")
        return bool(commands)

    wait_until(is_building, seconds=240)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(identifier, Cancelling())
    wait_until(lambda: not any(command.is_running() for command in commands), seconds=60)
    wait_until(lambda: ended(identifier), seconds=60)
    assert flow_run(identifier).state_name == "Cancelled"
    assert flow_run(identifier).name == "cancelled: cpu-int4"


@pytest.mark.usefixtures("deployed", "prefect_api")
def test_the_deployment_has_a_form_and_an_example() -> None:
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("build-model/build-model")
    assert found.parameters["spec"]["name"] == "tiny-llama"
    assert found.parameter_openapi_schema is not None
    assert "targets" in found.parameter_openapi_schema["definitions"]["Spec"]["required"]


@pytest.mark.usefixtures("deployed", "prefect_api")
def test_every_form_explains_its_fields_and_keeps_their_order() -> None:
    with get_client(sync_client=True) as client:
        found = [one for one in client.read_deployments(limit=200) if "enginery" in one.tags]
    names = {"build-model", "roll-out", "roll-back", "enginery-cpu", "enginery-h100", "prune", "audit"}
    assert names <= {one.name for one in found}
    for deployment in found:
        assert deployment.description, deployment.name
        fields = deployment.parameter_openapi_schema["properties"]  # type: ignore[index]
        assert all(field.get("description") for field in fields.values()), deployment.name
        assert sorted(field["position"] for field in fields.values()) == list(range(len(fields)))


@pytest.mark.usefixtures("deployed", "prefect_api")
def test_every_pool_of_the_fleet_has_its_deployment() -> None:
    pools = read_pools(CHECKOUT / "infra" / "pools.yaml")
    with get_client(sync_client=True) as client:
        for name, pool in pools.work_pools.items():
            there = client.read_work_pool(name)
            assert (there.type, there.concurrency_limit) == (pool.type, pool.concurrency)
        for pool in pools.pools:
            assert client.read_deployment_by_name(f"build-target/{pool.work_pool}").work_pool_name == pool.work_pool
