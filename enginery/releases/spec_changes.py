"""What another release means for a spec: which of its build fields are affected, and which unset ones change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from enginery.backends.tensorrt.build_options import OPTIONS, render_option, unset_changes
from enginery.backends.tensorrt.build_terms import Asked, Piece
from enginery.releases.flags import BUILD, flags
from enginery.releases.known import builds_engines
from enginery.spec import BackendName, BuildOptions, Precision, Spec, Target

Effect = Literal["kept", "new", "translated", "left out", "refused", "gone"]

FLOATS = frozenset({Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16})


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
        unset: fields that no target sets and that come to something else, such as `max_batch_size: 1 -> 2048`.
        some_unset: the same of fields that only some targets set, with the targets that do not.
    """

    fields: tuple[FieldChange, ...]
    unset: tuple[str, ...]
    some_unset: tuple[tuple[str, tuple[str, ...]], ...]


def spec_changes(spec: Spec, old: str, new: str) -> SpecChanges:
    """Compare two releases for a spec; only targets that TensorRT engines may be built for count.

    Raises:
        UsageError: nothing is known of so old a release.
    """
    targets = [target for target in spec.targets if target.backend in {BackendName.TENSORRT, BackendName.AUTO}]
    fields = tuple(change for target in targets for change in _field_changes(spec, target, old, new))
    unset = {target.name: unset_changes(spec.build_for(target), old, new) for target in targets}
    without = {
        sentence: tuple(name for name, found in unset.items() if sentence in found)
        for found in unset.values()
        for sentence in found
    }
    everywhere = tuple(sentence for sentence, names in without.items() if len(names) == len(targets))
    return SpecChanges(fields, everywhere, tuple(one for one in without.items() if len(one[1]) < len(targets)))


def _field_changes(spec: Spec, target: Target, old: str, new: str) -> Iterator[FieldChange]:
    options = spec.build_for(target)
    before, after = (_asked(options, target, release) for release in (old, new))
    for field in OPTIONS:
        value = getattr(options, field)
        if value is None:
            continue
        if not builds_engines(new):
            yield FieldChange(target.name, field, value, "gone", f"{new} has no {BUILD}")
        else:
            pieces = render_option(before, field), render_option(after, field)
            yield FieldChange(target.name, field, value, *_effect(*pieces, new))


def _asked(options: BuildOptions, target: Target, release: str) -> Asked:
    """With a data type for `auto` where a release needs one: which does not matter here."""
    dtype = str(target.precision if target.precision in FLOATS else Precision.FLOAT16)
    return Asked(options, release, flags(release).value, dtype)


def _effect(before: Piece, after: Piece, new: str) -> tuple[Effect, str]:
    if after.findings:
        finding = after.findings[0]
        return ("gone" if finding.code == "E160" else "refused"), f"{finding.problem}; {finding.remedy}"
    if before.findings:
        return "new", f"{new} has it, the old release has not"
    if before == after:
        return "kept", "accepted as before"
    if _is_empty(after):
        return "left out", f"{new} does so without being told"
    told = " ".join((*(f"{name}={value}" for name, value in after.environment.items()), *after.argv))
    return "translated", f"{new} is told by {told}"


def _is_empty(piece: Piece) -> bool:
    return not piece.argv and not piece.environment
