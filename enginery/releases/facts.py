"""The facts of a release, and how sure each one is.

`look_up` gives all facts of one subject, such as a command, in a release; `pin` and `containers` give the versions that
belong to a release, and Triton's images with it. For a release that nothing is known of, the nearest one is used.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Generic, TypeVar

from packaging.version import InvalidVersion, Version

from enginery.core.errors import UsageError
from enginery.releases import data

Value = TypeVar("Value")
Facts = Mapping[str, Any]
Span = tuple[Version, Version, Any]

ENGINES_UNTIL = "1.3.0rc20"
"""The last release with the TensorRT backend: `trtllm-build`, the converters, Triton's `inflight_batcher_llm`."""
PINS = (
    "python",
    "python_requires",
    "cuda",
    "tensorrt",
    "torch",
    "quantizer",
    "transformers",
    "pytorch_image",
    "triton_image",
)
"""The names of pins. `python` is a list of versions; the images are named without a registry's host."""


class Certainty(StrEnum):
    """How a fact became known, the surest way first."""

    PARSED = "parsed"
    """A program read it from the release's own source."""
    RENDERED = "rendered"
    """Read by eye from what NVIDIA published of the release: a page, release notes, a table."""
    INFERRED = "inferred"
    """Taken from another release that must be the same by its release notes."""
    NEAREST = "nearest"
    """Nothing is known of the release: these are the facts of the nearest one that is known."""


@dataclass(frozen=True)
class Provenance:
    """Where a fact comes from.

    Attributes:
        certainty: how it became known.
        release: the release that the facts are of; not the requested one when `certainty` is `nearest`.
        source: repository, commit and file, or page.
        method: how it was read.
        note: for `nearest`: whether the known releases before and after it agree.
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
    """One of Triton's images with TensorRT-LLM inside; a field is empty where it is not known.

    Attributes:
        image: name and tag without the registry's host, such as `nvidia/tritonserver:26.07-trtllm-python-py3`.
        python: its Python.
        tensorrt: its TensorRT, which an engine is tied to.
        torch: its PyTorch.
        cuda: its CUDA.
        driver: the GPU driver it is made for.
    """

    image: str
    python: str = ""
    tensorrt: str = ""
    torch: str = ""
    cuda: str = ""
    driver: str = ""


@dataclass(frozen=True)
class Subject:
    """A subject, such as a command, with its facts in the releases whose sources were read for it.

    Attributes:
        read: the releases that were read, oldest first, each with where.
        present: spans of releases that have the subject.
        spans: facts by name, each with the first and last release in which it holds.
    """

    read: Mapping[str, Provenance]
    present: tuple[Span, ...]
    spans: Mapping[str, tuple[Span, ...]]

    def at(self, release: str) -> Facts | None:
        """The facts of a release that was read; None when it does not have the subject."""
        version = Version(release)
        if not any(first <= version <= last for first, last, _ in self.present):
            return None
        found = {name: _span_with(version, spans) for name, spans in self.spans.items()}
        return {name: span[2] for name, span in found.items() if span}


def releases() -> tuple[str, ...]:
    """The releases whose `trtllm-build` is known, oldest first."""
    return tuple(name for name, _ in data.topic("build")["subjects"]["trtllm-build"]["releases"])


def version(release: str) -> Version:
    """The release as a version that can be compared.

    Raises:
        UsageError: it is not a version, or older than all that is known.
    """
    first = releases()[0]
    remedy = f"give a release from {first} on, such as {releases()[-2]}; `enginery releases` lists those known"
    try:
        found = Version(release)
    except InvalidVersion as error:
        raise UsageError("is not a release of TensorRT-LLM", subject=release, remedy=remedy) from error
    if found < Version(first):
        raise UsageError("nothing is known of so old a TensorRT-LLM", subject=release, remedy=remedy)
    return found


def builds_engines(release: str) -> bool:
    """Whether the release still has the TensorRT backend."""
    return version(release) <= Version(ENGINES_UNTIL)


def stable_releases() -> tuple[str, ...]:
    """The releases that are no previews, oldest first."""
    return tuple(one for one in releases() if not Version(one).is_prerelease)


def was_never_made(release: str) -> bool:
    """Whether later releases are known and this one is not.

    0.17.0 counts as known when 0.17.0.post1 is. Some releases are known only from Triton's containers.
    """
    wanted = Version(release)
    if wanted.is_prerelease or wanted >= Version(stable_releases()[-1]):
        return False
    in_containers = (name for name, _ in data.topic("pins")["subjects"]["containers"]["releases"])
    known = map(Version, (*releases(), *in_containers))
    return not any(wanted in {one, Version(one.base_version)} for one in known)


def containers(release: str) -> Known[tuple[Container, ...]]:
    """Triton's containers with exactly this release, the newest first; none where none is known.

    The nearest release's containers are not given: they would not load this release's engines.
    """
    found = look_up("pins", "containers", release)
    if Version(found.provenance.release) != version(release):
        origin = found.provenance
        note = f"no container with {release} is listed"
        return Known((), Provenance(Certainty.RENDERED, release, origin.source, origin.method, note))
    rows = found.value or {}
    return Known(tuple(Container(image, **row) for image, row in rows.items()), found.provenance)


def pin(release: str, name: str) -> Known[Any]:
    """One of `PINS` for a release: from its requirements, else its release notes, else its container.

    None only for the TensorRT of a release that builds no engines any more.

    Raises:
        UsageError: there is no such pin, or nothing is known of so old a release.
    """
    if name == "tensorrt" and not builds_engines(release):
        return Known(None, REMOVAL)
    return look_up_one("pins", name, release, "value")


def pins(release: str) -> Mapping[str, Known[Any]]:
    """All pins of a release, each with where it comes from."""
    return {name: pin(release, name) for name in PINS}


def subjects(topic: str) -> tuple[str, ...]:
    """The subjects of a topic."""
    return tuple(data.topic(topic)["subjects"])


def releases_read(topic: str, name: str) -> tuple[str, ...]:
    """The releases whose sources were read for a subject, oldest first.

    Raises:
        UsageError: there is no such subject.
    """
    return tuple(_subject(topic, name).read)


def look_up(topic: str, name: str, release: str) -> Known[Facts | None]:
    """All facts of a subject in a release or the nearest known; None when it does not have the subject.

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


def nearest(wanted: Version, read: Sequence[str]) -> str:
    """The one of `read` nearest to a release: the release itself, else one of the same number, else one close to it.

    The distance is counted in releases. Of two that are equally near, it is the earlier one.
    """
    by_version = {Version(name): name for name in read}
    if wanted in by_version:
        return by_version[wanted]
    same = [one for one in by_version if _same_number(one, wanted)]
    if same:
        return by_version[max(same)]
    order = sorted({*map(Version, releases()), *by_version})
    place = bisect_left(order, wanted) - (0 if wanted in order else 0.5)
    return by_version[min(by_version, key=lambda one: (abs(order.index(one) - place), one))]


def neighbours(wanted: Version, read: Iterable[str]) -> tuple[str | None, str | None]:
    """The last known release before and the first one after a release that is not known itself."""
    ordered = sorted(read, key=Version)
    before = [name for name in ordered if Version(name) < wanted]
    after = [name for name in ordered if Version(name) > wanted]
    return (before[-1] if before else None, after[0] if after else None)


def _provenance(found: Subject, release: str, chosen: str, agrees: Any) -> Provenance:
    origin = found.read[chosen]
    wanted = version(release)
    if Version(chosen) == wanted:
        return origin
    others = [one for one in neighbours(wanted, found.read) if one is not None and one != chosen]
    others_say = [f"{one} says {'the same' if agrees(found.at(one)) else 'otherwise'}" for one in others]
    note = "; ".join([f"known of {chosen} ({origin.certainty}), not of {release}", *others_say])
    return Provenance(Certainty.NEAREST, chosen, origin.source, origin.method, note)


@cache
def _subject(topic: str, name: str) -> Subject:
    content = data.topic(topic)
    entry = content["subjects"].get(name)
    if entry is None:
        known = ", ".join(subjects(topic))
        raise UsageError(f"nothing is known of {name!r}", remedy=f"known are: {known}")
    sources = content["sources"]
    read = {release: _origin(release, sources[number]) for release, number in entry["releases"]}
    whole = [[entry["releases"][0][0], entry["releases"][-1][0]]]
    present = tuple(_span(first, last, None) for first, last in entry.get("present", whole))
    spans = {fact: tuple(_span(*one) for one in held) for fact, held in entry["facts"].items()}
    return Subject(read, present, spans)


def _origin(release: str, source: Mapping[str, str]) -> Provenance:
    return Provenance(Certainty(source["certainty"]), release, source["source"], source["method"])


def _span(first: str, last: str, fact: Any) -> Span:
    return Version(first), Version(last), fact


def _span_with(version: Version, spans: tuple[Span, ...]) -> Span | None:
    return next((span for span in spans if span[0] <= version <= span[1]), None)


def _same_number(one: Version, other: Version) -> bool:
    """True for 0.17.0 and 0.17.0.post1, but not for 0.17.0 and its previews."""
    return one.base_version == other.base_version and not one.is_prerelease and not other.is_prerelease
