"""The release watch as a Prefect flow: verdicts on new releases, the builds they lead to, and the promotions.

The builds are started as runs of a deployment, each once: Prefect's server has one run for each idempotency key.
"""

from collections.abc import Sequence
from functools import partial

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.utilities.urls import url_for

from enginery.core.errors import EngineryError
from enginery.core.progress import Log
from enginery.pipeline import (
    Rebuild,
    RebuildRun,
    WatchReport,
    fleet_verdicts,
    promotions,
    read_fleet,
    rebuilds,
    spec_files,
)
from enginery.pipeline.flows.artifacts import watch_artifacts
from enginery.pipeline.flows.failures import announce_failure
from enginery.pipeline.tasks.cancellation import ends_when_cancelled
from enginery.pipeline.tasks.pool_run import find_run, is_deployed
from enginery.pipeline.tasks.progress import run_log
from enginery.releases import Listing, listed_releases
from enginery.sources import resolve

TAG = "rebuild"
FLEET = ("infra/models",)
BUILDER = "build-model/build-model"


@flow(
    name="watch-releases",
    description=(
        "Look for new releases of TensorRT-LLM and ONNX Runtime GenAI in the package index of pip's configuration,"
        " build the fleet for these releases, and promote builds that are not worse."
    ),
    persist_result=False,
    on_failure=[announce_failure],
)
@ends_when_cancelled
def watch_releases(
    specs: Sequence[str] = FLEET,
    report_only: bool = False,  # noqa: FBT001, FBT002  the form gives parameters by name
    store: str | None = None,
    builder: str = BUILDER,
) -> WatchReport:
    """Look for new releases, and act as `releases` in the specs says.

    Two runs change no more than one, even at the same time: a build is started once, under a key with a digest of what
    determines it, and a channel never moves back to a build. The watch does not wait for the builds. The next run
    compares and promotes the finished ones.

    Args:
        specs: Spec files, or directories of them. Only specs with `releases.watch` count.
        report_only: Report the verdicts; start no build and move no channel.
        store: Where the builds keep their steps: a directory or s3://bucket/prefix; the workers' own when left out.
        builder: The deployment that builds a spec, as FLOW/DEPLOYMENT.

    Raises:
        EngineryError: when a verdict, the start of a build, or a promotion failed. All others are done.
    """
    log = run_log()
    fleet = [spec for spec in read_fleet(spec_files(specs)) if spec.releases.watch]
    log(f"watching releases for {', '.join(spec.name for spec in fleet) or 'no spec: none has releases.watch'}")
    verdicts = fleet_verdicts(fleet, lambda project: _listed(project, log), partial(resolve, log=log))
    reported = {"reason": "the watch only reports: report_only is set"}
    report = WatchReport(
        verdicts=tuple(verdicts),
        promotions=tuple(promotions(fleet, verdicts, report_only=report_only)),
        rebuilds=tuple(
            one.run.model_copy(update=reported) if report_only else start_rebuild(one, builder, store)
            for one in rebuilds(fleet, verdicts)
        ),
    )
    for artifact in watch_artifacts(report):
        artifact.create()
    _log_report(report, log)
    if report.troubles:
        raise EngineryError(
            "".join(("some parts of the watch failed:", *(f"\n- {trouble}" for trouble in report.troubles))),
            subject="watch-releases",
            remedy="correct the causes and run it again; everything else is done",
        )
    get_run_logger().info("%s", report.sentence)
    return report


def start_rebuild(rebuild: Rebuild, deployment: str, store: str | None) -> RebuildRun:
    """Start the run of a rebuild, or find the run that an earlier watch started. Does not wait for it.

    The server has one run for each key. So two watches at the same time start only one run. An error of the server
    becomes the reason why no run was started.
    """
    wanted = rebuild.run
    try:
        with get_client(sync_client=True) as client:
            if not is_deployed(deployment, client):
                return wanted.model_copy(update={"reason": f"this Prefect server has no deployment {deployment}"})
            before = find_run(wanted.key, client)
        run = before or _start(rebuild, deployment, store)
    except httpx.HTTPError as error:  # go on with the other rebuilds
        return wanted.model_copy(update={"reason": f"could not be started: {error}", "failed": True})
    url = url_for("flow-run", obj_id=run.id) or ""
    found = {"run_id": str(run.id), "state": run.state_name or "", "url": url, "started_now": not before}
    return wanted.model_copy(update=found)


def _start(rebuild: Rebuild, deployment: str, store: str | None) -> FlowRun:
    parameters = {"spec": rebuild.spec.model_dump(mode="json", exclude_unset=True), "store": store}
    run = run_deployment(
        deployment,
        parameters={name: value for name, value in parameters.items() if value is not None},
        flow_run_name=f"{rebuild.spec.name}: rebuild for {rebuild.run.release}",
        tags=[TAG, f"release {rebuild.run.release}"],
        idempotency_key=rebuild.run.key,
        as_subflow=False,
        timeout=0,
    )
    assert isinstance(run, FlowRun)  # noqa: S101  it is a coroutine only inside an event loop
    return run


def _listed(project: str, log: Log) -> Listing:
    found = listed_releases(project)
    newest = found.releases[-1].release
    log(f"{project}: {len(found.releases)} releases, the last {newest}, listed by {', '.join(found.asked)}")
    for silent in found.silent:
        log(f"warning: {project}: no answer from {silent}")
    if found.not_numbers:
        log(f"{project}: left out, because they are not version numbers: {', '.join(found.not_numbers)}")
    return found


def _log_report(report: WatchReport, log: Log) -> None:
    for verdict in report.verdicts:
        log(f"{verdict.spec}/{verdict.target} {verdict.release}: {verdict.kind.value}: {verdict.why}")
    for run in report.rebuilds:
        what = "started" if run.started_now else run.reason or f"was started before, and is {run.state}"
        log(f"rebuild of {run.spec} for {run.release} ({', '.join(run.targets)}): {what} {run.url}".rstrip())
    for one in report.promotions:
        log(f"{one.spec}/{one.build_id}: {one.decision.value}: {one.reason}")
