"""A build keeps its finished steps when Prefect's server or the storage for results cannot be reached."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_DEFAULT_RESULT_STORAGE_BLOCK, temporary_settings

from enginery.core import s3
from enginery.core.errors import StoreError
from enginery.core.process.service import Service
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.flows.prepare_fleet import RESULTS_BLOCK, results_block
from enginery.store import open_store
from tests.support.paths import CHECKOUT
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec
from tests.support.prefect.fleet import forget_clients
from tests.support.prefect.server import running_prefect_server
from tests.support.waiting import wait_until

__all__ = ["pipeline"]


BUILD = """
import sys
from pathlib import Path
from enginery.pipeline.flows import build
from tests.support.plans.small_pipeline import SmallPipeline, small_spec

directory = Path(sys.argv[1])
pipeline = SmallPipeline(directory)
pipeline.scripts["build/a"] = f"while [ ! -e {directory}/gate ]; do sleep 0.05; done"

def two_steps(spec, log):
    plan = pipeline.plan(spec)
    return plan.model_copy(update={"steps": plan.steps[:2]})

build.make_plan = two_steps
from enginery.cli.app import main
sys.argv = ["enginery", "build", sys.argv[2]]
main()
"""


@pytest.fixture
def own_server(prefect_tables: Path, tmp_path: Path) -> Iterator[tuple[str, Service]]:
    """A Prefect server that this test may stop."""
    (tmp_path / "server").mkdir()
    with running_prefect_server(tmp_path / "server", prefect_tables) as (url, service):
        yield f"{url}/api", service


def test_a_server_that_goes_away_during_a_build_costs_no_finished_step(
    own_server: tuple[str, Service], tmp_path: Path
) -> None:
    api, server = own_server
    directory, spec = tmp_path / "pipeline", tmp_path / "spec.yaml"
    spec.write_text(json.dumps(small_spec("a").model_dump(mode="json")))
    places = {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    environment = {**os.environ, **places, "PREFECT_CLIENT_MAX_RETRIES": "1"}
    argv = [sys.executable, "-c", BUILD, str(directory), str(spec)]
    with subprocess.Popen(argv, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as build:
        try:
            wait_until((directory / "runs" / "build-a").exists, seconds=120)
            server.stop()
            (directory / "gate").touch()
            _, errors = build.communicate(timeout=240)
        finally:
            build.kill()
    assert build.returncode == 1
    assert "error: " in errors
    assert "the Prefect server went away during the build" in errors
    assert "Traceback" not in errors
    assert {record.label for record in open_store().records()} == {"download", "build a"}


def test_results_that_cannot_be_kept_stop_a_build_before_it_begins(
    prefect_api: str, pipeline: SmallPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    results_block("s3://nowhere/results")
    with (
        temporary_settings({PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: f"s3-bucket/{RESULTS_BLOCK}"}),
        pytest.raises(StoreError, match="Prefect's result storage cannot be written") as caught,
    ):
        build_model(small_spec("a"))
    assert "127.0.0.1:9" in str(caught.value)
    assert "prefect block ls" in caught.value.remedy
    assert pipeline.runs("download") == 0
    s3.close_clients()
    forget_clients()
