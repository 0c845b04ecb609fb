"""Why a step must run: what differs from the nearest step of its stage that the store has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from enginery.plan import Plan, PlannedStep
from enginery.records import StepRecord
from enginery.steps import Step

Differences = dict[str, tuple[object, object]]


def explain(plan: Plan, done: Mapping[str, StepRecord], records: Iterable[StepRecord]) -> dict[str, tuple[str, ...]]:
    """For each step of the plan that must run: its id -> the reasons, one sentence each.

    Args:
        plan: the plan.
        done: the records of the plan's steps that the store has, by key.
        records: every record in the store.
    """
    names = {step.key: step.id for step in plan.steps}
    known = list(records)
    return {step.id: tuple(_reasons(step, known, names)) for step in plan.steps if step.key not in done}


def _reasons(planned: PlannedStep, known: Sequence[StepRecord], names: Mapping[str, str]) -> Iterator[str]:
    rivals = [record for record in known if record.step.stage is planned.step.stage]
    if not rivals:
        yield f"the store has no {planned.step.stage} step yet"
        return
    nearest = min(rivals, key=lambda record: len(differences(record.step, planned.step)))
    for field, (before, now) in differences(nearest.step, planned.step).items():
        if field.startswith("inputs.") and isinstance(now, str):
            yield f"{field}: {names.get(now, now[:12])} is new (the nearest, {nearest.label}, had {str(before)[:12]})"
        else:
            yield f"{field}: {_short(before)} -> {_short(now)} (nearest: {nearest.label}, {nearest.key[:12]})"


def differences(before: Step, now: Step) -> Differences:
    """Dotted field -> (value before, value now), for every field that differs; None where there is none."""
    old, new = (dict(_leaves(step.model_dump(mode="json"))) for step in (before, now))
    fields = list(new) + [field for field in old if field not in new]
    return {field: (old.get(field), new.get(field)) for field in fields if old.get(field) != new.get(field)}


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


LONGEST_VALUE = 60
