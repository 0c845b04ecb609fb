"""Heavy third-party modules, imported when something of theirs is first used.

boto3, the Hub's client or Triton's cost tenths of a second each, and most commands need none of them. A file names what
it uses at its top all the same, and type checkers see the real module:

    if TYPE_CHECKING:
        from botocore import exceptions as botocore_exceptions
    else:
        botocore_exceptions = late("botocore.exceptions")
"""

from importlib import import_module
from types import ModuleType
from typing import Any


class _Late(ModuleType):
    """Stands for a module that is imported at its first use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


def late(name: str) -> ModuleType:
    """The module of that name, imported when an attribute of it is first asked for.

    Where it is not installed, that is when ImportError is raised.
    """
    return _Late(name)
