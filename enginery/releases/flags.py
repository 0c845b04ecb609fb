"""The flags of TensorRT-LLM's commands in each release.

Commands are named `trtllm-build`, `quantize.py`, `run.py` and `convert_checkpoint.py FAMILY`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.errors import UsageError
from enginery.releases import facts
from enginery.releases.known import REMOVAL, builds_engines
from enginery.releases.provenance import Known

BUILD = "trtllm-build"
SCRIPTS = "scripts"


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: with its dashes, such as `--max_batch_size`.
        type: what the value becomes: `str`, `int`, `float` or a type of TensorRT-LLM; empty for a switch.
        default: the value when it is not given; None also where the command then decides by itself.
        choices: the only values it takes; empty for any.
        aliases: other names.
        nargs: how many values (`+`, `?`, `2`); empty for one.
        const: the value when it is given without one.
        required: whether the command refuses to run without it.
        action: argparse's word, such as `store` or `store_true`.
        suppressed: whether the command's settings have no such entry when it is not given.
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
        """Whether it is given without a value."""
        return self.action in {"store_true", "store_false", "BooleanOptionalAction"}

    def accepts(self, value: Any) -> bool:
        """Whether `value`, or each of several, is one of the choices; anything is where there are none."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        return not self.choices or {str(one) for one in values} <= {str(choice) for choice in self.choices}


def commands() -> tuple[str, ...]:
    """The commands whose flags are known."""
    return (BUILD, *(name for name in facts.subjects("examples") if name != SCRIPTS))


def flags(release: str, command: str = BUILD) -> Known[Mapping[str, Flag]]:
    """The command's flags by name; none when the release does not have the command.

    Raises:
        UsageError: nothing is known of the command or of so old a release.
    """
    found = facts.look_up(_topic(command), command, release)
    if not builds_engines(release):
        return Known({}, REMOVAL)
    return Known({name: _flag(name, fact) for name, fact in (found.value or {}).items()}, found.provenance)


def flag(release: str, name: str, command: str = BUILD) -> Known[Flag | None]:
    """One flag, by its name or an alias; None when the release does not have it."""
    every = flags(release, command)
    own = next((one.name for one in every.value.values() if name in one.aliases), name)
    if not builds_engines(release):
        return Known(None, every.provenance)
    found = facts.look_up_one(_topic(command), command, release, own)
    return Known(None if found.value is None else _flag(own, found.value), found.provenance)


def has_command(release: str, command: str = BUILD) -> Known[bool]:
    """Whether the release has the command."""
    found = facts.look_up(_topic(command), command, release)
    if not builds_engines(release):
        return Known(False, REMOVAL)  # noqa: FBT003  it is the answer
    return Known(found.value is not None, found.provenance)


def script(release: str, command: str) -> Known[str | None]:
    """Where a script lies in the release's repository; None when it does not have it."""
    if not builds_engines(release):
        return Known(None, REMOVAL)
    return facts.look_up_one("examples", SCRIPTS, release, command)


def _topic(command: str) -> str:
    if command not in commands():
        families = ", ".join(name.split()[-1] for name in commands() if " " in name)
        remedy = f"known are {BUILD}, quantize.py, run.py, and 'convert_checkpoint.py FAMILY' with one of {families}"
        raise UsageError("no flags are known of this command", subject=command, remedy=remedy)
    return "build" if command == BUILD else "examples"


def _flag(name: str, fact: Mapping[str, Any]) -> Flag:
    switch = fact.get("action", "store") in {"store_true", "store_false", "BooleanOptionalAction"}
    given = dict(fact)
    for many in ("choices", "aliases"):
        given[many] = tuple(fact.get(many, ()))
    return Flag(name=name, type=given.pop("type", "" if switch else "str"), **given)
