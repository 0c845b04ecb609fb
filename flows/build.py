"""The pipeline as a Prefect flow: one spec in, one published build per target out."""

import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field

from enginery.builds import read_report
from enginery.core.threads import side_by_side
from enginery.pipeline import (
    BuildSummary,
    Outcome,
    Plan,
    PlannedStep,
    find_valid,
    make_plan,
    read_pools,
    require_prepared,
    require_room,
    with_last_builds,
)
from enginery.pipeline.flows.artifacts import Sender, build_artifacts, plan_artifacts, validation_artifact
from enginery.pipeline.flows.failures import announce_failure, failure, parts_of
from enginery.pipeline.flows.fan_out import FanOut, batches, require_pools, stays_here
from enginery.pipeline.flows.steps import TASK_RUNNER, Job, Results, require_result_storage, run_here, step_jobs
from enginery.pipeline.tasks.logs import run_log
from enginery.spec import Spec
from enginery.store import Stage, StepRecord, Store, open_store

# What a build came to: which steps were done before, which now, and what failed.


def done_already(plan: Plan, store: Store) -> dict[str, StepRecord]:
    """The steps whose results are there, whatever Prefect's cache remembers: key -> record."""
    return _found(plan.steps, store)


def _found(steps: Iterable[PlannedStep], store: Store) -> dict[str, StepRecord]:
    found = side_by_side(partial(find_valid, store=store), steps)
    return {record.key: record for record in found if record is not None}


def outcomes_of(plan: Plan, done: Mapping[str, StepRecord], results: Results) -> dict[str, Outcome]:
    """How each step that was finished in this process came to be so, in the plan's order: step id -> outcome."""
    outcomes: dict[str, Outcome] = {}
    for planned in plan.steps:
        if planned.id not in results.values:
            continue
        outcome: Outcome = results.values[planned.id]
        if planned.id in results.cached:
            record = done.get(planned.key)
            outcome = Outcome.of(planned, record, ran=False) if record else outcome.model_copy(update={"ran": False})
        outcomes[planned.id] = outcome
    return outcomes


def with_those_elsewhere(
    plan: Plan, done: Mapping[str, StepRecord], outcomes: Mapping[str, Outcome], store: Store
) -> dict[str, Outcome]:
    """These outcomes and those of the steps that other machines have finished, as the store has them."""
    elsewhere = [planned for planned in plan.steps if planned.id not in outcomes]
    found = {**done, **_found((planned for planned in elsewhere if planned.key not in done), store)}
    more = {
        planned.id: Outcome.of(planned, found[planned.key], ran=planned.key not in done)
        for planned in elsewhere
        if planned.key in found
    }
    every = {**outcomes, **more}
    return {planned.id: every[planned.id] for planned in plan.steps if planned.id in every}


def failure_of(plan: Plan, results: Results) -> Exception:
    """One error for all that failed, here and in the runs on other machines."""
    labels = {planned.id: planned.label for planned in plan.steps}
    errors: dict[str, Exception] = {}
    skipped = [labels[name] for name in results.skipped if name in labels]
    for name, error in results.errors.items():
        parts = parts_of(error)
        errors |= parts.errors if parts else {labels.get(name, name): error}
        skipped += parts.skipped if parts else ()
    return failure(errors, list(dict.fromkeys(skipped)))


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
    done = done_already(plan, opened)
    log(f"{len(plan.steps)} steps for {', '.join(target.name for target in plan.targets)}; {len(done)} already done")
    here = plan if spread is None else plan.model_copy(update={"steps": tuple(filter(stays_here, plan.steps))})
    require_room(here, done, address)
    require_prepared(planned for planned in plan.steps if planned.key not in done)
    with Sender() as sender:
        sender.send(*plan_artifacts(plan, done))
        results = run_here(_jobs(here, spread, opened, done), log)
        outcomes = outcomes_of(plan, done, results)
        if spread is not None:
            outcomes = with_those_elsewhere(plan, done, outcomes, opened)
        sender.send(*_validation_artifacts(plan, opened, results), *build_artifacts(plan, outcomes))
    summary = BuildSummary(
        name=spec.name,
        steps=tuple(outcomes.values()),
        seconds=round(time.monotonic() - started, 3),
        run_url=url_for("flow-run", obj_id=flow_run.get_id()),
    )
    if results.errors:
        raise failure_of(plan, results)
    get_run_logger().info("%s", summary.sentence)  # the command line prints the summary itself
    return summary


def _spread(plan: Plan, pools: str | None, address: str | None, wait_for_worker: float) -> FanOut | None:
    """How the build is spread over work pools, where there are some; they are there, or nothing is begun."""
    if not pools:
        return None
    parts = batches(plan, read_pools(Path(pools)))
    require_pools((batch.pool for batch in parts), subject=pools)
    return FanOut(plan, parts, str(flow_run.get_id()), address, wait_for_worker)


def _jobs(here: Plan, spread: FanOut | None, store: Store, done: dict[str, StepRecord]) -> dict[str, Job]:
    jobs = step_jobs(here.steps, store, done)
    return jobs if spread is None else spread.jobs(jobs, store, done)


def _validation_artifacts(plan: Plan, store: Store, results: Results) -> list[Any]:
    """The reports of the validations that came to an end, those that did not pass among them."""
    artifacts = []
    for planned in plan.steps:
        if planned.step.stage is not Stage.VALIDATE or planned.id in results.skipped:
            continue
        record = store.find(planned.key)
        if record is None:
            continue
        with TemporaryDirectory(prefix="enginery-") as scratch:
            store.fetch(record, Path(scratch) / "report")
            report = read_report(Path(scratch) / "report")
        artifacts += [validation_artifact(plan.spec.name, target, report) for target in planned.targets]
    return artifacts
