"""How sure an answer is, and where it comes from."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Certainty(StrEnum):
    """How a fact became known, the surest first."""

    PARSED = "parsed"
    """A program read it from the release's own source."""
    RENDERED = "rendered"
    """Read by eye from what NVIDIA published of the release: a page, release notes, a table."""
    INFERRED = "inferred"
    """Not read: taken from a release that by its notes must be the same."""
    NEAREST = "nearest"
    """Nothing is known of the release: these are the facts of the nearest one that is known."""


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from.

    Attributes:
        certainty: how it became known.
        release: the release the facts are of; another than was asked for when `certainty` is `nearest`.
        source: repository, commit and file, or page.
        method: how it was read.
        note: for `nearest`: what the known releases on both sides say.
    """

    certainty: Certainty
    release: str
    source: str
    method: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.certainty}: {self.note}" if self.note else str(self.certainty)


@dataclass(frozen=True)
class Known(Generic[Value]):
    """An answer and where it comes from."""

    value: Value
    provenance: Provenance
