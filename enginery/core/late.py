"""Lazy imports: a module is imported at its first use. This is for heavy libraries and for the files of a room.

To import boto3, the Hub's client or Triton's client takes tenths of a second, and most commands need none of them. A
file still names them at its top, and type checkers see the real module:

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
"""An import under `if TYPE_CHECKING:`: the module, then its names, with or without brackets. `ast` would be slower."""


class _Late(ModuleType):
    """A placeholder for a module. The module is imported when one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


def late(name: str) -> ModuleType:
    """A placeholder for the module `name`, which is imported when one of its attributes is first used.

    If the module is not installed, the first use raises ImportError.
    """
    return _Late(name)


def door(room: str, file: str) -> Callable[[str], Any]:
    """The `__getattr__` of a room's `__init__.py`, its door: it imports each public name at the name's first use.

    So a plan does not load the code that publishes, and a publish does not load the code of rollouts. The public names
    are those that the door imports under `if TYPE_CHECKING:`:

        if TYPE_CHECKING:
            from enginery.registry.pulling import pull
        else:
            __getattr__ = door(__name__, __file__)

    Args:
        room: the room's dotted name.
        file: its `__init__.py`.
    """

    def get(name: str) -> Any:
        if name not in _public_names(file):
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        module, original = _public_names(file)[name]
        inside = import_module(f"{module}.{original}") if module == room else getattr(import_module(module), original)
        setattr(sys.modules[room], name, inside)
        return inside

    return get


@cache
def _public_names(file: str) -> dict[str, tuple[str, str]]:
    """Each public name of a door -> its module, and its name in that module."""
    names: dict[str, tuple[str, str]] = {}
    for module, several, one in IMPORT.findall(Path(file).read_text(encoding="utf-8")):
        for name in filter(None, map(str.strip, (several or one).split(","))):
            original, _, renamed = name.partition(" as ")
            names[renamed or original] = module, original
    return names
