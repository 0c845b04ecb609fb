"""The releases there are facts of, and the nearest of them to any other."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from packaging.version import InvalidVersion, Version

from enginery.errors import UsageError
from enginery.releases import data
from enginery.releases.provenance import Certainty, Provenance

ENGINES_UNTIL = "1.3.0rc20"
"""The last release with the TensorRT backend: `trtllm-build`, the converters, Triton's `inflight_batcher_llm`."""

REMOVAL = Provenance(
    Certainty.RENDERED,
    "1.3.0rc20+main",
    "NVIDIA/TensorRT-LLM@335107a7:docs/source/legacy/tensorrt-backend-removal.md",
    "the page on the removal, read by eye",
    f"{ENGINES_UNTIL} is the last release that builds TensorRT engines",
)


def releases() -> tuple[str, ...]:
    """The releases whose `trtllm-build` is known, oldest first."""
    return tuple(name for name, _ in data.topic("build")["subjects"]["trtllm-build"]["releases"])


def version(release: str) -> Version:
    """The release as a version that can be ordered.

    Raises:
        UsageError: it is not a version, or older than all that is known.
    """
    first = releases()[0]
    remedy = f"give a release from {first} on, such as {releases()[-2]}; `enginery releases` lists those known"
    try:
        asked = Version(release)
    except InvalidVersion as error:
        raise UsageError("is not a release of TensorRT-LLM", subject=release, remedy=remedy) from error
    if asked < Version(first):
        raise UsageError("nothing is known of so old a TensorRT-LLM", subject=release, remedy=remedy)
    return asked


def builds_engines(release: str) -> bool:
    """Whether the release still has the TensorRT backend."""
    return version(release) <= Version(ENGINES_UNTIL)


def stable_releases() -> tuple[str, ...]:
    """Those that are no previews, oldest first."""
    return tuple(one for one in releases() if not Version(one).is_prerelease)


def was_never_made(release: str) -> bool:
    """Whether later releases are known and this one is not.

    Facts of a `.post` release answer for its number; Triton's containers name some that nothing else tells of.
    """
    asked = Version(release)
    if asked.is_prerelease or asked >= Version(stable_releases()[-1]):
        return False
    in_containers = (name for name, _ in data.topic("pins")["subjects"]["containers"]["releases"])
    return not any(asked in {Version(one), Version(Version(one).base_version)} for one in (*releases(), *in_containers))


def nearest(asked: Version, read: Sequence[str]) -> str:
    """The one of `read` nearest to a release: itself, else one of the same number, else counted in releases.

    Of two equally near, the earlier.
    """
    by_version = {Version(name): name for name in read}
    if asked in by_version:
        return by_version[asked]
    same = [one for one in by_version if _same_number(one, asked)]
    if same:
        return by_version[max(same)]
    order = sorted({*map(Version, releases()), *by_version})
    place = bisect_left(order, asked) - (0 if asked in order else 0.5)
    return by_version[min(by_version, key=lambda one: (abs(order.index(one) - place), one))]


def neighbours(asked: Version, read: Iterable[str]) -> tuple[str | None, str | None]:
    """The last known release before and the first one after a release that is not known itself."""
    ordered = sorted(read, key=Version)
    before = [name for name in ordered if Version(name) < asked]
    after = [name for name in ordered if Version(name) > asked]
    return (before[-1] if before else None, after[0] if after else None)


def _same_number(one: Version, other: Version) -> bool:
    """0.17.0 and 0.17.0.post1, but not 0.17.0 and its previews."""
    return one.base_version == other.base_version and not one.is_prerelease and not other.is_prerelease
