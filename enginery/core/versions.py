"""Version numbers of releases. A spec may name a version, a range of versions, or `latest`."""

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

LATEST = "latest"
PARTS = 3
"""How many numbers a release's version has, such as `0.16.0`."""


def fits(wanted: str, release: str) -> bool:
    """Whether `release` fits the text `wanted` of a spec. False when the text is not a version, a range or `latest`."""
    if wanted == LATEST:
        return True
    if is_version(wanted):
        return Version(wanted) == Version(release)
    return is_range(wanted) and SpecifierSet(wanted).contains(release, prereleases=True)


def same(one: str, other: str) -> bool:
    """Whether two versions name the same release, such as `0.16` and `0.16.0`, or `1.2.1` and `1.2.1+cu13`."""
    if is_version(one) and is_version(other):
        return Version(Version(one).public) == Version(Version(other).public)
    return one == other


def is_version(wanted: str) -> bool:
    """Whether the text is one version, such as `0.8.0`."""
    try:
        Version(wanted)
    except InvalidVersion:
        return False
    return True


def full(version: str) -> str:
    """The version with all its numbers: `v0.16` becomes `0.16.0`. So each release has one name and one key."""
    found = Version(version)
    return str(found) + ".0" * max(0, PARTS - len(found.release)) if str(found) == found.base_version else str(found)


def is_range(wanted: str) -> bool:
    """Whether the text is a range of versions, such as `>=1.0,<1.3`."""
    try:
        return bool(SpecifierSet(wanted))
    except InvalidSpecifier:
        return False


def mistake(wanted: str) -> str:
    """What is wrong with a spec's text for a release; empty when nothing is wrong."""
    if wanted == LATEST or is_version(wanted) or is_range(wanted):
        return ""
    return f"{wanted!r} is no version, no range such as '>=0.18,<1' and not '{LATEST}'"
