"""The facts of a release, and how sure each one is.

`look_up` gives the facts of one subject, such as a command, in a release. `pin` and `containers` give the versions that
belong to a release, and Triton's images with it. If nothing is known of a release, the nearest known one is used.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Generic, TypeVar

from packaging.version import InvalidVersion, Version

from enginery.core.errors import UsageError

Value = TypeVar("Value")

ENGINES_UNTIL = "1.3.0rc20"
"""The last release with the TensorRT backend: `trtllm-build`, the converters, Triton's `inflight_batcher_llm`."""
ENGINE_TOPICS = frozenset({"build", "examples", "families", "templates"})
"""The topics that have facts only of releases with the TensorRT backend."""
CONTAINERS = "containers"


class Certainty(StrEnum):
    """How a fact became known, the surest way first."""

    PARSED = "parsed"
    """A program read it from the release's own source."""
    RENDERED = "rendered"
    """A person read it in what NVIDIA published about the release: a page, release notes, a table."""
    INFERRED = "inferred"
    """Taken from another release, because the release notes show that both are the same."""
    NEAREST = "nearest"
    """Nothing is known of the release. The fact is of the nearest known release."""


@dataclass(frozen=True)
class Provenance:
    """Where a fact comes from.

    Attributes:
        certainty: how it became known.
        release: the release of the facts; another than the requested one if `certainty` is `nearest`.
        source: repository, commit and file, or page.
        method: how it was read.
        note: for `nearest`: whether the known releases before and after the requested one agree.
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
    """A fact and where it comes from."""

    value: Value
    provenance: Provenance


REMOVAL = Provenance(
    Certainty.RENDERED,
    "1.3.0rc20+main",
    "NVIDIA/TensorRT-LLM@335107a7:docs/source/legacy/tensorrt-backend-removal.md",
    "the page on the removal, read by eye",
    f"{ENGINES_UNTIL} is the last release that builds TensorRT engines",
)


@dataclass(frozen=True)
class Container:
    """One of Triton's images with TensorRT-LLM inside. A field is empty if it is not known.

    Attributes:
        image: name and tag without the registry's host, such as `nvidia/tritonserver:26.07-trtllm-python-py3`.
        tensorrt: its version of TensorRT. An engine runs only with the same version.
        driver: the GPU driver it is made for.
    """

    image: str
    python: str = ""
    tensorrt: str = ""
    torch: str = ""
    cuda: str = ""
    driver: str = ""


@cache
def topic(name: str) -> Any:
    """The content of a topic's file in `data/`."""
    return json.loads((files("enginery.releases") / "data" / f"{name}.json").read_bytes())


def releases() -> tuple[str, ...]:
    """The releases whose `trtllm-build` is known, oldest first."""
    return releases_read("build", "trtllm-build")


parsed = cache(Version)
"""The version in a text, cached: the search for the nearest release compares all of them."""


def version(release: str) -> Version:
    """The release as a version that can be compared.

    Raises:
        UsageError: when it is not a version, or it is older than all known releases.
    """
    first = releases()[0]
    remedy = f"give a release from {first} on, such as {releases()[-2]}; `enginery releases` lists those known"
    try:
        found = parsed(release)
    except InvalidVersion as error:
        raise UsageError("is not a release of TensorRT-LLM", subject=release, remedy=remedy) from error
    if found < parsed(first):
        raise UsageError("nothing is known of such an old TensorRT-LLM", subject=release, remedy=remedy)
    return found


def builds_engines(release: str) -> bool:
    """Whether the release still has the TensorRT backend."""
    return version(release) <= parsed(ENGINES_UNTIL)


def stable_releases() -> tuple[str, ...]:
    """The releases that are no previews, oldest first."""
    return tuple(one for one in releases() if not parsed(one).is_prerelease)


def was_never_made(release: str) -> bool:
    """Whether later releases are known, but not this one.

    0.17.0 counts as known if 0.17.0.post1 is known. Some releases are known only from Triton's containers.
    """
    wanted = parsed(release)
    if wanted.is_prerelease or wanted >= parsed(stable_releases()[-1]):
        return False
    known = map(parsed, (*releases(), *releases_read("pins", CONTAINERS)))
    return not any(wanted in {one, parsed(one.base_version)} for one in known)


def containers(release: str) -> Known[tuple[Container, ...]]:
    """Triton's containers with exactly this release, the newest first; empty if none is known.

    The containers of the nearest release are not used: they would not load this release's engines.
    """
    found = look_up("pins", CONTAINERS, release)
    if found.provenance.certainty is Certainty.NEAREST:
        note = f"no container with {release} is listed"
        origin = replace(found.provenance, certainty=Certainty.RENDERED, release=release, note=note)
        return Known((), origin)
    return Known(tuple(Container(image, **row) for image, row in found.value.items()), found.provenance)


def pin(release: str, name: str) -> Known[Any]:
    """One of a release's pins: from its requirements, else its release notes, else its container.

    `python` is a list of versions; images are named without a registry's host. The value is None only for the TensorRT
    of a release that builds no engines any more.

    Raises:
        UsageError: when there is no such pin, or the release is older than all known ones.
    """
    if name == "tensorrt" and not builds_engines(release):
        return Known(None, REMOVAL)
    return look_up("pins", name, release, "value")


def pins(release: str) -> Mapping[str, Known[Any]]:
    """All pins of a release by name, each with its origin."""
    return {name: pin(release, name) for name in subjects("pins") if name != CONTAINERS}


def subjects(topic_name: str) -> tuple[str, ...]:
    """The subjects of a topic."""
    return tuple(topic(topic_name)["subjects"])


def releases_read(topic_name: str, name: str) -> tuple[str, ...]:
    """The releases whose sources were read for a subject, oldest first.

    Raises:
        UsageError: when there is no such subject.
    """
    return tuple(_history(topic_name, name))


def look_up(topic_name: str, name: str, release: str, fact: str | None = None) -> Known[Any]:
    """All facts of a subject by name, or only one fact, in a release or else in the nearest known one.

    The value is None if the release does not have the subject or the fact.

    Raises:
        UsageError: when there is no such subject, or the release is older than all known ones.
    """
    history = _history(topic_name, name)
    if topic_name in ENGINE_TOPICS and not builds_engines(release):
        return Known(None, REMOVAL)
    values = {one: known.value if fact is None else (known.value or {}).get(fact) for one, known in history.items()}
    wanted = version(release)
    chosen = nearest(wanted, tuple(history))
    origin = history[chosen].provenance
    if parsed(chosen) != wanted:
        notes = [f"known of {chosen} ({origin.certainty}), not of {release}", *_others(wanted, chosen, values)]
        origin = replace(origin, certainty=Certainty.NEAREST, note="; ".join(notes))
    return Known(values[chosen], origin)


def nearest(wanted: Version, read: Sequence[str]) -> str:
    """The release in `read` that is nearest to `wanted`: the same one, else one of the same number, else the closest.

    The distance is counted in releases. Of two equally close releases, the earlier one is taken. 0.17.0 and
    0.17.0.post1 have the same number. A preview does not share its number with any release.
    """
    by_version = {parsed(name): name for name in read}
    if wanted in by_version:
        return by_version[wanted]
    known = [] if wanted.is_prerelease else [one for one in by_version if not one.is_prerelease]
    if same := [one for one in known if one.base_version == wanted.base_version]:
        return by_version[max(same)]
    order = sorted({*map(parsed, releases()), *by_version, wanted})
    place = order.index(wanted)
    return by_version[min(by_version, key=lambda one: (abs(order.index(one) - place), one))]


def _others(wanted: Version, chosen: str, values: Mapping[str, Any]) -> list[str]:
    """Sentences on whether the known releases before and after an unknown one agree with the chosen one."""
    before = [one for one in values if parsed(one) < wanted]
    after = [one for one in values if parsed(one) > wanted]
    others = [one for one in (*before[-1:], *after[:1]) if one != chosen]
    return [f"{one} says {'the same' if values[one] == values[chosen] else 'otherwise'}" for one in others]


@cache
def _history(topic_name: str, name: str) -> Mapping[str, Known[dict[str, Any] | None]]:
    """The facts of a subject in each release that was read for it, oldest first; None if a release does not have it."""
    content = topic(topic_name)
    entry = content["subjects"].get(name)
    if entry is None:
        raise UsageError(f"nothing is known of {name!r}", remedy=f"known are: {', '.join(subjects(topic_name))}")
    read = [release for release, _ in entry["releases"]]
    present = [spanned for span in entry.get("present", [(read[0], read[-1])]) for spanned in _within(read, *span)]
    values: dict[str, dict[str, Any]] = {release: {} for release in present}
    for fact, spans in entry["facts"].items():
        for first, last, value in spans:
            for release in _within(present, first, last):
                values[release][fact] = value
    sources = {release: content["sources"][number] for release, number in entry["releases"]}
    return {release: Known(values.get(release), _origin(release, sources[release])) for release in read}


def _within(read: list[str], first: str, last: str) -> list[str]:
    """The releases from the first one to the last."""
    return read[read.index(first) : read.index(last) + 1]


def _origin(release: str, source: Mapping[str, str]) -> Provenance:
    return Provenance(Certainty(source["certainty"]), release, source["source"], source["method"])
