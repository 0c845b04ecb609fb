"""An argument parser with exactly the recorded flags of a release's command."""

import argparse
from typing import Any

from enginery.releases.flags import Flag, flags_of
from tests.support.trtllm import facts

TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool}
SHOWS_DEFAULTS_FROM = "0.11.0"


def _yes_or_no(text: str) -> bool:
    return text.lower() in {"yes", "true", "t", "y", "1"}


def parser(release: str, command: str, without: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """The command's parser, except for the recorded flags in `without`."""
    shows = command == "trtllm-build" and facts.at_least(release, SHOWS_DEFAULTS_FROM)
    made = argparse.ArgumentParser(
        prog=command.split(maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter if shows else argparse.HelpFormatter,
    )
    plugins = made
    if command == "trtllm-build" and shows:
        plugins = made.add_argument_group("Plugin config arguments")  # type: ignore[assignment]
    names = set(facts.layout(release)["plugin_config"])
    for flag in flags_of(release, command).value.values():
        if flag.name not in without:
            add(plugins if flag.name.lstrip("-") in names else made, flag)
    return made


def add(to: argparse._ActionsContainer, flag: Flag) -> None:
    about = f"Sets {flag.name.lstrip('-').replace('_', ' ')}." + (" Deprecated." if flag.deprecated else "")
    default = argparse.SUPPRESS if flag.suppressed else _default(flag)
    names = [flag.name, *(alias for alias in flag.aliases if not alias.startswith("--no-"))]
    if flag.action == "BooleanOptionalAction":
        to.add_argument(*names, action=argparse.BooleanOptionalAction, default=default, help=about)
    elif flag.is_switch:
        to.add_argument(*names, action=flag.action, default=default, help=about)
    else:
        to.add_argument(*names, default=default, help=about, required=flag.required, **_values(flag))


def _default(flag: Flag) -> Any:
    """The default. The facts give a member of an enumeration by its name; all these enumerations count from 1."""
    is_member = flag.type == "int" and isinstance(flag.default, str) and not flag.default.isdigit()
    return 1 if is_member else flag.default


def _values(flag: Flag) -> dict[str, Any]:
    made: dict[str, Any] = {"type": _yes_or_no if flag.type == "<lambda>" else TYPES.get(flag.type, str)}
    if flag.choices:
        made["choices"] = list(flag.choices)
    if flag.nargs:
        made["nargs"] = flag.nargs
    if flag.const is not None:
        made["const"] = flag.const
    if flag.action == "append":
        made["action"] = "append"
    return made
