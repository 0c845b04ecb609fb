"""The pipeline as a Prefect flow: one spec in, one published build per target out.

`run_jobs` submits the tasks. Those of a target: download, convert, build, validate, package, publish, rollout.
"""

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from enginery.core.progress import Log
from enginery.pipeline import (
    BuildSummary,
    Plan,
    make_plan,
    read_pools,
    require_disk_space,
    require_prepared,
    with_last_builds,
)
from enginery.pipeline.flows.artifacts import Sender, build_artifacts, plan_artifacts, validation_artifacts
from enginery.pipeline.flows.failures import announce_failure
from enginery.pipeline.flows.fan_out import FanOut, batches, require_pools, stays_local
from enginery.pipeline.flows.outcomes import done_already, failure_of, outcomes_of, summary_of, with_remote_outcomes
from enginery.pipeline.tasks.interrupt import interrupting_steps
from enginery.pipeline.tasks.pool_run import PoolRun, on_pool
from enginery.pipeline.tasks.progress import run_log
from enginery.pipeline.tasks.schedule import MAX_WORKERS, Job, Results, Schedule, step_jobs
from enginery.pipeline.tasks.stages import prepare_toolchain, require_result_storage, tasks_in
from enginery.spec import Spec
from enginery.store import Store, open_store
from enginery.toolchains import ToolchainIdentity

TASK_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1024)
"""Enough threads for all tasks. `Schedule` limits how many work; each run on another machine needs a thread, too."""

WAIT_FOR_WORKER_SECONDS = 900


def _run_name() -> str:
    """A name such as `tiny-llama: cpu, cpu-int4`."""
    spec = Spec.model_validate(flow_run.get_parameters()["spec"])
    return f"{spec.name}: {', '.join(target.name for target in spec.targets)}"


@flow(
    name="build-model",
    description="Build, check, publish and roll out the engines of one spec. Finished steps are not done again.",
    flow_run_name=_run_name,
    task_runner=TASK_RUNNER,
    persist_result=True,
    on_failure=[announce_failure],
)
def build_model(
    spec: Spec,
    store: str | None = None,
    pools: str | None = None,
    wait_for_worker_seconds: Annotated[float, Field(gt=0)] = WAIT_FOR_WORKER_SECONDS,
) -> BuildSummary:
    """Run the pipeline for a spec.

    Args:
        spec: what to build; see the spec reference.
        store: where step outputs live: a directory, or s3://bucket/prefix. When left out: ENGINERY_STORE of the worker,
            or its local store.
        pools: a pools file such as infra/pools.yaml: each target is built by the workers of its GPU's pool. When left
            out: ENGINERY_POOLS of the worker, or all is built in this one run.
        wait_for_worker_seconds: how long a pool may be without a worker before the build gives up.

    Raises:
        EngineryError: the one thing that failed, or a list of all that did; other targets have been finished.
    """
    started, log = time.monotonic(), run_log()
    address = store or os.environ.get("ENGINERY_STORE") or None
    opened = open_store(address)
    plan = with_last_builds(make_plan(spec), opened)
    spread = _spread(plan, pools or os.environ.get("ENGINERY_POOLS"), address, wait_for_worker_seconds)
    require_result_storage()
    done = done_already(plan.steps, opened)
    log(f"{len(plan.steps)} steps for {', '.join(target.name for target in plan.targets)}; {len(done)} already done")
    local = plan if spread is None else plan.model_copy(update={"steps": tuple(filter(stays_local, plan.steps))})
    require_disk_space(local, done, address)
    require_prepared(planned for planned in plan.steps if planned.key not in done)
    with Sender() as sender:
        sender.send(*plan_artifacts(plan, done))
        jobs = step_jobs(local.steps, done)
        results = run_jobs(jobs if spread is None else spread.jobs(jobs, opened, done), opened, done, log)
        outcomes = outcomes_of(plan, done, results)
        if spread is not None:
            outcomes = with_remote_outcomes(plan, done, outcomes, opened)
        sender.send(*validation_artifacts(plan, opened, results.skipped), *build_artifacts(plan, outcomes))
    summary = summary_of(plan, outcomes, started)
    if results.errors:
        raise failure_of(plan, results)
    get_run_logger().info("%s", summary.sentence)  # the command line prints the summary itself
    return summary


def run_jobs(
    jobs: Mapping[str, Job], store: Store, done: Collection[str], log: Log, at_once: int = MAX_WORKERS
) -> Results:
    """Submit the task of each job after the tasks it needs, and return when the last has ended.

    Args:
        jobs: by their ids, in the order in which they should begin.
        store: where the outputs of steps go.
        done: the keys of the steps that are done. Any other step runs, whatever is in Prefect's cache.
        log: takes a line for each job that ends.
        at_once: how many tasks may be at work on this machine at the same time.
    """
    stages, schedule = tasks_in(store), Schedule(jobs, log, at_once)
    with interrupting_steps():
        for name, job, inputs in schedule:
            future: PrefectFuture[Any]
            match job.work:
                case ToolchainIdentity() as identity:
                    future = prepare_toolchain.submit(identity, wait_for=inputs, return_state=False)
                case PoolRun() as run:
                    future = on_pool.submit(run, wait_for=inputs, return_state=False)
                case planned:
                    task = stages[planned.step.stage].with_options(refresh_cache=planned.key not in done)
                    future = task.submit(planned, store, wait_for=inputs, return_state=False)
            schedule.submitted(name, future)
    return schedule.results


def _spread(plan: Plan, pools: str | None, address: str | None, wait_for_worker: float) -> FanOut | None:
    """How the build is spread over work pools; None without a pools file. All pools must be on Prefect's server."""
    if not pools:
        return None
    parts = batches(plan, read_pools(Path(pools)))
    require_pools((batch.pool for batch in parts), subject=pools)
    return FanOut(plan, parts, str(flow_run.get_id()), address, wait_for_worker)
