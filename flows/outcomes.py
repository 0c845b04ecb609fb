"""What a build came to: which steps were done before, which are done now, and what failed."""

import time
from collections.abc import Iterable, Mapping
from functools import partial

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from enginery.core.threads import side_by_side
from enginery.pipeline import BuildSummary, Outcome, Plan, PlannedStep, find_valid
from enginery.pipeline.flows.failures import failure, parts_of
from enginery.pipeline.tasks.schedule import Results
from enginery.store import StepRecord, Store


def done_already(steps: Iterable[PlannedStep], store: Store) -> dict[str, StepRecord]:
    """The records of the steps whose results are in the store, by key. What Prefect's cache says does not matter."""
    found = side_by_side(partial(find_valid, store=store), steps)
    return {record.key: record for record in found if record is not None}


def outcomes_of(plan: Plan, done: Mapping[str, StepRecord], results: Results) -> dict[str, Outcome]:
    """The outcome of each step that was finished in this process, by step id, in the plan's order."""
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


def with_remote_outcomes(
    plan: Plan, done: Mapping[str, StepRecord], outcomes: Mapping[str, Outcome], store: Store
) -> dict[str, Outcome]:
    """These outcomes, and from the store those of the steps that other machines have finished."""
    remote = [planned for planned in plan.steps if planned.id not in outcomes]
    found = {**done, **done_already((planned for planned in remote if planned.key not in done), store)}
    more = {
        planned.id: Outcome.of(planned, found[planned.key], ran=planned.key not in done)
        for planned in remote
        if planned.key in found
    }
    every = {**outcomes, **more}
    return {planned.id: every[planned.id] for planned in plan.steps if planned.id in every}


def summary_of(plan: Plan, outcomes: Mapping[str, Outcome], started: float) -> BuildSummary:
    """The summary of the current flow run, which began at `started` by the monotonic clock."""
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
