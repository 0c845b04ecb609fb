"""Arguments for a script of a release: only what its recorded flags accept is ever written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from enginery.findings import Finding
from enginery.releases.flags import Flag
from enginery.releases.provenance import Certainty, Known

MANY = frozenset({"+", "*"})
OPTIONAL = frozenset({"?", "*"})


class Wish(NamedTuple):
    """An argument that a setting of the spec asks for.

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
        release: the release.
        command: its name, such as `quantize.py` or `convert_checkpoint.py llama`.
        known: its flags and how they are known.
    """

    release: str
    command: str
    known: Known[Mapping[str, Flag]]

    @property
    def short_title(self) -> str:
        """Its name for people."""
        name, _, family = self.command.partition(" ")
        of = f" of {family}" if family else ""
        return f"{self.release}'s {name}{of}"

    @property
    def title(self) -> str:
        """The same with the release its flags are known of, where that is another one."""
        nearest = self.known.provenance.certainty is Certainty.NEAREST
        return f"{self.short_title} (known of {self.known.provenance.release})" if nearest else self.short_title

    def find(self, *names: str) -> Flag | None:
        """The flag with one of these names; None when it has none."""
        return find(self.known.value, *names)


class Arguments(NamedTuple):
    """What was asked for as arguments, and what the script does not accept of it."""

    argv: tuple[str, ...]
    refused: tuple[Finding, ...]


def find(flags: Mapping[str, Flag], *names: str) -> Flag | None:
    """The flag with one of these names or aliases."""
    by_name = (flags[name] for name in names if name in flags)
    by_alias = (flag for flag in flags.values() if set(names) & set(flag.aliases))
    return next(by_name, None) or next(by_alias, None)


def write(script: Script, wishes: Iterable[Wish], remedy: str) -> Arguments:
    """The arguments for these wishes, in their order."""
    argv: list[str] = []
    refused = []
    for wish in wishes:
        flag = script.find(*wish.names)
        problem = f"has no {wish.names[0]}" if flag is None else value_problem(flag, wish.value)
        if flag is None or problem:
            told = flag is None and wish.value and not is_placeholder(wish.value)
            asked = f" (asked for: {wish.value})" if told else ""
            refused.append(Finding("E122", wish.path, f"{script.title} {problem}{asked}", remedy))
        else:
            argv += [flag.name] if wish.value is None else [flag.name, wish.value]
    return Arguments(tuple(argv), tuple(refused))


def is_placeholder(value: str) -> bool:
    """Whether it stands for a place that only the run knows."""
    return value.startswith("{")


def value_problem(flag: Flag, value: str | None) -> str:
    """Why a flag does not accept a value; empty where it does."""
    if flag.is_switch:
        return "" if value is None else f"takes no value for {flag.name}"
    if value is None:
        return "" if flag.nargs in OPTIONAL else f"needs a value for {flag.name}"
    if is_placeholder(value):
        return ""
    if flag.type in {"int", "float"} and not _is_number(value, flag.type):
        return f"takes {'an integer' if flag.type == 'int' else 'a number'} for {flag.name}, not {value!r}"
    choices = [str(choice).rpartition("CheckpointType.")[2] for choice in flag.choices]
    if choices and value not in choices:
        return f"does not take {value!r} for {flag.name}, only {', '.join(choices)}"
    return ""


def problems(flags: Mapping[str, Flag], argv: Sequence[str]) -> list[str]:
    """What a script with these flags would refuse in a whole list of arguments, as argparse reads them."""
    found = []
    at = 0
    while at < len(argv):
        name, equals, value = argv[at].partition("=")
        at += 1
        flag = find(flags, name)
        if flag is None:
            found.append(f"has no {name}" if name.startswith("-") else f"takes no argument {name!r} by itself")
            continue
        values: list[str | None] = [value] if equals else [*_values(flags, flag, argv[at:])]
        at += 0 if equals else len(values)
        if _count(flag) > 1 and len(values) != _count(flag):
            found.append(f"takes {_count(flag)} values for {flag.name}, not {len(values)}")
        found += [problem for one in (values or [None]) if (problem := value_problem(flag, one))]
    return found


def _values(flags: Mapping[str, Flag], flag: Flag, rest: Sequence[str]) -> list[str]:
    """The values that follow a flag: as many as it takes, up to the next one."""
    if flag.is_switch:
        return []
    most = len(rest) if flag.nargs in MANY else _count(flag)
    until = next((at for at, text in enumerate(rest) if text.startswith("--") or find(flags, text)), len(rest))
    return list(rest[: min(most, until)])


def _count(flag: Flag) -> int:
    """How many values a flag takes, where that is a number."""
    return int(flag.nargs) if str(flag.nargs).isdecimal() else 1


def _is_number(value: str, kind: str) -> bool:
    try:
        int(value) if kind == "int" else float(value)
    except ValueError:
        return False
    return True
