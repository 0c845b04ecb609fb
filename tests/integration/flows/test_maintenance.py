"""Tests of the flows `prune` and `audit` and their deployments, on a real Prefect server and S3 API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from enginery.core import s3
from enginery.core.errors import RegistryError, UsageError
from enginery.pipeline.flows.maintenance import audit_registry, prune_registry
from enginery.pipeline.tasks.progress import artifact_key
from tests.support.registry.upkeep import build_id, listed, publish_builds, remove
from tests.support.s3.server import S3Server

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def address(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    bucket = f"engines-{uuid4().hex[:12]}"
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "4")
    s3_server.create_bucket(bucket)
    yield f"s3://{bucket}/prod"
    s3.close_clients()


def table(kind: str, address: str) -> tuple[list[dict[str, Any]], str]:
    """The rows and the description of the registry's only artifact of this kind."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(kind, address)]))
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"artifacts": wanted.model_dump(mode="json")}).json()
    (artifact,) = found
    return json.loads(artifact["data"]), artifact["description"]


def test_a_dry_prune_shows_what_would_go_and_one_that_is_none_removes_it(prefect_api: str, address: str) -> None:
    names = publish_builds(address, 3)
    looked = prune_registry(address, keep=0, days=0)
    assert looked.dry_run
    assert listed(address) == names
    rows, description = table("prune", address)
    assert (rows[0]["fate"], rows[0]["name"]) == ("goes", f"tiny-llama/{names[0]}")
    assert "1 of 3 would go" in description
    assert {row["why"] for row in rows[1:]} == {"on channel candidate", "the previous build of channel candidate"}
    prune_registry(address, keep=0, days=0, dry_run=False)
    assert listed(address) == names[1:]


def test_an_audit_that_finds_damage_fails_and_shows_it(prefect_api: str, s3_server: S3Server, address: str) -> None:
    publish_builds(address, 2)
    remove(s3_server, address, f"models/tiny-llama/builds/{build_id(1)}/report.json")
    with pytest.raises(RegistryError, match=r"1 damaged.*report\.json: is missing"):
        audit_registry(address)
    rows, description = table("audit", address)
    assert [(row["level"], row["problem"]) for row in rows] == [("damage", "is missing")]
    assert "2 builds, 4 files" in description
    state = audit_registry(address, return_state=True)
    assert state.is_failed()


def test_an_audit_of_a_sound_registry_succeeds(prefect_api: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_builds(address, 1)
    monkeypatch.setenv("ENGINERY_REGISTRY", address)
    assert audit_registry().problems == ()
    assert table("audit", address)[0] == []


def test_a_flow_without_a_registry_says_where_to_name_it(prefect_api: str) -> None:
    with pytest.raises(UsageError, match="set ENGINERY_REGISTRY where the worker runs"):
        audit_registry()


@pytest.mark.usefixtures("deployed_flows", "prefect_api")
def test_prune_is_deployed_nightly_and_dry_and_audit_weekly() -> None:
    with get_client(sync_client=True) as client:
        deployed = {name: client.read_deployment_by_name(f"{name}/{name}") for name in ("prune", "audit")}
    assert deployed["prune"].parameters["dry_run"] is True
    schedules = {name: [one.schedule for one in found.schedules] for name, found in deployed.items()}
    assert [getattr(one, "cron", None) for one in schedules["prune"]] == ["30 2 * * *"]
    assert [getattr(one, "cron", None) for one in schedules["audit"]] == ["30 4 * * 0"]
