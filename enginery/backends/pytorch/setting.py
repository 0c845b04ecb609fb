"""One argument of the LLM API, and where in the spec it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
"""A key, and the key within the object it names."""


@dataclass(frozen=True)
class Setting:
    """One argument.

    Attributes:
        value: its value.
        field: the field of the spec that says so, within the target.
        given: whether the user wrote it, rather than that it follows from a default of ours.
    """

    value: Any
    field: str
    given: bool = True


Settings = Mapping[Path, Setting]
