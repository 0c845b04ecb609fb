"""Looking facts up: what a release has of one subject, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.version import Version

from enginery.errors import UsageError
from enginery.releases import data
from enginery.releases.known import nearest, neighbours, version
from enginery.releases.provenance import Certainty, Known, Provenance

Facts = Mapping[str, Any]
Span = tuple[Version, Version, Any]


@dataclass(frozen=True)
class Subject:
    """One thing and its facts in the releases it was looked for in.

    Attributes:
        read: the releases it was looked for in, oldest first, and where.
        present: spans of releases that have it.
        spans: fact by name, each with the first and last release it holds in.
    """

    read: Mapping[str, Provenance]
    present: tuple[Span, ...]
    spans: Mapping[str, tuple[Span, ...]]

    def at(self, release: str) -> Facts | None:
        """The facts of a release that was read; None when it does not have the thing."""
        here = Version(release)
        if not any(first <= here <= last for first, last, _ in self.present):
            return None
        found = {name: _holding(spans, here) for name, spans in self.spans.items()}
        return {name: span[2] for name, span in found.items() if span}


def subjects(topic: str) -> tuple[str, ...]:
    """The subjects of a topic."""
    return tuple(data.topic(topic)["subjects"])


def releases_read(topic: str, name: str) -> tuple[str, ...]:
    """The releases in which a subject was looked for, oldest first.

    Raises:
        UsageError: there is no such subject.
    """
    return tuple(_subject(topic, name).read)


def look_up(topic: str, name: str, release: str) -> Known[Facts | None]:
    """All facts of a subject in a release or the nearest known; None when it does not have the thing.

    Raises:
        UsageError: there is no such subject, or nothing is known of so old a release.
    """
    found = _subject(topic, name)
    chosen = nearest(version(release), tuple(found.read))
    facts = found.at(chosen)
    return Known(facts, _provenance(found, release, chosen, lambda other: other == facts))


def look_up_one(topic: str, name: str, release: str, fact: str) -> Known[Any]:
    """One fact of a subject; None when the release does not have it."""
    found = _subject(topic, name)
    chosen = nearest(version(release), tuple(found.read))
    value = (found.at(chosen) or {}).get(fact)
    return Known(value, _provenance(found, release, chosen, lambda other: (other or {}).get(fact) == value))


def _provenance(found: Subject, release: str, chosen: str, agrees: Any) -> Provenance:
    origin = found.read[chosen]
    asked = version(release)
    if Version(chosen) == asked:
        return origin
    others = [one for one in neighbours(asked, found.read) if one is not None and one != chosen]
    said = [f"{one} says {'the same' if agrees(found.at(one)) else 'otherwise'}" for one in others]
    note = "; ".join([f"known of {chosen} ({origin.certainty}), not of {release}", *said])
    return Provenance(Certainty.NEAREST, chosen, origin.source, origin.method, note)


@cache
def _subject(topic: str, name: str) -> Subject:
    content = data.topic(topic)
    kept = content["subjects"].get(name)
    if kept is None:
        known = ", ".join(subjects(topic))
        raise UsageError(f"nothing is known of {name!r}", remedy=f"known are: {known}")
    sources = content["sources"]
    read = {release: _origin(release, sources[number]) for release, number in kept["releases"]}
    whole = [[kept["releases"][0][0], kept["releases"][-1][0]]]
    present = tuple(_span(first, last, None) for first, last in kept.get("present", whole))
    spans = {fact: tuple(_span(*one) for one in held) for fact, held in kept["facts"].items()}
    return Subject(read, present, spans)


def _origin(release: str, source: Mapping[str, str]) -> Provenance:
    return Provenance(Certainty(source["certainty"]), release, source["source"], source["method"])


def _span(first: str, last: str, fact: Any) -> Span:
    return Version(first), Version(last), fact


def _holding(spans: tuple[Span, ...], here: Version) -> Span | None:
    return next((span for span in spans if span[0] <= here <= span[1]), None)
