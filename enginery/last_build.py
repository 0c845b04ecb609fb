"""What a plan for another release than the last build's changes without the spec being changed."""

from collections.abc import Iterator, Mapping

from enginery.plan import Plan, PlannedStep, PlannedTarget
from enginery.records import StepRecord
from enginery.spec import BackendName
from enginery.steps import Stage, Step
from enginery.store import Store


def with_last_builds(plan: Plan, store: Store) -> Plan:
    """The plan with a note on every build field that is unset and means something else than in the last build.

    Only targets of the backend `tensorrt` are looked at: other backends' fields mean the same in each release.
    """
    engines = [target for target in plan.targets if target.backend == BackendName.TENSORRT]
    if not engines:
        return plan
    known = {record.key: record for record in store.records()}
    notes = [note for target in engines for note in _notes(plan, target, known)]
    return plan.model_copy(update={"notes": (*plan.notes, *notes)})


def _notes(plan: Plan, target: PlannedTarget, known: Mapping[str, StepRecord]) -> Iterator[str]:
    planned = next(step for step in plan.steps if step.step.stage is Stage.BUILD and target.name in step.targets)
    last = _last_build(planned, plan, known)
    old = _release(last.step) if last else target.release
    if old != target.release:
        yield from _changes(plan, target.name, old, target.release)


def _changes(plan: Plan, name: str, old: str, new: str) -> Iterator[str]:
    from enginery.backends.tensorrt.build_options import unset_changes  # noqa: PLC0415  most plans need none of it

    target = next(target for target in plan.spec.targets if target.name == name)
    for change in unset_changes(plan.spec.build_for(target), old, new):
        yield f"{name}: the last build was for {old}; unset in the spec: {change}"


def _last_build(planned: PlannedStep, plan: Plan, known: Mapping[str, StepRecord]) -> StepRecord | None:
    """The newest build of the same target from the same place."""
    wanted = _source(planned.step, {step.key: step.step for step in plan.steps})
    steps = {key: record.step for key, record in known.items()}
    builds = [
        record
        for record in known.values()
        if record.step.stage is Stage.BUILD
        and record.label in {f"build {name}" for name in planned.targets}
        and _release(record.step)
        and _source(record.step, steps) == wanted
    ]
    return max(builds, key=lambda record: record.started, default=None)


def _release(step: Step) -> str:
    return str(step.recipe.parameters.get("release", ""))


def _source(step: Step, steps: Mapping[str, Step]) -> object:
    """Where the weights of a step came from: the kind of source and its address, whatever the commit."""
    while step.inputs:
        found = [steps[key] for key in step.inputs.values() if key in steps]
        if not found:
            return None
        step = found[0]
    return step.recipe.parameters.get("kind"), step.recipe.parameters.get("location")
