"""Why a step must run, and what another release means for a spec.

A step is compared with the most similar step of its stage in the store. For a new release, the build options of the
spec are compared with the old release: the fields that the spec sets, and the defaults of all other fields.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from enginery import releases
from enginery.core.late import late
from enginery.pipeline.plan import Plan, PlannedStep, PlannedTarget
from enginery.spec import FLOATS, BackendName, Precision, Spec, Target
from enginery.store import Stage, Step, StepRecord, Store

if TYPE_CHECKING:
    from enginery import backends
    from enginery.backends import RenderedOption
else:
    backends = late("enginery.backends")

Differences = dict[str, tuple[object, object]]
LONGEST_VALUE = 60
Effect = Literal["kept", "new", "translated", "left out", "refused", "gone"]


@dataclass(frozen=True)
class FieldChange:
    """What a new release does with a build field that the spec sets for a target, such as `gemm_plugin`.

    `text` describes the effect, and names what replaces the field.
    """

    target: str
    field: str
    value: Any
    effect: Effect
    text: str


@dataclass(frozen=True)
class SpecChanges:
    """What a new release changes for a spec.

    Attributes:
        fields: the fields that the spec sets.
        unset: new defaults of fields that no target sets, such as `max_batch_size: 1 -> 2048`.
        some_unset: new defaults of fields that only some targets leave unset, each with the names of these targets.
    """

    fields: tuple[FieldChange, ...]
    unset: tuple[str, ...]
    some_unset: tuple[tuple[str, tuple[str, ...]], ...]


def explain_steps(
    plan: Plan, done: Mapping[str, StepRecord], records: Iterable[StepRecord]
) -> dict[str, tuple[str, ...]]:
    """Id of each step that is not `done` -> the reasons why it must run, one sentence each.

    `records` are all records of the store.
    """
    names = {step.key: step.id for step in plan.steps}
    known = list(records)
    return {step.id: tuple(_reasons(step, known, names)) for step in plan.steps if step.key not in done}


def differences(before: Step, now: Step) -> Differences:
    """Dotted name of each field that differs -> its values in `before` and in `now`; None for a missing field."""
    old, new = (dict(_leaves(step.model_dump(mode="json"))) for step in (before, now))
    fields = list(new) + [field for field in old if field not in new]
    return {field: (old.get(field), new.get(field)) for field in fields if old.get(field) != new.get(field)}


def with_last_builds(plan: Plan, store: Store) -> Plan:
    """The plan with a note on each unset build field whose default has changed since the release of the last build.

    Only targets of the backend `tensorrt` get such notes: the fields of other backends mean the same in each release.
    """
    engines = [target for target in plan.targets if target.backend == BackendName.TENSORRT]
    if not engines:
        return plan
    known = {record.key: record for record in store.records()}
    notes = [note for target in engines for note in _notes(plan, target, known)]
    return plan.model_copy(update={"notes": (*plan.notes, *notes)})


def spec_changes(spec: Spec, old: str, new: str) -> SpecChanges:
    """Compare two releases for a spec. Only targets with the backend `tensorrt` or `auto` count.

    Raises:
        UsageError: when a release is older than all known ones.
    """
    targets = [target for target in spec.targets if target.backend in {BackendName.TENSORRT, BackendName.AUTO}]
    fields = tuple(change for target in targets for change in _field_changes(spec, target, old, new))
    unset = {target.name: backends.unset_changes(spec.build_for(target), old, new) for target in targets}
    without = {
        sentence: tuple(name for name, found in unset.items() if sentence in found)
        for found in unset.values()
        for sentence in found
    }
    everywhere = tuple(sentence for sentence, names in without.items() if len(names) == len(targets))
    return SpecChanges(fields, everywhere, tuple(one for one in without.items() if len(one[1]) < len(targets)))


def _reasons(planned: PlannedStep, known: Sequence[StepRecord], names: Mapping[str, str]) -> Iterator[str]:
    same_stage = [record for record in known if record.step.stage is planned.step.stage]
    if not same_stage:
        yield f"the store has no {planned.step.stage} step yet"
        return
    nearest = min(same_stage, key=lambda record: len(differences(record.step, planned.step)))
    for field, (before, now) in differences(nearest.step, planned.step).items():
        if field.startswith("inputs.") and isinstance(now, str):
            yield f"{field}: {names.get(now, now[:12])} is new (the nearest, {nearest.label}, had {str(before)[:12]})"
        else:
            yield f"{field}: {_short(before)} -> {_short(now)} (nearest: {nearest.label}, {nearest.key[:12]})"


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


def _notes(plan: Plan, target: PlannedTarget, known: Mapping[str, StepRecord]) -> Iterator[str]:
    planned = next(step for step in plan.steps if step.step.stage is Stage.BUILD and target.name in step.targets)
    last = _last_build(planned, plan, known)
    old = _release(last.step) if last else target.release
    if old == target.release:
        return
    wanted = next(one for one in plan.spec.targets if one.name == target.name)
    for change in backends.unset_changes(plan.spec.build_for(wanted), old, target.release):
        yield f"{target.name}: the last build was for {old}; unset in the spec: {change}"


def _last_build(planned: PlannedStep, plan: Plan, known: Mapping[str, StepRecord]) -> StepRecord | None:
    """The newest build of the same target from the same source."""
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
    """The source of a step's weights: its kind and its address, without the commit."""
    while step.inputs:
        found = [steps[key] for key in step.inputs.values() if key in steps]
        if not found:
            return None
        step = found[0]
    return step.recipe.parameters.get("kind"), step.recipe.parameters.get("location")


def _field_changes(spec: Spec, target: Target, old: str, new: str) -> Iterator[FieldChange]:
    options = spec.build_for(target)
    # Some releases need a data type for `auto`. Any one will do: it does not change the comparison.
    dtype = str(target.precision if target.precision in FLOATS else Precision.FLOAT16)
    before, after = (backends.EngineOptions(options, release, dtype) for release in (old, new))
    for field in backends.OPTIONS:
        value = getattr(options, field)
        if value is None:
            continue
        if not releases.builds_engines(new):
            yield FieldChange(target.name, field, value, "gone", f"{new} has no {releases.BUILD}")
        else:
            rendered = backends.render_option(before, field), backends.render_option(after, field)
            yield FieldChange(target.name, field, value, *_effect(*rendered, new))


def _effect(before: "RenderedOption", after: "RenderedOption", new: str) -> tuple[Effect, str]:
    if after.findings:
        finding = after.findings[0]
        return ("gone" if finding.code == "E160" else "refused"), f"{finding.problem}; {finding.remedy}"
    if before.findings:
        return "new", f"{new} has this field, the old release does not"
    if before == after:
        return "kept", "accepted as before"
    if not after.argv and not after.environment:
        return "left out", f"{new} does this without a flag"
    settings = " ".join((*(f"{name}={value}" for name, value in after.environment.items()), *after.argv))
    return "translated", f"for {new} this is {settings}"
