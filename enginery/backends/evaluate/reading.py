"""Reads the score, the number of samples and the items from an evaluator's JSON file.

Every evaluator has a form of its own, so the spec says where the values are, as paths such as `results.gsm8k.acc`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from enginery.core.errors import CommandError
from enginery.core.text import first_of

SHOWN = 8
"""The largest number of names that an error lists."""
LONGEST = 40
"""The largest number of characters of a value in an error."""
PERCENT = 100
EVERY = "*"


class Missing(Exception):  # noqa: N818  it says what is missing, and is caught in this file
    """A path leads nowhere; the text says where it ends."""


class ResultFile:
    """The JSON file of an evaluator.

    Attributes:
        path: the file.
    """

    def __init__(self, name: str, output: Path, pattern: str, *, percent: bool) -> None:
        """Read the file below `output` that fits `pattern`; `name` is the evaluation's name in errors.

        Raises:
            CommandError: when no file or several fit, or the file is not JSON.
        """
        self._name, self._percent = name, percent
        self.path = self._find(output, pattern)
        try:
            self._data = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._error(f"{self.path.name} is not JSON: {error}", "let the command write JSON") from error

    def score(self, path: str) -> float:
        """The score at this path, from 0 to 1.

        Raises:
            CommandError: when there is none.
        """
        return self._share(self._at("score", path), "score", path)

    def samples(self, wanted: str | int) -> int:
        """The number of samples: the number itself, or what is at this path.

        Raises:
            CommandError: when it is not a whole number above zero.
        """
        found = wanted if isinstance(wanted, int) else self._at("samples", wanted)
        if isinstance(found, bool) or not isinstance(found, int | float) or found != found // 1 or found < 1:
            problem = f"samples: {wanted} is {_shown(found)}, which is no number of samples"
            raise self._error(problem, "correct the path, or write the number itself")
        return int(found)

    def items(self, path: str) -> dict[str, float]:
        """The scores of the items at this path: a list, or an object of item -> score.

        Raises:
            CommandError: when there are none, or one of them is not from 0 to 1.
        """
        found = self._at("items", path)
        if isinstance(found, Mapping):
            named = list(found.items())
        elif isinstance(found, list):
            named = [(str(number), one) for number, one in enumerate(found)]
        else:
            raise self._error(f"items: {path} is {_shown(found)}, not a list or an object", "correct the path")
        if not named:
            raise self._error(f"items: {path} is empty", "correct the path, or leave items out")
        return {item: self._share(_as_number(one), "items", f"{path}: {item}") for item, one in named}

    def _find(self, output: Path, pattern: str) -> Path:
        exactly = output / pattern
        fitting = [exactly] if exactly.is_file() else output.glob(pattern)
        found = sorted(path for path in fitting if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = first_of([path.relative_to(output).as_posix() for path in found], SHOWN)
            raise self._error(f"several files fit result {pattern}: {names}", "write a pattern that fits one")
        there = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
        written = f"the command wrote {first_of(there, SHOWN)}" if there else "the command wrote no file into {output}"
        raise self._error(f"there is no file {pattern}: {written}", "correct result, or the command")

    def _at(self, field: str, path: str) -> Any:
        try:
            return _value(self._data, path.split("."), "")
        except Missing as missing:
            problem = f"{field}: {self.path.name} has no {path}: {missing}"
            raise self._error(problem, f"correct {field} in the evaluation") from missing

    def _share(self, value: Any, field: str, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(f"{field}: {path} is {_shown(value)}, not a number", f"correct {field} in the evaluation")
        if not math.isfinite(value):
            raise self._error(f"{field}: {path} is {value}", "find out why the evaluator has no score for this engine")
        top = PERCENT if self._percent else 1
        if not 0 <= value <= top:
            may_be_percent = not self._percent and 0 <= value <= PERCENT
            remedy = "set percent: true if it is in percent" if may_be_percent else "correct the path"
            raise self._error(f"{field}: {path} is {value:g}, not from 0 to {top}", remedy)
        return value / top

    def _error(self, problem: str, remedy: str) -> CommandError:
        return CommandError(problem, subject=f"evaluation {self._name}", remedy=remedy)


def _value(data: Any, parts: Sequence[str], so_far: str) -> Any:
    """What is at a path. A key may have dots itself, so several parts together may be one key."""
    if not parts:
        return data
    if parts[0] == EVERY and isinstance(data, list):
        return [_value(one, parts[1:], f"{so_far}.{number}") for number, one in enumerate(data)]
    if isinstance(data, list) and parts[0].isdecimal() and int(parts[0]) < len(data):
        return _value(data[int(parts[0])], parts[1:], _joined(so_far, parts[0]))
    missing: Missing | None = None
    for key, rest in _keys(data, parts):
        try:
            return _value(data[key], rest, _joined(so_far, key))
        except Missing as deeper:
            missing = deeper
    raise missing or Missing(f"{so_far or 'it'} {_content(data)}")


def _keys(data: Any, parts: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    for end in range(1, len(parts) + 1) if isinstance(data, dict) else ():
        key = ".".join(parts[:end])
        if key in data:
            yield key, parts[end:]


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _content(data: Any) -> str:
    if isinstance(data, dict):
        return f"has {first_of(list(data), SHOWN)}" if data else "is empty"
    return f"has {len(data)} entries, from 0" if isinstance(data, list) else f"is {_shown(data)}"


def _as_number(value: Any) -> Any:
    """An item may be right or wrong."""
    return float(value) if isinstance(value, bool) else value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
