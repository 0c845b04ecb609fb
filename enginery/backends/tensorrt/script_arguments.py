"""Arguments for a script of a release. Each one is checked against the recorded flags of the release."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from enginery.releases import Certainty, Flag, Known, flags_of
from enginery.spec import Finding

MANY = frozenset({"+", "*"})
OPTIONAL = frozenset({"?", "*"})
NUMBERS = {"int": int, "float": float}


class ScriptOption(NamedTuple):
    """An option that a setting of the spec needs.

    Attributes:
        path: the setting, such as `convert.kv_cache`.
        names: the flag's names in different releases, the usual one first.
        value: its value; None for a switch.
    """

    path: str
    names: tuple[str, ...]
    value: str | None = None


@dataclass(frozen=True)
class Script:
    """A script of a release.

    Attributes:
        command: its name, such as `quantize.py` or `convert_checkpoint.py llama`.
        known: its flags and how they are known.
    """

    release: str
    command: str
    known: Known[Mapping[str, Flag]]

    @property
    def short_title(self) -> str:
        """The script's name in messages."""
        name, _, family = self.command.partition(" ")
        of = f" of {family}" if family else ""
        return f"{self.release}'s {name}{of}"

    @property
    def title(self) -> str:
        """The script's name in messages. If its flags are those of another release, that release is named, too."""
        nearest = self.known.provenance.certainty is Certainty.NEAREST
        return f"{self.short_title} (flags of {self.known.provenance.release})" if nearest else self.short_title

    def find(self, *names: str) -> Flag | None:
        """The flag with one of these names; None if the script has none of them."""
        return _find(self.known.value, *names)

    def arguments(self, options: Iterable[ScriptOption], remedy: str) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
        """The arguments for these options, in their order, and a finding for each that the script does not accept."""
        argv: list[str] = []
        refused = []
        for path, names, value in options:
            flag = self.find(*names)
            problem = f"has no {names[0]}" if flag is None else _value_problem(flag, value)
            if flag is None or problem:
                shows_value = flag is None and value and not _is_placeholder(value)
                wanted = f" (asked for: {value})" if shows_value else ""
                refused.append(Finding("E122", path, f"{self.title} {problem}{wanted}", remedy))
            else:
                argv += [flag.name] if value is None else [flag.name, value]
        return tuple(argv), tuple(refused)


@cache
def script_of(release: str, command: str) -> Script:
    """A script of a release, with its flags."""
    return Script(release, command, flags_of(release, command))


def argument_problems(flags: Mapping[str, Flag], argv: Sequence[str]) -> list[str]:
    """What a script with these flags would refuse in a list of arguments, read as argparse reads them."""
    found = []
    position = 0
    while position < len(argv):
        name, equals, value = argv[position].partition("=")
        position += 1
        flag = _find(flags, name)
        if flag is None:
            found.append(f"has no {name}" if name.startswith("-") else f"takes no argument {name!r} by itself")
            continue
        values: list[str | None] = [value] if equals else [*_values(flags, flag, argv[position:])]
        position += 0 if equals else len(values)
        if _count(flag) > 1 and len(values) != _count(flag):
            found.append(f"takes {_count(flag)} values for {flag.name}, not {len(values)}")
        found += [problem for one in (values or [None]) if (problem := _value_problem(flag, one))]
    return found


def has_type(value: str, flag: Flag) -> bool:
    """Whether a value is a number, if the flag takes numbers. Other flags take any text."""
    try:
        NUMBERS.get(flag.type, str)(value)
    except ValueError:
        return False
    return True


def _find(flags: Mapping[str, Flag], *names: str) -> Flag | None:
    """The flag with one of these names or aliases."""
    by_name = (flags[name] for name in names if name in flags)
    by_alias = (flag for flag in flags.values() if set(names) & set(flag.aliases))
    return next(by_name, None) or next(by_alias, None)


def _value_problem(flag: Flag, value: str | None) -> str:
    """Why a flag does not accept a value; empty if it does."""
    if flag.is_switch:
        return "" if value is None else f"takes no value for {flag.name}"
    if value is None:
        return "" if flag.nargs in OPTIONAL else f"needs a value for {flag.name}"
    if _is_placeholder(value):
        return ""
    if not has_type(value, flag):
        return f"takes {'an integer' if flag.type == 'int' else 'a number'} for {flag.name}, not {value!r}"
    choices = [str(choice).rpartition("CheckpointType.")[2] for choice in flag.choices]
    if choices and value not in choices:
        return f"does not take {value!r} for {flag.name}, only {', '.join(choices)}"
    return ""


def _is_placeholder(value: str) -> bool:
    """Whether a value stands for a path that is known only when the command runs."""
    return value.startswith("{")


def _values(flags: Mapping[str, Flag], flag: Flag, rest: Sequence[str]) -> list[str]:
    """The values after a flag, up to the next flag and at most as many as the flag takes."""
    if flag.is_switch:
        return []
    most = len(rest) if flag.nargs in MANY else _count(flag)
    until = next((at for at, text in enumerate(rest) if text.startswith("--") or _find(flags, text)), len(rest))
    return list(rest[: min(most, until)])


def _count(flag: Flag) -> int:
    """How many values a flag takes; 1 if that is not a fixed number."""
    return int(flag.nargs) if str(flag.nargs).isdecimal() else 1
