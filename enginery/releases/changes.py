"""What changes in a command's flags from one release to another."""

from dataclasses import dataclass
from typing import Any

from enginery.releases.facts import Provenance
from enginery.releases.flags import BUILD, Flag, Replacement, flags_of, replacement


@dataclass(frozen=True)
class Removed:
    """A flag that only the old release has, and what replaces it."""

    flag: Flag
    replacement: Replacement | None


@dataclass(frozen=True)
class Changed:
    """A flag that both releases have, with a difference."""

    before: Flag
    after: Flag

    @property
    def name(self) -> str:
        """The flag's name."""
        return self.after.name

    @property
    def new_default(self) -> bool:
        """Whether a command without the flag does something else in the new release."""
        return _unset(self.before) != _unset(self.after)

    @property
    def gained(self) -> tuple[str, ...]:
        """Choices that only the new release has; empty if one of the two releases takes any value."""
        return _missing(self.after, self.before)

    @property
    def lost(self) -> tuple[str, ...]:
        """Choices that only the old release has; empty if one of the two releases takes any value."""
        return _missing(self.before, self.after)

    def texts(self) -> tuple[str, ...]:
        """Each difference in a few words."""
        found = [f"default {shown(self.before)} -> {shown(self.after)}"] if self.new_default else []
        found += [f"choices + {', '.join(self.gained)}"] if self.gained else []
        found += [f"choices - {', '.join(self.lost)}"] if self.lost else []
        if bool(self.before.choices) != bool(self.after.choices):
            found.append(f"choices: {_choices(self.before)} -> {_choices(self.after)}")
        if self.before.is_switch != self.after.is_switch:
            found.append("takes a value now" if self.before.is_switch else "is a switch without a value now")
        elif self.before.type != self.after.type:
            found.append(f"type {self.before.type} -> {self.after.type}")
        if self.before.nargs != self.after.nargs:
            found.append(f"number of values {self.before.nargs or 1} -> {self.after.nargs or 1}")
        if self.before.required != self.after.required:
            found.append("required now" if self.after.required else "no longer required")
        found += ["deprecated"] if self.after.deprecated and not self.before.deprecated else []
        return tuple(found or ["how it is read"])


@dataclass(frozen=True)
class Changes:
    """All that changes in a command's flags.

    Attributes:
        command: the command of the flags.
        command_gone: whether the new release no longer has the command.
        removed: flags that only the old release has.
        added: flags that only the new release has.
        changed: flags that differ.
        old: where the old release's facts come from.
        new: where the new release's facts come from.
    """

    command: str
    command_gone: bool
    removed: tuple[Removed, ...]
    added: tuple[Flag, ...]
    changed: tuple[Changed, ...]
    old: Provenance
    new: Provenance


def changes_between(old: str, new: str, command: str = BUILD) -> Changes:
    """Compare a command's flags in two releases.

    Raises:
        UsageError: when nothing is known of the command, or a release is older than all known ones.
    """
    before, after = flags_of(old, command), flags_of(new, command)
    removed = tuple(
        Removed(flag, replacement(new, name, command).value)
        for name, flag in before.value.items()
        if name not in after.value
    )
    added = tuple(flag for name, flag in after.value.items() if name not in before.value)
    both = [(before.value[name], flag) for name, flag in after.value.items() if name in before.value]
    changed = tuple(Changed(one, other) for one, other in both if one != other)
    return Changes(command, not after.value, removed, added, changed, before.provenance, after.provenance)


def shown(flag: Flag) -> str:
    """A flag's default as text."""
    if flag.suppressed:
        return "unset"
    return "none" if flag.default is None else str(flag.default)


def _unset(flag: Flag) -> tuple[Any, bool]:
    """What a command does without the flag; a switch that is off counts as no value."""
    off = flag.is_switch and flag.default is False
    return (None if off else flag.default, flag.suppressed)


def _missing(one: Flag, other: Flag) -> tuple[str, ...]:
    if not one.choices or not other.choices:
        return ()
    return tuple(str(choice) for choice in one.choices if choice not in other.choices)


def _choices(flag: Flag) -> str:
    return ", ".join(str(choice) for choice in flag.choices) or "any"
