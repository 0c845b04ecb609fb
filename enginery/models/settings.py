"""Reads single settings of a `config.json` by their type, and notes those that cannot be read.

A setting that is null counts as left out. A setting of a wrong type is noted: what it decides is then unknown, whatever
the model's class has, and a source with such a file is refused.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from enginery.models.defaults import NOTHING

LARGEST = 2**53
"""A larger size or count is a mistake."""
SHOWN = 60
"""How many characters of a value a sentence shows."""


@dataclass
class Settings:
    """The settings of a model, and what its class has where the file leaves one out.

    Attributes:
        own: the settings in the file.
        defaults: the settings of the class.
        problems: setting -> what is wrong with it.
        path: where the settings are in the file, with a dot at its end; empty at the top level.
    """

    own: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    problems: dict[str, str] = field(default_factory=dict)
    path: str = ""

    def size(self, *names: str) -> int:
        """The first of these settings that is a whole number. 0 if there is none, or the layers differ."""
        for name, value in self._values(names):
            if isinstance(value, list) and value and all(_is_size(item) for item in value):
                return int(value[0]) if len(set(value)) == 1 else 0
            if _is_size(value):
                return int(value)
            self.note(name, value, "a whole number")
            return 0
        return 0

    def number(self, *names: str) -> float | None:
        """The first of these settings that is a positive number; None if there is none."""
        for name, value in self._values(names):
            if is_positive(value):
                return float(value)
            self.note(name, value, "a positive number")
            return None
        return None

    def flag(self, *names: str) -> bool | None:
        """The first of these settings that is true or false; None if there is none."""
        for name, value in self._values(names):
            if isinstance(value, bool):
                return value
            self.note(name, value, "true or false")
            return None
        return None

    def text(self, *names: str) -> str:
        """The first of these settings that is a text; empty if there is none."""
        for name, value in self._values(names):
            if isinstance(value, str):
                return value
            self.note(name, value, "a text")
            return ""
        return ""

    def mapping(self, name: str) -> dict[str, Any]:
        """A setting that has settings of its own; empty if there is none."""
        for _, value in self._values((name,)):
            if isinstance(value, Mapping) or value is False:
                return dict(value or {})
            self.note(name, value, "an object")
            return {}
        return {}

    def inside(self, name: str) -> "Settings":
        """The settings inside of a setting."""
        return Settings(self.mapping(name), problems=self.problems, path=f"{self.path}{name}.")

    def part(self, name: str) -> "Settings":
        """The settings inside of a setting which, in other models, may be something else; empty then."""
        value = self.own.get(name)
        return Settings(value if isinstance(value, Mapping) else {}, problems=self.problems, path=f"{self.path}{name}.")

    def items(self, name: str) -> list[Any]:
        """A setting that is a list; empty if there is none."""
        for _, value in self._values((name,)):
            if isinstance(value, list):
                return value
            self.note(name, value, "a list")
            return []
        return []

    def note(self, name: str, value: object, expected: str) -> None:
        """Note that a setting cannot be read."""
        self.problems.setdefault(f"{self.path}{name}", f"is {shown(value)}, expected {expected}")

    def says_none(self, name: str) -> bool:
        """Whether the file says null, so that the default of the class does not hold."""
        return name in self.own and self.own[name] is None

    def stated(self, name: str) -> object:
        """What the file says, as it is; None if it does not."""
        return self.own.get(name)

    def _values(self, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """The settings that have a value: those of the file first, then those of the class."""
        for settings in (self.own, self.defaults):
            for name in names:
                if settings.get(name) is not None:
                    yield name, settings[name]


def is_positive(value: object) -> bool:
    """Whether this is a number that is finite and more than 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < LARGEST if isinstance(value, int) else math.isfinite(value) and value > 0


def shown(value: object) -> str:
    """A value as a sentence shows it: its kind, and its beginning."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "the text", bool: "", float: "", int: ""}
    kind = next((name for known, name in names.items() if isinstance(value, known)), "")
    text = f"{value!r:.{SHOWN}}" if not isinstance(value, int) or abs(value) < LARGEST else "too large a number"
    return f"{kind} {text}".strip()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST
