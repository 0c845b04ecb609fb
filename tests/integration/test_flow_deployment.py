"""The deployment of prefect.yaml: deployed, run by a worker, and cancelled, on a real Prefect server."""

import json
import os
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

from enginery.process import run
from enginery.service import Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parent.parent.parent
POOL = "enginery-local"


class Deployment:
    """The checkout's deployments on a server, with a worker."""

    worker: Service

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def prefect(self, *arguments: str) -> str:
        """Run a command of Prefect's and give its last lines."""
        argv = [sys.executable, "-m", "prefect", *arguments]
        return "\n".join(run(argv, cwd=CHECKOUT, env=self.environment, timeout=120).last_lines)

    def start(self, spec: dict[str, object]) -> UUID:
        """Have a spec built; gives the flow run's id."""
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("build-model/build-model")
            return client.create_flow_run_from_deployment(deployment.id, parameters={"spec": spec}).id


def flow_run(identifier: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(identifier)


@pytest.fixture
def deployment(prefect_api: str, own_home: Path, tmp_path: Path) -> Iterator[Deployment]:
    more = {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home"), "NO_COLOR": "1"}
    environment = dict(os.environ) | more | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLUMNS": "200"}
    deployed = Deployment(environment)
    deployed.prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    deployed.prefect("--no-prompt", "deploy", "--all")
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    settings = environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    worker = Service.start(argv, env=settings, cwd=CHECKOUT, log_file=tmp_path / "worker.log")
    deployed.worker = worker
    try:
        yield deployed
    finally:
        worker.stop()


def example(name: str) -> dict[str, object]:
    """The example model for one target, by a path relative to the checkout as in the deployment's own default."""
    return {
        "name": name,
        "source": {"path": "examples/tiny-llama/model"},
        "targets": [{"name": "cpu-int4", "gpu": "cpu", "backend": "onnxruntime", "precision": "int4"}],
        "validation": {"prompts": [{"prompt": "How do I count to nine in French?", "contains": "neuf"}]},
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
def test_the_deployment_runs_on_a_worker(deployment: Deployment) -> None:
    started = deployment.prefect(
        "deployment", "run", "build-model/build-model", "--params", json.dumps({"spec": example("deployed")})
    )
    (found,) = re.findall(r"UUID: ([0-9a-f-]{36})", started)
    identifier = UUID(found)
    wait_until(lambda: ended(identifier), seconds=120)
    assert flow_run(identifier).state_name == "Completed"
    assert flow_run(identifier).name == "deployed: cpu-int4"


@pytest.mark.usefixtures("shared_toolchains")
def test_cancelling_a_run_ends_its_commands(deployment: Deployment) -> None:
    identifier = deployment.start(example("cancelled"))
    wait_until(lambda: commands_of(deployment.worker, "onnxruntime_genai.models.builder"), seconds=60)
    commands = commands_of(deployment.worker, "onnxruntime_genai.models.builder")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(identifier, Cancelling())
    wait_until(lambda: not any(command.is_running() for command in commands), seconds=60)
    wait_until(lambda: ended(identifier), seconds=60)
    assert flow_run(identifier).state_name == "Cancelled"


def test_the_deployment_has_a_form_and_an_example(deployment: Deployment) -> None:
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("build-model/build-model")
    assert found.parameters["spec"]["name"] == "tiny-llama"
    assert found.parameter_openapi_schema is not None
    assert "targets" in found.parameter_openapi_schema["definitions"]["Spec"]["required"]
