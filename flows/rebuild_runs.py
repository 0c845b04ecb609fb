"""Starting the builds of a new release as runs of a deployment: each once, however often it is asked for."""

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from enginery.watch.rebuilds import Rebuild
from enginery.watch.report import RebuildRun

TAG = "rebuild"


def start_rebuild(rebuild: Rebuild, deployment: str, store: str | None) -> RebuildRun:
    """Have a rebuild run, or find the run that an earlier watch started; it is not waited for.

    The server holds one run for a key, so two watches at once start one run as well. What the server does not answer is
    told as the reason.
    """
    told = RebuildRun(spec=rebuild.spec.name, release=rebuild.release, targets=rebuild.targets, key=rebuild.key)
    try:
        if not _is_deployed(deployment):
            return told.model_copy(update={"reason": f"this Prefect server has no deployment {deployment}"})
        before = _runs(rebuild.key)
        run = before[0] if before else _start(rebuild, deployment, store)
    except httpx.HTTPError as error:  # the others are started all the same
        return told.model_copy(update={"reason": f"could not be started: {error}", "failed": True})
    return told.model_copy(
        update={
            "run_id": str(run.id),
            "state": run.state_name or "",
            "url": url_for("flow-run", obj_id=run.id) or "",
            "started_now": not before,
        }
    )


def report_rebuild(rebuild: Rebuild) -> RebuildRun:
    """The rebuild as it would be started."""
    told = RebuildRun(spec=rebuild.spec.name, release=rebuild.release, targets=rebuild.targets, key=rebuild.key)
    return told.model_copy(update={"reason": "the watch is told to report only"})


def _start(rebuild: Rebuild, deployment: str, store: str | None) -> FlowRun:
    parameters = {"spec": rebuild.spec.model_dump(mode="json", exclude_unset=True), "store": store}
    run = run_deployment(
        deployment,
        parameters={name: value for name, value in parameters.items() if value is not None},
        flow_run_name=f"{rebuild.spec.name}: rebuild for {rebuild.release}",
        tags=[TAG, f"release {rebuild.release}"],
        idempotency_key=rebuild.key,
        as_subflow=False,
        timeout=0,
    )
    assert isinstance(run, FlowRun)  # noqa: S101  it is a coroutine only inside an event loop
    return run


def _is_deployed(deployment: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return False
    return True


def _runs(key: str) -> list[FlowRun]:
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=wanted, limit=1)
