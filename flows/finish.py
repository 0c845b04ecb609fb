"""What a build came to: which steps were done before, which now, and what failed."""

from collections.abc import Iterable, Mapping
from functools import partial

from enginery.parallel import side_by_side
from enginery.plan import Plan, PlannedStep
from enginery.records import StepRecord
from enginery.runner import Outcome, find_valid
from enginery.store import Store
from flows.failure import failure, parts_of
from flows.schedule import Results


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
