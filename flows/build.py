"""The pipeline as Prefect flows: one spec in, one published build per target out.

`run_jobs` submits the tasks. A target's tasks are: download, reference, convert, build,
validate, bench, gates, package, publish, rollout.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.urls import url_for
from pydantic import Field

from enginery.core.progress import Log
from enginery.core.threads import side_by_side
from enginery.pipeline import (
    BuildSummary,
    Outcome,
    Plan,
    PlannedStep,
    find_valid,
    make_plan,
    read_pools,
    require_disk_space,
    require_prepared,
    with_last_builds,
)
from enginery.pipeline.flows.artifacts import (
    announce_gates,
    build_artifacts,
    gate_artifacts,
    gate_reports,
    plan_artifacts,
    sending,
    validation_artifacts,
)
from enginery.pipeline.flows.failures import announce_failure, failure, parts_of
from enginery.pipeline.flows.fan_out import FanOut, batches, require_pools, stays_local
from enginery.pipeline.tasks.cancellation import ends_when_cancelled
from enginery.pipeline.tasks.interrupt import interrupting_steps
from enginery.pipeline.tasks.pool_run import PoolRun, on_pool
from enginery.pipeline.tasks.progress import run_log
from enginery.pipeline.tasks.schedule import MAX_WORKERS, Job, Results, Schedule, step_jobs
from enginery.pipeline.tasks.stages import prepare_toolchain, require_result_storage, tasks_in
from enginery.spec import Spec
from enginery.store import StepRecord, Store, open_store
from enginery.toolchains import ToolchainIdentity

TASK_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1024)
"""Enough threads for all tasks; a task that waits for another machine needs one, too. `Schedule` limits the work."""

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
@ends_when_cancelled
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
            out: ENGINERY_POOLS of the worker, or this run builds all targets itself.
        wait_for_worker_seconds: how long a pool may be without a worker before the build gives up.

    Raises:
        EngineryError: the error of the step that failed, or a list if several failed. All other targets are finished.
    """
    started, log = time.monotonic(), run_log()
    address = store or os.environ.get("ENGINERY_STORE") or None
    opened = open_store(address)
    plan = with_last_builds(make_plan(spec, log=log), opened)
    fan_out = _fan_out(plan, pools or os.environ.get("ENGINERY_POOLS"), address, wait_for_worker_seconds)
    require_result_storage()
    done = done_already(plan.steps, opened)
    log(f"{len(plan.steps)} steps for {', '.join(target.name for target in plan.targets)}; {len(done)} already done")
    local = plan if fan_out is None else plan.model_copy(update={"steps": tuple(filter(stays_local, plan.steps))})
    require_disk_space(local, done, address)
    require_prepared((planned for planned in plan.steps if planned.key not in done), address)
    with sending() as send:
        send(plan_artifacts(plan, done))
        jobs = step_jobs(local.steps, done)
        results = run_jobs(jobs if fan_out is None else fan_out.jobs(jobs, opened, done), opened, done, log)
        outcomes = outcomes_of(plan, done, results, opened if fan_out is not None else None)
        gates = gate_reports(plan, opened, results.skipped)
        shown = validation_artifacts(plan, opened, results.skipped) + gate_artifacts(plan, gates)
        send(shown + build_artifacts(plan, outcomes))
        announce_gates(plan, gates)
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
        jobs: id -> job, in the order in which they should begin.
        store: where the outputs of steps go.
        done: the keys of the steps that are done. All other steps run, even if Prefect's cache has a result.
        log: called with a line for each job that ends.
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


def _fan_out(plan: Plan, pools: str | None, address: str | None, wait_for_worker: float) -> FanOut | None:
    """How the build is spread over work pools; None without a pools file. Prefect's server must know all the pools."""
    if not pools:
        return None
    parts = batches(plan, read_pools(Path(pools)))
    require_pools((batch.pool for batch in parts), subject=pools)
    return FanOut(plan, parts, str(flow_run.get_id()), address, wait_for_worker)


def done_already(steps: Iterable[PlannedStep], store: Store) -> dict[str, StepRecord]:
    """Key -> record of each step whose output is in the store. Prefect's cache is not asked."""
    found = side_by_side(partial(find_valid, store=store), steps)
    return {record.key: record for record in found if record is not None}


def outcomes_of(
    plan: Plan, done: Mapping[str, StepRecord], results: Results, shared: Store | None = None
) -> dict[str, Outcome]:
    """Id -> outcome of each finished step, in the plan's order.

    `shared` is the store in which other machines keep the outputs of their steps; None without other machines.
    """
    found = dict(done)
    if shared is not None:
        elsewhere = (step for step in plan.steps if step.id not in results.values and step.key not in done)
        found |= done_already(elsewhere, shared)
    outcomes: dict[str, Outcome] = {}
    for planned in plan.steps:
        if planned.id in results.values and planned.id not in results.cached:
            outcomes[planned.id] = results.values[planned.id]
        elif planned.id in results.values or (shared is not None and planned.key in found):
            outcomes[planned.id] = Outcome.of(planned, found[planned.key], ran=planned.key not in done)
    return outcomes


def summary_of(plan: Plan, outcomes: Mapping[str, Outcome], started: float) -> BuildSummary:
    """The summary of the current flow run; `started` is the monotonic time at its start."""
    return BuildSummary(
        name=plan.spec.name,
        steps=tuple(outcomes.values()),
        seconds=round(time.monotonic() - started, 3),
        run_url=url_for("flow-run", obj_id=flow_run.get_id()),
    )


def failure_of(plan: Plan, results: Results) -> Exception:
    """One error for all that failed, on this machine and in the runs on other machines."""
    labels = {planned.id: planned.label for planned in plan.steps}
    errors: dict[str, Exception] = {}
    skipped = [labels[name] for name in results.skipped if name in labels]
    for name, error in results.errors.items():
        parts = parts_of(error)
        errors |= parts.errors if parts else {labels.get(name, name): error}
        skipped += parts.skipped if parts else ()
    return failure(errors, list(dict.fromkeys(skipped)))
