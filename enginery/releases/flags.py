"""The flags of TensorRT-LLM's commands in each release, what replaces them, and the arguments of the LLM API.

Commands are named `trtllm-build`, `quantize.py`, `run.py` and `convert_checkpoint.py FAMILY`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from enginery.core.errors import UsageError
from enginery.releases import facts
from enginery.releases.facts import Certainty, Known, Provenance, version

BUILD = "trtllm-build"
PYTORCH = "TorchLlmArgs"
QUANTIZE = "quantize.py"
SCRIPTS = "scripts"
"""The subject with the path of each script."""
BASES = "(bases)"
"""A class of arguments has its base classes under this key."""
SWITCHES = frozenset({"store_true", "store_false", "BooleanOptionalAction"})


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: with its dashes, such as `--max_batch_size`.
        type: what the value becomes: `str`, `int`, `float` or a type of TensorRT-LLM; empty for a switch.
        default: the value when the flag is not given; None also if the command then decides.
        choices: the only values it takes; empty for any.
        aliases: other names.
        nargs: how many values (`+`, `?`, `2`); empty for one.
        const: the value when the flag is given without a value.
        required: whether the command refuses to run without it.
        action: argparse's word, such as `store` or `store_true`.
        suppressed: whether its default is argparse's SUPPRESS: without the flag, the result has no such entry.
        deprecated: whether the release's help says so.
    """

    name: str
    type: str = "str"
    default: Any = None
    choices: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    nargs: str = ""
    const: Any = None
    required: bool = False
    action: str = "store"
    suppressed: bool = False
    deprecated: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.action in SWITCHES

    def accepts(self, value: Any) -> bool:
        """Whether the flag takes `value`, or each item of a list. Without choices, it takes every value."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        return not self.choices or {str(one) for one in values} <= {str(choice) for choice in self.choices}


@dataclass(frozen=True)
class Argument:
    """One key of a class of arguments.

    Attributes:
        annotation: its type, as in the source; empty if only the default is known.
        default: its default; None also if it has no default.
        default_factory: the function that makes the default; empty for a plain default.
        choices: the only values it takes; empty for any.
        required: whether it must be given.
        status: `prototype`, `beta` or `deprecated` if the source says so.
    """

    name: str
    annotation: str = ""
    default: Any = None
    default_factory: str = ""
    choices: tuple[Any, ...] = ()
    required: bool = False
    status: str = ""


@dataclass(frozen=True)
class Replacement:
    """What to use in place of a flag.

    Attributes:
        command: the command of the flag.
        flag: the flag that is removed or deprecated.
        since: the first release in which the replacement should be used.
        by: the flags of the same command that replace it; empty if no flag does.
        how: what to do, in a few words.
    """

    command: str
    flag: str
    since: str
    by: tuple[str, ...]
    how: str


def commands() -> tuple[str, ...]:
    """The commands whose flags are known."""
    return (BUILD, *(name for name in facts.subjects("examples") if name != SCRIPTS))


def flags_of(release: str, command: str = BUILD) -> Known[Mapping[str, Flag]]:
    """The command's flags by name; empty if the release does not have the command.

    Raises:
        UsageError: when nothing is known of the command, or the release is older than all known ones.
    """
    found = facts.look_up(_topic(command), command, release)
    return Known({name: _flag(name, fact) for name, fact in (found.value or {}).items()}, found.provenance)


def flag(release: str, name: str, command: str = BUILD) -> Known[Flag | None]:
    """One flag, by its name or an alias; None when the release does not have it."""
    every = flags_of(release, command).value
    own = next((one.name for one in every.values() if name in one.aliases), name)
    found = facts.look_up(_topic(command), command, release, own)
    return Known(None if found.value is None else _flag(own, found.value), found.provenance)


def script(release: str, command: str) -> Known[str | None]:
    """The path of a script in the release's repository; None when it does not have it."""
    return facts.look_up("examples", SCRIPTS, release, command)


def replacement(release: str, flag: str, command: str = BUILD) -> Known[Replacement | None]:
    """What replaces a flag in a release; None if no replacement is known."""
    wanted = version(release)
    known = [one for one in replacements() if (one.command, one.flag) == (command, flag)]
    due = [one for one in known if Version(one.since) <= wanted]
    content = facts.topic("replacements")
    origin = Provenance(Certainty(content["certainty"]), "", content["source"], content["method"])
    return Known(max(due, key=lambda one: Version(one.since), default=None), origin)


def replacements() -> tuple[Replacement, ...]:
    """All replacements that are known."""
    found = facts.topic("replacements")["replacements"]
    return tuple(Replacement(**{**one, "by": tuple(one["by"])}) for one in found)


def classes() -> tuple[str, ...]:
    """The classes of arguments that are known of some release."""
    return facts.subjects("arguments")


def arguments(release: str, name: str = PYTORCH) -> Known[Mapping[str, Argument]]:
    """The keys of a class, with those of its base classes; empty if the release does not have the class.

    Raises:
        UsageError: when there is no such class, or the release is older than all known ones.
    """
    found = facts.look_up("arguments", name, release)
    own = dict(found.value or {})
    made: dict[str, Argument] = {}
    for base in own.pop(BASES, ()):
        made |= arguments(found.provenance.release, base).value
    made |= {key: _argument(key, fact) for key, fact in own.items()}
    return Known(made, found.provenance)


def _topic(command: str) -> str:
    if command not in commands():
        families = ", ".join(name.split()[-1] for name in commands() if " " in name)
        remedy = f"known are {BUILD}, quantize.py, run.py, and 'convert_checkpoint.py FAMILY' with one of {families}"
        raise UsageError("no flags are known of this command", subject=command, remedy=remedy)
    return "build" if command == BUILD else "examples"


def _flag(name: str, fact: Mapping[str, Any]) -> Flag:
    several = {many: tuple(fact.get(many, ())) for many in ("choices", "aliases")}
    usual = "" if fact.get("action") in SWITCHES else "str"
    return Flag(name, **{"type": usual, **fact, **several})


def _argument(name: str, fact: Mapping[str, Any]) -> Argument:
    return Argument(
        name,
        annotation=fact.get("annotation") or fact.get("type") or "",
        default=fact.get("default"),
        default_factory=fact.get("default_factory", ""),
        choices=tuple(fact.get("choices", ())),
        required=bool(fact.get("required", "annotation" in fact and not {"default", "default_factory"} & set(fact))),
        status=fact.get("status", ""),
    )
