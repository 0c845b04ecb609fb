"""Tests of the release watch on a real Prefect server, with the live package index and a recorded one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL

from enginery.core.errors import EngineryError, ToolchainError
from enginery.core.process.service import Service
from enginery.pipeline.flows.release_watch import watch_releases
from enginery.pipeline.promotion import Decision, WatchReport
from enginery.pipeline.verdict import Kind
from enginery.registry import Registry, publish
from enginery.releases.index import Listing, listed_releases
from enginery.spec.spec import Spec
from tests.support.http.package_index import PackageIndex, package_index
from tests.support.plans.watched import CPU, WHEEL, watched_spec
from tests.support.prefect.deployments import POOL
from tests.support.registry.builds import QUESTION, Build
from tests.support.s3.fixtures import bucket, server
from tests.support.waiting import wait_until

__all__ = ["bucket", "package_index", "server"]

pytestmark = pytest.mark.usefixtures("prefect_api")

CHECKOUT = Path(__file__).parents[3]
OLD = {"name": "engine", "release": "1.1.0", "toolchain": "container"}
PYTORCH = {"name": "checkpoint", "backend": "pytorch", "release": "1.1.0"}


@pytest.fixture
def worker(deployed_flows: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """A worker that runs the deployments."""
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    settings = os.environ | deployed_flows | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    service = Service.start(argv, env=settings, cwd=CHECKOUT, log_file=tmp_path / "worker.log")
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(autouse=True)
def _no_run_is_left_for_a_later_worker(prefect_api: str) -> Iterator[None]:
    """Delete the runs that a test has scheduled."""
    yield
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=["rebuild"]))
    with get_client(sync_client=True) as client:
        for found in client.read_flow_runs(flow_run_filter=wanted, limit=200):
            client.delete_flow_run(found.id)


def write(spec: Spec, directory: Path) -> str:
    path = directory / f"{spec.name}.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    return str(path)


def rebuild_runs(release: str, name: str) -> list[FlowRun]:
    """All runs that were started for a release of a spec."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=["rebuild", f"release {release}"]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=wanted, limit=200)
    return [one for one in found if one.parameters["spec"]["name"] == name]


def has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def table(key: str) -> str:
    """The newest artifact with this key."""
    found = httpx.get(f"{PREFECT_API_URL.value()}/artifacts/{key}/latest").raise_for_status().json()
    return str(found["data"])


def kinds(report: WatchReport) -> dict[tuple[str, str], Kind]:
    return {(one.target, one.release): one.kind for one in report.verdicts}


def recorded(index: PackageIndex) -> None:
    """TensorRT-LLM with two new releases (one no longer builds engines), a yanked release and a preview."""
    index.add("tensorrt-llm", *(WHEEL.format(release) for release in ("1.0.0", "1.1.0", "1.2.1", "1.4.0")))
    index.add("tensorrt-llm", WHEEL.format("1.5.0"), yanked="broken")
    index.add("tensorrt-llm", WHEEL.format("1.6.0rc1"), "tensorrt_llm-banana.tar.gz")


@pytest.mark.usefixtures("deployed_flows")
def test_a_new_release_is_built_once_however_often_it_is_watched(
    package_index: PackageIndex, bucket: str, tmp_path: Path
) -> None:
    recorded(package_index)
    spec = watched_spec(OLD, PYTORCH, to=f"s3://{bucket}/engines", name="recorded")
    reports = [watch_releases([write(spec, tmp_path)]) for _ in range(3)]
    assert kinds(reports[0]) == {
        ("engine", "1.4.0"): Kind.CHECKPOINT_ONLY,
        ("engine", "1.2.1"): Kind.REBUILD,
        ("checkpoint", "1.4.0"): Kind.REBUILD,
    }
    assert [report.verdicts for report in reports] == [reports[0].verdicts] * 3
    assert [[one.started_now for one in report.rebuilds] for report in reports] == [
        [True] * 2,
        [False] * 2,
        [False] * 2,
    ]
    for release, target in (("1.2.1", "engine"), ("1.4.0", "checkpoint")):
        (started,) = rebuild_runs(release, "recorded")
        built = started.parameters["spec"]
        assert [(one["name"], one["release"]) for one in built["targets"]] == [(target, release)]
        assert built["publish"]["channel"] == "rebuild"
        assert "last release with an engine builder" in table("release-verdicts")
    assert "1.5.0" not in table("release-verdicts")


@pytest.mark.usefixtures("deployed_flows")
def test_two_watches_at_once_start_one_build(package_index: PackageIndex, bucket: str, tmp_path: Path) -> None:
    """Two processes both find that there is no run yet, as with a doubled schedule."""
    recorded(package_index)
    file = write(watched_spec(OLD, to=f"s3://{bucket}/engines", name="doubled"), tmp_path)
    script = f"from enginery.pipeline.flows.release_watch import watch_releases; watch_releases([{file!r}])"
    settings = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(CHECKOUT)}
    log_files = [tmp_path / f"{number}.log" for number in range(2)]
    both = [Service.start([sys.executable, "-c", script], env=settings, log_file=file) for file in log_files]
    try:
        wait_until(lambda: not any(one.alive() for one in both), seconds=200)
    finally:
        for one in both:
            one.stop()
    assert all("1 builds started" in file.read_text() or "0 builds started" in file.read_text() for file in log_files)
    assert len(rebuild_runs("1.2.1", "doubled")) == 1


@pytest.fixture(scope="module")
def live() -> Listing:
    """The list of the user's own index. If it does not answer, the test is skipped."""
    try:
        return listed_releases("tensorrt-llm")
    except ToolchainError as error:
        if not error.transient:
            raise
        pytest.skip(f"no package index can be reached: {error}")


@pytest.mark.usefixtures("deployed_flows")
def test_the_live_index_gives_the_same_verdicts_and_one_build_when_watched_twice(
    live: Listing, bucket: str, tmp_path: Path
) -> None:
    stubs = {**PYTORCH, "release": "1.0.0"}
    spec = watched_spec(OLD, stubs, {**OLD, "name": "nine", "release": "9.9.9"}, to=f"s3://{bucket}/e", name="live")
    first, second = (watch_releases([write(spec, tmp_path)]) for _ in range(2))
    assert first.verdicts == second.verdicts
    (built,) = [one for one in first.verdicts if one.kind is Kind.REBUILD and one.target == "engine"]
    assert live.find(built.release) in live.usable()
    (missing,) = [one for one in first.verdicts if one.target == "nine"]
    assert missing.kind is Kind.NO_SUCH_RELEASE
    assert len(rebuild_runs(built.release, "live")) == 1
    assert [one.started_now for one in second.rebuilds] == [False] * len(first.rebuilds)
    newest = live.usable()[-1]
    (verdict,) = [one for one in first.verdicts if one.target == "checkpoint" and one.release == newest.release]
    assert verdict.kind is (Kind.REBUILD if newest.has_wheel_for("3.12") else Kind.NO_TOOLCHAIN)


def test_the_live_index_lists_tensorrt_llm_and_onnxruntime_genai(live: Listing) -> None:
    assert {"0.8.0", "0.16.0", "1.2.1"} <= {one.release for one in live.usable()}
    assert any(one.is_prerelease for one in live.releases)
    assert "0.18.0" in {one.release for one in listed_releases("onnxruntime-genai").usable()}


def test_a_watch_that_only_reports_starts_nothing(package_index: PackageIndex, bucket: str, tmp_path: Path) -> None:
    recorded(package_index)
    spec = watched_spec(OLD, to=f"s3://{bucket}/engines", name="reported")
    report = watch_releases([write(spec, tmp_path)], report_only=True)
    assert [one.reason for one in report.rebuilds] == ["the watch only reports: report_only is set"]
    assert not rebuild_runs("1.2.1", "reported")


def test_a_server_without_the_builder_is_said_to_have_none(
    package_index: PackageIndex, bucket: str, tmp_path: Path
) -> None:
    recorded(package_index)
    spec = watched_spec(OLD, to=f"s3://{bucket}/engines", name="alone")
    report = watch_releases([write(spec, tmp_path)], builder="build-model/nowhere")
    assert "no deployment build-model/nowhere" in report.rebuilds[0].reason


def test_a_spec_that_does_not_say_so_is_not_watched(package_index: PackageIndex, tmp_path: Path) -> None:
    spec = watched_spec(OLD, name="unwatched", watch=False)
    assert not watch_releases([write(spec, tmp_path)]).verdicts
    assert not package_index.requests


def test_an_index_of_garbage_fails_the_run_after_all_else_is_done(
    package_index: PackageIndex, bucket: str, tmp_path: Path
) -> None:
    package_index.answer("tensorrt-llm", 200, "<html>Sign in</html>")
    package_index.add("onnxruntime-genai", "onnxruntime_genai-0.18.0-cp311-cp311-manylinux_2_28_x86_64.whl")
    spec = watched_spec(OLD, {**CPU, "release": "0.18.0"}, to=f"s3://{bucket}/engines", name="garbage")
    with pytest.raises(EngineryError, match="does not answer as a package index does") as caught:
        watch_releases([write(spec, tmp_path)])
    assert "garbage/engine" in str(caught.value)
    assert "garbage/cpu" not in str(caught.value)
    assert "no newer release" in table("release-verdicts")


def example(to: str, **channel: int) -> Spec:
    """A spec of the example model for the release before the one that has a toolchain."""
    spec = watched_spec({**CPU, "release": "0.17.1"}, to=to, name="tiny-llama")
    prompts: dict[str, Any] = {"prompts": [{"prompt": QUESTION, "contains": "neuf"}], "gates": {"channel": channel}}
    return Spec.model_validate(spec.model_dump(mode="json", exclude_unset=True) | {"validation": prompts})


def publish_old(address: str, directory: Path) -> str:
    """Publish a build of the previous release to the channel: five models. Its engine is a 5.6 kB list of answers."""
    old = Build(build_id="cpu-111111111111", target="cpu")
    target = old.parameters(address)["target"]
    assert isinstance(target, dict)
    directory.mkdir()
    publish(old.context(directory, address, target=target | {"release": "0.17.1"}))
    return old.build_id


def on_channel(address: str, channel: str) -> str:
    pointer = Registry(address).channel("tiny-llama", channel, "cpu")
    assert pointer is not None
    return pointer.build_id


@pytest.mark.timeout(600)  # a real build
@pytest.mark.usefixtures("shared_toolchains")
def test_a_new_release_is_built_compared_and_promoted_if_no_gate_is_worse(
    package_index: PackageIndex, bucket: str, worker: Service, tmp_path: Path
) -> None:
    """Only the index and the old build are not real: a worker builds, and the next watch compares."""
    package_index.add(
        "onnxruntime-genai", *(f"onnxruntime_genai-{one}-py3-none-any.whl" for one in ("0.17.1", "0.18.0"))
    )
    address = f"s3://{bucket}/engines"
    old = publish_old(address, tmp_path / "old")
    file = write(example(address), tmp_path)
    assert [one.release for one in watch_releases([file]).rebuilds] == ["0.18.0"]
    wait_until(lambda: has_ended(rebuild_runs("0.18.0", "tiny-llama")[0]), seconds=280, longest_pause=1.0)
    assert rebuild_runs("0.18.0", "tiny-llama")[0].state_name == "Completed", worker.last_lines()
    new = on_channel(address, "rebuild")
    refused = watch_releases([file])
    assert not refused.rebuilds
    assert [(one.decision, one.build_id) for one in refused.promotions] == [(Decision.WORSE, new)]
    assert "size: 5.6 kB -> " in refused.promotions[0].reason
    assert on_channel(address, "candidate") == old
    file = write(example(address, larger_percent=100_000), tmp_path)
    (promoted,) = watch_releases([file]).promotions
    assert promoted.decision is Decision.PROMOTED
    assert promoted.comparison is not None
    assert [(one.prompt, one.was_right, one.is_right) for one in promoted.comparison.answers] == [
        (QUESTION, True, True)
    ]
    assert on_channel(address, "candidate") == new
    assert "tiny-llama/" in table("comparison-tiny-llama-cpu")
    assert watch_releases([file]).promotions[0].decision is Decision.ON_CHANNEL
    assert len(rebuild_runs("0.18.0", "tiny-llama")) == 1


@pytest.mark.usefixtures("deployed_flows")
def test_the_deployment_has_a_schedule_and_a_form_that_explains_itself() -> None:
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("watch-releases/watch-releases")
    (schedule,) = found.schedules
    assert schedule.schedule.model_dump()["cron"] == "17 */6 * * *"
    assert found.parameters["specs"] == ["infra/models"]
    form = found.parameter_openapi_schema or {}
    assert set(form["properties"]) == {"specs", "report_only", "store", "builder"}
    assert all(one.get("description") for one in form["properties"].values())
