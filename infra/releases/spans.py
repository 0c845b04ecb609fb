# ruff: noqa: INP001  a script of this directory, not a module
"""Turns the facts of single releases into spans: first release, last release, fact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packaging.version import Version

Fact = Any
Facts = Mapping[str, Fact]


@dataclass
class Subject:
    """A subject that was read in several releases, such as a command with its flags.

    Attributes:
        read: release -> number of its source in the topic.
        facts: release -> facts by name; a release in `read` but not in `facts` does not have the subject.
    """

    read: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)

    def compact(self) -> dict[str, Any]:
        """The subject as it is stored: the releases that were read, those that have it, and the facts as spans."""
        order = sorted(self.read, key=Version)
        names = dict.fromkeys(name for release in order for name in self.facts.get(release, ()))
        present = [release if release in self.facts else None for release in order]
        made: dict[str, Any] = {"releases": [[release, self.read[release]] for release in order]}
        if None in present:
            made["present"] = [span[:2] for span in _spans(order, [None if one is None else True for one in present])]
        made["facts"] = {name: self._fact_spans(order, name) for name in names}
        return made

    def _fact_spans(self, order: Sequence[str], name: str) -> list[list[Fact]]:
        wrapped = [
            (self.facts[release][name],) if release in self.facts and name in self.facts[release] else None
            for release in order
        ]
        return [[first, last, fact[0]] for first, last, fact in _spans(order, wrapped)]


@dataclass
class Topic:
    """One data file: subjects, and the sources of their facts."""

    about: str
    sources: list[dict[str, str]] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)

    def source(self, certainty: str, source: str, method: str) -> int:
        """The number of a source. A new source is added."""
        entry = {"certainty": certainty, "source": source, "method": method}
        if entry not in self.sources:
            self.sources.append(entry)
        return self.sources.index(entry)

    def put(self, subject: str, release: str, source: int, facts: Facts | None) -> None:
        """Add the facts of a subject in a release; None if the release does not have the subject."""
        found = self.subjects.setdefault(subject, Subject())
        found.read[release] = source
        if facts is not None:
            found.facts[release] = facts

    def compact(self) -> dict[str, Any]:
        """The topic as it is stored."""
        subjects = {name: subject.compact() for name, subject in self.subjects.items()}
        return {"about": self.about, "sources": self.sources, "subjects": subjects}


def _spans(order: Sequence[str], values: Sequence[Any]) -> list[list[Any]]:
    """Spans of equal values; None is no value. True and 1 differ, and so do 1 and 1.0."""
    made: list[list[Any]] = []
    before: str | None = None
    for release, value in zip(order, values, strict=True):
        marked = None if value is None else repr(value)
        if marked is not None and marked == before:
            made[-1][1] = release
        elif marked is not None:
            made.append([release, release, value])
        before = marked
    return made
