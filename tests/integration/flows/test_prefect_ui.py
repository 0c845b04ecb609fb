"""A user starts a build in the Prefect UI with a browser: the form, the run and its artifacts."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun

from enginery.core.process.command import run
from enginery.core.process.service import Service
from tests.support.paths import CHECKOUT
from tests.support.prefect.server import running_prefect_server
from tests.support.prefect.ui import PATIENCE_SECONDS, PrefectUI, needs_browser, prefect_ui
from tests.support.s3.server import S3Server
from tests.support.waiting import wait_until

__all__ = ["prefect_ui"]

pytestmark = [needs_browser, pytest.mark.timeout(1200)]

POOL = "enginery-flows"
MODEL = "from-the-form"
PNG = b"\x89PNG"
CLICK_AGAIN_SECONDS = 10
RUN_SECONDS = 480
"""A worker must take the run first, and on a busy machine each start of Python takes long."""


@pytest.fixture(scope="module")
def prefect_server(prefect_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """This module's own server, because the lists would also show the deployments of other tests."""
    with running_prefect_server(tmp_path_factory.mktemp("prefect-ui"), prefect_tables) as (url, _):
        yield url


@pytest.fixture
def registry(s3_server: S3Server) -> str:
    s3_server.create_bucket(bucket := f"engines-{os.urandom(4).hex()}")
    return bucket


@pytest.fixture
def deployed(prefect_api: str, shared_toolchains: Path, registry: str, tmp_path: Path) -> Iterator[Service]:
    """The worker of the deployment build-model, which is deployed as in prefect.yaml."""
    more = {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home"), "NO_COLOR": "1"}
    environment = dict(os.environ) | more | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
    prefect = [sys.executable, "-m", "prefect"]
    run([*prefect, "--no-prompt", "deploy", "--name", "build-model"], cwd=CHECKOUT, env=environment, timeout=240)
    argv = [*prefect, "worker", "start", "--pool", POOL]
    worker = Service.start(argv, env=environment, cwd=CHECKOUT, log_file=tmp_path / "worker.log")
    try:
        yield worker
    finally:
        worker.stop()


def open_form(ui: PrefectUI) -> None:
    ui.go("Deployments")
    ui.go("build-model")
    ui.page.get_by_role("button", name="Run", exact=True).click()
    ui.page.get_by_role("menuitem", name="Custom run").click()
    ui.field("Name").wait_for()


def started_run() -> FlowRun | None:
    """The run that the form has started, from the server."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    return next((run for run in runs if run.parameters.get("spec", {}).get("name") == MODEL), None)


def happens_soon(ui: PrefectUI, what: Callable[[], bool]) -> bool:
    """Whether something happens within the time after which a user would click again."""
    deadline = time.monotonic() + CLICK_AGAIN_SECONDS
    while not what() and time.monotonic() < deadline:
        ui.page.wait_for_timeout(100)
    return what()


def submit(ui: PrefectUI) -> None:
    """Submit the form. Click again if nothing happens, as a user does."""
    button = ui.page.get_by_role("button", name="Submit")

    def submitted() -> bool:
        if button.is_visible() and button.is_enabled():
            button.click()
        return happens_soon(ui, lambda: started_run() is not None)

    wait_until(submitted, seconds=PATIENCE_SECONDS, otherwise=ui.text)


def wait_for_end(worker: Service) -> None:
    """Wait until the run has ended. If it does not end, the error shows the worker's output."""

    def ended() -> bool:
        run = started_run()
        return run is not None and run.state is not None and run.state.is_final()

    wait_until(
        ended, seconds=RUN_SECONDS, longest_pause=1.0, otherwise=lambda: f"{started_run()}\n{worker.last_lines()}"
    )


def open_run(ui: PrefectUI) -> str:
    """Open the run that was started. Returns its final state."""
    ui.page.get_by_role("link", name=re.compile(MODEL)).first.click()
    ended = ui.page.get_by_text(re.compile("^(Completed|Failed|Crashed|Cancelled)$")).first
    ended.wait_for()
    return ended.inner_text()


def open_artifacts(ui: PrefectUI) -> str:
    """Open the run's artifacts, next to the graph of its steps. Returns the page's address."""
    ui.page.reload()  # if the page was opened before the run had steps, its graph stays empty for a while
    ui.page.get_by_role("tab", name="Artifacts").click()
    ui.page.wait_for_url("**tab=Artifacts**")
    ui.page.wait_for_function(r"() => /[1-9]\d*\s+Task runs/.test(document.body.innerText)")
    return ui.page.url


def open_artifact(ui: PrefectUI, key: str) -> None:
    """Open the newest version of an artifact of the run. The link leads to it, or to a list of all versions."""
    run_page = ui.page.url
    link = ui.page.get_by_role("link", name=re.compile(rf" {key} "))

    def left() -> bool:
        if ui.page.url == run_page:
            link.first.click()
        return happens_soon(ui, lambda: ui.page.url != run_page)

    wait_until(left, seconds=PATIENCE_SECONDS, otherwise=ui.text)
    if "/artifacts/artifact/" not in ui.page.url:
        ui.page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    ui.page.wait_for_url("**/artifacts/artifact/**")


def published(server: S3Server, bucket: str) -> list[str]:
    """The manifests of the model's builds."""
    return [key for key in server.keys(bucket) if re.fullmatch(rf"prod/models/{MODEL}/builds/[^/]+/manifest.json", key)]


def test_a_build_is_started_from_the_form_and_ends_with_its_artifacts(
    prefect_ui: PrefectUI, deployed: Service, s3_server: S3Server, registry: str
) -> None:
    ui = prefect_ui
    open_form(ui)
    ui.see("The target's name in plans, builds and channels.")
    assert {"float32", "int4", "fp8"} <= set(ui.choices("Precision"))
    assert "tensorrt" in ui.choices("Backend")
    ui.field("Name").fill(MODEL)
    ui.page.get_by_role("tab", name="Publish", exact=True).click()
    ui.field("To").fill(f"s3://{registry}/prod")
    ui.page.get_by_text("Targets", exact=True).evaluate("label => label.scrollIntoView()")
    pictures = [ui.picture("form")]
    submit(ui)

    wait_for_end(deployed)
    assert open_run(ui) == "Completed"
    run_page = open_artifacts(ui)
    ui.see(f"builds-{MODEL}")
    pictures.append(ui.picture("run"))
    for key, content in {
        f"plan-{MODEL}": "gates cpu-fp32",
        f"validation-{MODEL}-cpu-int4": "huit neuf",
        f"gates-{MODEL}-cpu-int4": "agreement on the most likely token",
        f"builds-{MODEL}": f"s3://{registry}/prod/models/{MODEL}/builds/",
    }.items():
        open_artifact(ui, key)
        ui.see(content)
        if key.startswith("plan"):
            pictures.append(ui.picture("artifacts"))
        ui.page.goto(run_page)
    assert len(published(s3_server, registry)) == 2
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
