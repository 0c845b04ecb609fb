"""The release watch as a Prefect flow: what new releases mean, the builds that follow, and what becomes of those."""

from collections.abc import Sequence

from prefect import flow, get_run_logger

from enginery.context import Log
from enginery.errors import EngineryError
from enginery.releases.index import listed_releases
from enginery.releases.listing import Listing
from enginery.spec import Spec
from enginery.watch.fleet import read_fleet, spec_files
from enginery.watch.promoting import promotions
from enginery.watch.rebuilds import rebuilds
from enginery.watch.report import RebuildRun, WatchReport
from enginery.watch.verdicts import Verdict
from enginery.watch.watching import fleet_verdicts
from flows.artifacts import Sender
from flows.failure_events import announce_failure
from flows.rebuild_runs import report_rebuild, start_rebuild
from flows.watch_artifacts import watch_artifacts
from tasks.logs import run_log

FLEET = ("infra/models",)
BUILDER = "build-model/build-model"


@flow(
    name="watch-releases",
    description=(
        "Look for new releases of TensorRT-LLM and ONNX Runtime GenAI in the package index of pip's configuration, have"
        " the fleet built for them, and promote what is not worse."
    ),
    persist_result=False,
    on_failure=[announce_failure],
)
def watch_releases(
    specs: Sequence[str] = FLEET,
    report_only: bool = False,  # noqa: FBT001, FBT002  the form gives parameters by name
    store: str | None = None,
    builder: str = BUILDER,
) -> WatchReport:
    """Look for new releases, and do what the specs' `releases` say.

    Running it twice, or twice at once, changes nothing more than running it once: a build is started under a key that
    is the digest of what it makes, and a channel is only moved to a build that it was not on before. It does not wait
    for the builds: the next run compares and promotes those that have ended.

    Args:
        specs: Spec files, or directories of them. Only specs with `releases.watch` are looked at.
        report_only: Tell the verdicts; start no build and move no channel.
        store: Where the builds keep their steps: a directory or s3://bucket/prefix; the workers' own when left out.
        builder: The deployment that builds a spec, as FLOW/DEPLOYMENT.

    Raises:
        EngineryError: what could not be found out, after all else has been done.
    """
    log = run_log()
    fleet = [spec for spec in read_fleet(spec_files(specs)) if spec.releases.watch]
    log(f"watching releases for {', '.join(spec.name for spec in fleet) or 'no spec: none says releases.watch'}")
    verdicts = fleet_verdicts(fleet, lambda project: _listed(project, log))
    report = WatchReport(
        verdicts=tuple(verdicts),
        promotions=tuple(promotions(fleet, verdicts, report_only=report_only)),
        rebuilds=tuple(_rebuild(fleet, verdicts, builder, store, report_only=report_only)),
    )
    with Sender() as sender:
        sender.send(*watch_artifacts(report))
    _tell(report, log)
    if report.troubles:
        raise _failure(report)
    get_run_logger().info("%s", report.sentence)
    return report


def _listed(project: str, log: Log) -> Listing:
    found = listed_releases(project)
    newest = found.releases[-1].release
    log(f"{project}: {len(found.releases)} releases, the last {newest}, listed by {', '.join(found.asked)}")
    for silent in found.silent:
        log(f"warning: {project}: no answer from {silent}")
    if found.not_numbers:
        log(f"{project}: passed over, as their release is no version number: {', '.join(found.not_numbers)}")
    return found


def _rebuild(
    fleet: Sequence[Spec], verdicts: Sequence[Verdict], builder: str, store: str | None, *, report_only: bool
) -> list[RebuildRun]:
    wanted = rebuilds(fleet, verdicts)
    return [report_rebuild(one) if report_only else start_rebuild(one, builder, store) for one in wanted]


def _tell(report: WatchReport, log: Log) -> None:
    for verdict in report.verdicts:
        log(f"{verdict.spec}/{verdict.target} {verdict.release}: {verdict.kind.value}: {verdict.why}")
    for run in report.rebuilds:
        what = "started" if run.started_now else run.reason or f"was started before, and is {run.state}"
        log(f"rebuild of {run.spec} for {run.release} ({', '.join(run.targets)}): {what} {run.url}".rstrip())
    for one in report.promotions:
        log(f"{one.spec}/{one.build_id}: {one.decision.value}: {one.reason}")


def _failure(report: WatchReport) -> EngineryError:
    listed = "".join(f"\n- {trouble}" for trouble in report.troubles)
    return EngineryError(
        f"not everything could be found out:{listed}",
        subject="watch-releases",
        remedy="correct the causes and run it again; what could be done has been done",
    )
