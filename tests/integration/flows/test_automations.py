"""Tests of `infra/automations` on a real Prefect server: they call a webhook when a run fails."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.states import Crashed

from enginery.core.errors import EngineryError, UsageError
from enginery.core.process.command import run
from enginery.pipeline.flows.automations import BLOCK, PLACEHOLDER, apply
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.flows.release_watch import watch_releases
from tests.support.http.webhook import Receiver, running_receiver
from tests.support.plans.small_pipeline import SmallPipeline, pipeline, small_spec
from tests.support.waiting import wait_until

__all__ = ["pipeline"]

pytestmark = pytest.mark.usefixtures("prefect_api")

CHECKOUT = Path(__file__).parents[3]
DEFINITIONS = CHECKOUT / "infra" / "automations"
NAMES = ["enginery crashed runs", "enginery failed builds", "enginery failed runs", "enginery failed rollouts"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that the automations call."""
    with running_receiver() as running:
        apply(DEFINITIONS, running.url)
        yield running


def automations() -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        return {one.name: one for one in client.read_automations()}


def sent(receiver: Receiver, run_name: str) -> dict[str, Any]:
    """The messages about the run with this name. Runs of other tests also fail on the same server."""
    EventsWorker.instance().wait_until_empty()
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        found[:] = [payload for payload in receiver.payloads if payload["run"].startswith(run_name)]
        return bool(found)

    wait_until(arrived, seconds=60)
    return found[0]


def test_all_are_created_and_a_second_time_brings_them_up_to_date(receiver: Receiver) -> None:
    before = {name: automations()[name].id for name in NAMES}
    assert sorted(apply(DEFINITIONS, "http://127.0.0.1:9/other")) == sorted(NAMES)
    assert {name: automations()[name].id for name in NAMES} == before


def test_each_file_is_what_prefects_own_command_takes(receiver: Receiver, prefect_api: str, tmp_path: Path) -> None:
    """The file works after its block's name is replaced by the block's id on the server."""
    block = automations()[NAMES[0]].actions[0].block_document_id
    files = sorted(DEFINITIONS.glob("*.yaml"))
    assert len(files) == len(NAMES)
    texts = [file.read_text(encoding="utf-8").replace(PLACEHOLDER, str(block)) for file in files]
    made = tmp_path / "all.yaml"
    named = [yaml.safe_load(text) | {"name": f"by hand: {file.stem}"} for file, text in zip(files, texts, strict=True)]
    made.write_text(yaml.safe_dump({"automations": named}))
    argv = [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(made)]
    run(argv, env={**os.environ, "PREFECT_API_URL": prefect_api}, timeout=120)
    for one in named:
        created = automations()[one["name"]]
        assert created.actions[0].block_document_id == block
        with get_client(sync_client=True) as client:
            client.delete_automation(created.id)


def test_a_failed_build_tells_what_broke_and_what_to_do(receiver: Receiver, pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = "echo 'it broke'; exit 3"
    with pytest.raises(EngineryError):
        build_model(small_spec("a", name="told-build"))
    payload = sent(receiver, "told-build")
    (broke,) = payload["broke"]
    assert (payload["flow"], payload["model"]) == ("build-model", "told-build")
    assert (broke["step"], broke["target"]) == ("build", "a")
    assert "exit status 3" in broke["problem"]
    assert broke["remedy"]
    assert broke["problem"] in payload["text"]


def test_each_of_several_failures_is_reported(receiver: Receiver, pipeline: SmallPipeline) -> None:
    pipeline.scripts["build/a"] = pipeline.scripts["build/b"] = "exit 3"
    with pytest.raises(EngineryError):
        build_model(small_spec("a", "b", name="told-both"))
    payload = sent(receiver, "told-both")
    assert sorted((one["step"], one["target"]) for one in payload["broke"]) == [("build", "a"), ("build", "b")]


def test_a_failed_watch_is_reported(receiver: Receiver, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        watch_releases.with_options(flow_run_name="told-watch")([str(tmp_path / "nowhere")])
    payload = sent(receiver, "told-watch")
    assert payload["broke"][0]["remedy"] == "name spec files, or directories of them"
    assert "nowhere" in payload["text"]


def test_a_crashed_run_is_reported_without_its_process(receiver: Receiver) -> None:
    with get_client(sync_client=True) as client:
        crashed = client.create_flow_run(build_model, parameters={}, name="told-crash", tags=["enginery"])
        client.set_flow_run_state(crashed.id, Crashed(message="its process was killed"), force=True)
    payload = sent(receiver, "told-crash")
    assert payload["broke"][0]["problem"] == "its process was killed"
    assert "finished steps are kept" in payload["broke"][0]["remedy"]


def test_the_command_wants_the_address_in_the_environment(prefect_api: str) -> None:
    argv = [sys.executable, "-m", "flows.automations", str(DEFINITIONS)]
    settings = {**os.environ, "PREFECT_API_URL": prefect_api, "PYTHONPATH": str(CHECKOUT)}
    refused = subprocess.run(argv, env=settings, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "ENGINERY_WEBHOOK_URL=" in refused.stderr
    settings["ENGINERY_WEBHOOK_URL"] = "http://127.0.0.1:9/hook"
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(NAMES)


def test_a_file_that_is_no_automation_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: 3\ntrigger: {}\n")
    with pytest.raises(UsageError, match=r"broken\.yaml: is not an automation"):
        apply(tmp_path, "http://127.0.0.1:9/hook")


def test_a_file_that_is_no_automation_changes_no_address(tmp_path: Path, prefect_api: str) -> None:
    apply(DEFINITIONS, "http://127.0.0.1:9/before")
    (tmp_path / "broken.yaml").write_text("name: 3\ntrigger: {}\n")
    with pytest.raises(UsageError, match="is not an automation"):
        apply(tmp_path, "http://127.0.0.1:9/after")
    webhook = Webhook.load(BLOCK)
    assert isinstance(webhook, Webhook)
    assert webhook.url.get_secret_value() == "http://127.0.0.1:9/before"
