"""Modules imported when something of theirs is first used: heavy libraries, and the files behind a room's door.

boto3, the Hub's client or Triton's cost tenths of a second each, and most commands need none of them. A file names what
it uses at its top all the same, and type checkers see the real module:

    if TYPE_CHECKING:
        from botocore import exceptions as botocore_exceptions
    else:
        botocore_exceptions = late("botocore.exceptions")
"""

import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORT = re.compile(r"^    from (\S+) import (?:\(([^)]*)\)|(.+))$", re.MULTILINE)
"""An import under `if TYPE_CHECKING:` of a door: the module, and its names in brackets or without. `ast` is slower."""


class _Late(ModuleType):
    """Stands for a module that is imported at its first use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


def late(name: str) -> ModuleType:
    """The module of that name, imported when an attribute of it is first asked for.

    Where it is not installed, that is when ImportError is raised.
    """
    return _Late(name)


def door(room: str, file: str) -> Callable[[str], Any]:
    """The `__getattr__` of a room: a name that its door shows is imported when it is first asked for.

    So a plan does not load what publishes, and a publish does not load what rolls out. The names are those that the
    door imports under `if TYPE_CHECKING:`, so they are written down once:

        if TYPE_CHECKING:
            from enginery.registry.pulling import pull
        else:
            __getattr__ = door(__name__, __file__)

    Args:
        room: the room's dotted name.
        file: its `__init__.py`.
    """

    def get(name: str) -> Any:
        if name not in _shown(file):
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        module, original = _shown(file)[name]
        inside = import_module(f"{module}.{original}") if module == room else getattr(import_module(module), original)
        setattr(sys.modules[room], name, inside)
        return inside

    return get


@cache
def _shown(file: str) -> dict[str, tuple[str, str]]:
    """The names that a door shows -> the module each is in, and its name there."""
    shown: dict[str, tuple[str, str]] = {}
    for module, several, one in IMPORT.findall(Path(file).read_text(encoding="utf-8")):
        for name in filter(None, map(str.strip, (several or one).split(","))):
            original, _, renamed = name.partition(" as ")
            shown[renamed or original] = module, original
    return shown
