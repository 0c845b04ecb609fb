"""A publish shows its progress on a real Prefect server."""

import httpx
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL

from enginery.pipeline.tasks.progress import ArtifactProgress
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect_api")

KEY = "publish-cpu-int4-progress-test"


def artifacts() -> list[dict[str, object]]:
    wanted = {"artifacts": {"key": {"any_": [KEY]}}}
    answer = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json=wanted, timeout=60).raise_for_status()
    found: list[dict[str, object]] = answer.json()
    return found


@task
def work() -> None:
    with ArtifactProgress("publish cpu-int4 progress test", lambda _: None, interval=0.05) as progress:
        progress.begin("publishing", files=2, size=2000)
        progress.add(500)
        wait_until(lambda: [artifact["data"] for artifact in artifacts()] == [25.0], seconds=60)
        progress.add(1500)
        progress.end_file()
        progress.end_file()


@flow
def publishing() -> None:
    work()


def test_one_artifact_of_the_task_run_grows_to_its_end() -> None:
    publishing()
    (artifact,) = artifacts()
    assert (artifact["type"], artifact["data"]) == ("progress", 100.0)
    assert artifact["task_run_id"]
    assert artifact["description"] == "publishing: 2.0 kB of 2.0 kB, 2 of 2 files"
