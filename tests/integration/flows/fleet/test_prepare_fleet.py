"""Tests of `prepare_fleet`: it creates and updates on Prefect's server what the pools file describes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client

from enginery.core.errors import SpecError, UsageError
from enginery.core.s3.client import close_clients
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.flows.prepare_fleet import prepare_fleet
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec
from tests.support.prefect.fleet import forget_clients
from tests.support.s3.server import S3Server

__all__ = ["pipeline"]

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def name() -> str:
    return f"pool-{uuid4().hex[:8]}"


def prepare(directory: Path, pool: dict[str, Any], results: str | None = None) -> list[str]:
    """Prepare a single pool. Returns the printed lines."""
    file, lines = directory / "pools.yaml", list[str]()
    file.write_text(yaml.safe_dump({"pools": [{"gpu": "cpu", **pool}]}))
    prepare_fleet(file, results, lines.append)
    return lines


def test_what_has_changed_in_the_file_is_brought_up_to_date(name: str, tmp_path: Path) -> None:
    assert f"work pool {name}: process, 2 at once" in prepare(tmp_path, {"work_pool": name, "concurrency": 2})
    prepare(tmp_path, {"work_pool": name, "concurrency": 3, "work_queue": "urgent"})
    prepare(tmp_path, {"work_pool": name, "concurrency": 3, "work_queue": "urgent"})
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(name).concurrency_limit == 3
        assert client.read_work_queue_by_name("urgent", work_pool_name=name).name == "urgent"


def test_a_pool_of_another_type_is_left_alone(name: str, tmp_path: Path) -> None:
    prepare(tmp_path, {"work_pool": name})
    with pytest.raises(UsageError, match="is of type process, not docker") as caught:
        prepare(tmp_path, {"work_pool": name, "type": "docker"})
    assert f"prefect work-pool delete {name}" in caught.value.remedy


def test_a_job_template_is_read_beside_the_file(name: str, tmp_path: Path) -> None:
    template = '{"job_configuration": {"command": "{{ command }}"}, "variables": {"properties": {"command": {}}}}'
    (tmp_path / "one.json").write_text(template)
    prepare(tmp_path, {"work_pool": name, "job_template": "one.json"})
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(name).base_job_template["job_configuration"] == {"command": "{{ command }}"}


@pytest.mark.parametrize("text", [None, "{"])
def test_a_bad_job_template_stops_it_before_anything_is_made(text: str | None, name: str, tmp_path: Path) -> None:
    if text:
        (tmp_path / "one.json").write_text(text)
    with pytest.raises(SpecError, match=f"{name}.job_template"):
        prepare(tmp_path, {"work_pool": name, "job_template": "one.json"})
    with get_client(sync_client=True) as client:
        assert name not in [pool.name for pool in client.read_work_pools(limit=200)]


@pytest.fixture
def _no_default_afterwards(prefect_api: str) -> Iterator[None]:
    forget_clients()
    yield
    with get_client(sync_client=True) as client:
        client.clear_server_default_result_storage()
    close_clients()
    forget_clients()


@pytest.mark.usefixtures("_no_default_afterwards")
def test_results_of_all_runs_go_to_s3_once_it_is_named(
    name: str, tmp_path: Path, s3_server: S3Server, pipeline: SmallPipeline
) -> None:
    s3_server.create_bucket("results")
    lines = prepare(tmp_path, {"work_pool": name}, results="s3://results/of/prefect")
    assert "s3://results/of/prefect" in lines[-1]
    summary = build_model(small_spec("a"))
    kept = [key.removeprefix("of/prefect/") for key in s3_server.keys("results")]
    assert {outcome.key for outcome in summary.ran} <= set(kept)
    assert not build_model(small_spec("a")).ran
