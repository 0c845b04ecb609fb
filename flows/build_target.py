"""A flow that builds some targets of a plan, on a machine with their GPU. `build-model` starts its runs."""

import time
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from enginery.pipeline import BuildSummary, load_plan, require_disk_space, require_prepared
from enginery.pipeline.flows.build import TASK_RUNNER, done_already, failure_of, outcomes_of, run_jobs, summary_of
from enginery.pipeline.flows.failures import announce_failure
from enginery.pipeline.flows.fan_out import part_for
from enginery.pipeline.tasks.cancellation import ends_when_cancelled
from enginery.pipeline.tasks.pool_run import FLOW, lock_of_run
from enginery.pipeline.tasks.progress import run_log
from enginery.pipeline.tasks.schedule import step_jobs
from enginery.pipeline.tasks.stages import require_result_storage
from enginery.store import open_store


@flow(
    name=FLOW,
    description="Build some targets of a plan on this machine. `build-model` starts it, for each pool of machines.",
    task_runner=TASK_RUNNER,
    persist_result=True,
    on_failure=[announce_failure],
)
@ends_when_cancelled
def build_target(
    plan: str,
    targets: list[str],
    store: str | None = None,
    targets_at_once: Annotated[int, Field(ge=1)] = 1,
) -> BuildSummary:
    """Run the steps of some targets.

    Args:
        plan: digest of the plan; build-model has saved the plan in the store under this digest.
        targets: names of the targets to build.
        store: where step outputs live: a directory, or s3://bucket/prefix; the local store when left out.
        targets_at_once: how many steps are at work at the same time.

    Raises:
        EngineryError: the error of the step that failed, or a list if several failed. All other targets are finished.
    """
    started, log, opened = time.monotonic(), run_log(), open_store(store)
    with opened.lock(lock_of_run(flow_run.get_id())):
        require_result_storage()
        whole = load_plan(plan, opened)
        part = whole.model_copy(update={"steps": part_for(whole, targets)})
        done = done_already(part.steps, opened)
        log(f"{len(part.steps)} steps for {', '.join(targets)}; {len(done)} already done")
        require_disk_space(part, done, store)
        require_prepared((planned for planned in part.steps if planned.key not in done), store)
        results = run_jobs(step_jobs(part.steps, done), opened, done, log, targets_at_once)
    if results.errors:
        raise failure_of(part, results)
    return summary_of(part, outcomes_of(part, done, results), started)
