"""Looks, before any work begins, whether the places outside this machine can be used that a build needs at its end."""

from collections.abc import Callable, Iterable
from functools import partial

from enginery.core.errors import EngineryError, PlanError
from enginery.pipeline.functions import find_preparation_check
from enginery.pipeline.plan import Plan, PlannedStep
from enginery.store import Call, require_usable_store


def require_prepared(steps: Iterable[PlannedStep], store: str | None = None) -> None:
    """Check that everything exists, and can be used, that the steps to run need outside their inputs.

    This includes the buckets: a small object is written, read and removed in each of them. Without steps, nothing is
    checked.

    Args:
        steps: the steps that will run.
        store: the address of their store; None for the local store.

    Raises:
        EngineryError: for what is missing, such as a bucket.
        PlanError: when several things are missing; it lists all of them.
    """
    to_run = list(steps)
    checks: list[Callable[[], object]] = [partial(require_usable_store, store)] if to_run else []
    for recipe in (planned.step.recipe for planned in to_run):
        if isinstance(recipe, Call) and (check := find_preparation_check(recipe)):
            checks += [partial(check, recipe.parameters)]
    found = _failures(checks)
    if len(found) == 1:
        raise found[0]
    if found:
        raise PlanError([_one_line(error) for error in found], subject="what the steps need") from found[0]


def with_inputs(planned: PlannedStep, plan: Plan) -> list[PlannedStep]:
    """A step and all steps that it needs, in the plan's order."""
    keys = {planned.key}
    for step in reversed(plan.steps):  # a plan has the inputs of a step before it
        if step.key in keys:
            keys.update(step.step.inputs.values())
    return [step for step in plan.steps if step.key in keys]


def _failures(checks: Iterable[Callable[[], object]]) -> list[EngineryError]:
    """The error of each check that fails. After a server that cannot be reached, no other check has to wait for it."""
    found: dict[str, EngineryError] = {}
    for check in checks:
        try:
            check()
        except EngineryError as error:
            found.setdefault(str(error), error)
            if error.transient:
                break
    return list(found.values())


def _one_line(error: EngineryError) -> str:
    where = f"{error.subject}: " if error.subject else ""
    return f"{where}{error.problem}" + (f"; {error.remedy}" if error.remedy else "")
