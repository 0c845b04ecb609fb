"""Reading the `--help` of a command made with argparse: its flags, their choices and placeholders."""

import re
from collections.abc import Iterable

from enginery.steps import Frozen

FLAG_LINE = re.compile(r"^  (-\S.*?)(?:\s{2,}.*)?$")
"""argparse indents a flag by two blanks, never breaks it over lines, and puts its description after two or more."""
BETWEEN_NAMES = re.compile(r", (?=-)")
CHOICES = re.compile(r"\{([^}]*)\}")
HELP = "--help"


class HelpFlag(Frozen):
    """One flag as the help shows it.

    Attributes:
        names: all its names, long ones first.
        choices: the only values it takes; empty for any.
        metavar: what stands for its value; empty for a switch.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...] = ()
    metavar: str = ""

    @property
    def name(self) -> str:
        """Its first long name."""
        return self.names[0]


def read_help(lines: Iterable[str]) -> tuple[HelpFlag, ...]:
    """The flags that a help text lists, in its order, without `--help` itself."""
    matches = (FLAG_LINE.match(line) for line in lines)
    flags = (_read_flag(match[1]) for match in matches if match)
    return tuple(flag for flag in flags if HELP not in flag.names)


def _read_flag(text: str) -> HelpFlag:
    """`--a A, --b A`, `-s {x,y}, --size {x,y}`, `--all`; since Python 3.13 also `-a, --all A`."""
    parts = [part.partition(" ") for part in BETWEEN_NAMES.split(text)]
    names = sorted((name for name, _, _ in parts), key=lambda name: not name.startswith("--"))
    metavar = next((rest for _, _, rest in reversed(parts) if rest), "")
    found = CHOICES.search(metavar)
    return HelpFlag(names=tuple(names), choices=tuple(found[1].split(",")) if found else (), metavar=metavar)
