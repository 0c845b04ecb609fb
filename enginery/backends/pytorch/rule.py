"""One rule about arguments of the LLM API, and what rules ask of arguments. Paths are those of releases from 1.0 on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from enginery.backends.pytorch.keys import Path

MISSING = object()
Arguments = Mapping[str, Any]


class Rule(NamedTuple):
    """When a record applies to arguments.

    Attributes:
        id: the record's id, without `LLM API: `.
        path: the argument that it is about.
        holds: whether the arguments are of the kind that the record is about.
    """

    id: str
    path: Path
    holds: Callable[[Arguments], bool]


def at(arguments: Arguments, path: Path) -> Any:
    """The value at a path; `MISSING` if there is none."""
    value: Any = arguments
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def positive(value: Any) -> bool:
    """Whether a value is a number over 0."""
    return number(value) and value > 0


def under(path: Path, least: float) -> Callable[[Arguments], bool]:
    """A test for a number under the least one."""
    return lambda one: number(found := at(one, path)) and found < least


def outside(path: Path, *, null: bool = False) -> Callable[[Arguments], bool]:
    """A test for a number outside 0 to 1, or for null where the release cannot compare that."""

    def holds(one: Arguments) -> bool:
        found = at(one, path)
        return (null and found is None) or (number(found) and not 0 <= found <= 1)

    return holds


def any_under(path: Path, least: int) -> Callable[[Arguments], bool]:
    """A test for a list with a number under the least one."""
    return lambda one: any(number(value) and value < least for value in items(at(one, path)))


def items(value: Any) -> Sequence[Any]:
    """The items of a list; none of any other value."""
    return value if isinstance(value, list) else ()


def is_empty(path: Path) -> Callable[[Arguments], bool]:
    """A test for an empty list."""
    return lambda one: at(one, path) == []


def given(arguments: Arguments, *path: str) -> bool:
    """Whether there is a value at a path, and it is not null."""
    return at(arguments, path) not in (MISSING, None)
