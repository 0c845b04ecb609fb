"""Facts about a release that only the stand-in needs: the fields of its files, the arguments of its functions.

`layouts.json` and `signatures.json` have names and defaults that were read from the releases' sources. A release that
was not read has those of the nearest one.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import Version

from enginery.releases import facts

HERE = Path(__file__).parent


@cache
def _data(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return found


def layout(release: str) -> dict[str, Any]:
    """Fields by section: `mapping` (names), `quantization`, `build_config`, `plugin_config` (with defaults)."""
    read = _data("layouts")
    return read[facts.nearest(facts.version(release), tuple(read))]


@dataclass(frozen=True)
class Signature:
    """The parameters of a function.

    Attributes:
        positional: parameters that can be given by position.
        keyword: parameters that can be given only by name.
        rest: whether it accepts any other name.
    """

    positional: tuple[str, ...]
    keyword: tuple[str, ...] = ()
    rest: bool = False

    def bind(self, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name."""
        if len(given) > len(self.positional):
            most = len(self.positional) + 1
            raise TypeError(f"{name}() takes from 2 to {most} positional arguments but {len(given) + 1} were given")
        bound = dict(zip(self.positional, given, strict=False))
        for key in named:
            if key in bound:
                raise TypeError(f"{name}() got multiple values for argument '{key}'")
            if not self.rest and key not in (*self.positional, *self.keyword):
                raise TypeError(f"{name}() got an unexpected keyword argument '{key}'")
        return bound | named


def signature(release: str, name: str) -> Signature | None:
    """The parameters of a function such as `ModelRunner.generate` in a release; None if the release has none."""
    found = _signatures(release).get(name)
    if found is None:
        return None
    return Signature(tuple(found["positional"]), tuple(found["keyword"]), rest=found["rest"])


def fields(release: str, name: str) -> tuple[str, ...]:
    """The fields of a class such as `SamplingParams` in a release; none if the release does not have it."""
    return tuple(_signatures(release).get(name, ()))


def _signatures(release: str) -> dict[str, Any]:
    read = _data("signatures")
    return read[facts.nearest(facts.version(release), tuple(read))]


def at_least(release: str, first: str) -> bool:
    """Whether a release is `first` or later; a preview of `first` is not."""
    return Version(release) >= Version(first)
