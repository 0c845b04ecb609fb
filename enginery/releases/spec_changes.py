"""What another release means for a spec: which of its build fields are affected, and which unset ones change."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from enginery.releases.changes import Changed, changes
from enginery.releases.flags import BUILD, Flag, flags
from enginery.releases.known import builds_engines
from enginery.releases.replacements import replacement
from enginery.spec import BackendName, Spec

Effect = Literal["kept", "new", "deprecated", "refused", "gone"]


@dataclass(frozen=True)
class FieldChange:
    """What becomes of a build field that the spec sets.

    Attributes:
        target: the target it is set for.
        field: the field, such as `gemm_plugin`.
        value: its value.
        effect: what the new release makes of it.
        text: the same for a reader, with what replaces it.
    """

    target: str
    field: str
    value: Any
    effect: Effect
    text: str


@dataclass(frozen=True)
class SpecChanges:
    """What a spec meets in the new release.

    Attributes:
        fields: what becomes of the fields it sets.
        unset: flags that no target sets and whose default changes.
        some_unset: flags that only some targets set and whose default changes, with the targets that do not.
    """

    fields: tuple[FieldChange, ...]
    unset: tuple[Changed, ...]
    some_unset: tuple[tuple[Changed, tuple[str, ...]], ...]


def spec_changes(spec: Spec, old: str, new: str) -> SpecChanges:
    """Compare two releases for a spec; only targets that TensorRT engines may be built for count.

    Raises:
        UsageError: nothing is known of so old a release.
    """
    given = {
        target.name: spec.build_for(target).model_dump(exclude_none=True)
        for target in spec.targets
        if target.backend in {BackendName.TENSORRT, BackendName.AUTO}
    }
    before, after = flags(old).value, flags(new).value
    fields = [
        _field_change(target, field, value, before.get(f"--{field}"), after.get(f"--{field}"), new)
        for target, values in given.items()
        for field, value in values.items()
        if f"--{field}" in before or f"--{field}" in after
    ]
    changed = [one for one in changes(old, new).changed if one.new_default] if given else []
    without = [(one, tuple(name for name in given if not _sets(given[name], one))) for one in changed]
    unset = tuple(one for one, targets in without if len(targets) == len(given))
    return SpecChanges(tuple(fields), unset, tuple(one for one in without if 0 < len(one[1]) < len(given)))


def _sets(fields: Iterable[str], changed: Changed) -> bool:
    names = {changed.name, *changed.before.aliases, *changed.after.aliases}
    return any(f"--{field}" in names for field in fields)


def _field_change(  # noqa: PLR0913, PLR0917  what is compared, and for what
    target: str, field: str, value: Any, before: Flag | None, after: Flag | None, new: str
) -> FieldChange:
    effect, text = _effect(field, value, before, after, new)
    return FieldChange(target, field, value, effect, text)


def _effect(field: str, value: Any, before: Flag | None, after: Flag | None, new: str) -> tuple[Effect, str]:
    instead = replacement(new, f"--{field}").value
    hint = f": {', '.join(instead.by) or 'no flag'}, {instead.how}" if instead else ""
    if not builds_engines(new):
        return "gone", f"{new} has no {BUILD}"
    if after is None:
        return "gone", f"{new} has no --{field}{hint}"
    if not after.accepts(value):
        return "refused", f"{new} does not take {value}, only {', '.join(str(choice) for choice in after.choices)}"
    if instead or after.deprecated:
        return "deprecated", f"{new} still reads --{field}{hint}"
    if before is None:
        return "new", f"{new} has it, the old release has not"
    return "kept", "accepted as before"
