"""The releases of a project that package indexes list, and for which Pythons each one has a wheel."""

import re
from collections.abc import Iterable, Sequence

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from enginery.core.model import Frozen

INDEPENDENT = frozenset({"py3", "py2.py3"})
STABLE_ABI = "abi3"


class ListedFile(Frozen):
    """One file that an index offers.

    Attributes:
        name: its name.
        release: the release in its name, as it is written there.
        is_wheel: whether it is a wheel; anything else must be built before it is installed.
        size: bytes; None where the index does not say.
        yanked: whether it was withdrawn.
    """

    name: str
    release: str
    is_wheel: bool
    size: int | None = None
    yanked: bool = False


class ListedRelease(Frozen):
    """A release that an index lists.

    Attributes:
        release: its version in the normal form.
        files: its files; without the withdrawn ones, unless all of them were withdrawn.
        yanked: whether all of its files were withdrawn.
    """

    release: str
    files: tuple[ListedFile, ...]
    yanked: bool = False

    @property
    def version(self) -> Version:
        """The version, for comparisons."""
        return Version(self.release)

    @property
    def is_prerelease(self) -> bool:
        """Whether it is a preview, such as a release candidate."""
        return self.version.is_prerelease

    @property
    def wheels(self) -> tuple[str, ...]:
        """The names of its wheels."""
        return tuple(file.name for file in self.files if file.is_wheel)

    def has_wheel_for(self, python: str) -> bool:
        """Whether one of its wheels is for a Python such as `3.12`, on Linux."""
        return any(_fits(name, python) for name in self.wheels)


class Listing(Frozen):
    """What the user's package indexes list of a project. `enginery releases listed --json` prints these fields.

    Attributes:
        project: the project's name.
        releases: all of them, oldest first, with the withdrawn ones.
        not_numbers: names of files that were left out, as their release is no version of PEP 440.
        asked: the addresses and directories that answered, without passwords.
        silent: those that did not, each with the reason.
    """

    project: str
    releases: tuple[ListedRelease, ...]
    not_numbers: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def usable(self, *, prereleases: bool = False) -> tuple[ListedRelease, ...]:
        """Those that were not withdrawn, oldest first; previews only with `prereleases`."""
        return tuple(one for one in self.releases if not one.yanked and (prereleases or not one.is_prerelease))

    def find(self, release: str) -> ListedRelease | None:
        """That release, if it is listed."""
        version = Version(release)
        return next((one for one in self.releases if one.version == version), None)


def listing(project: str, files: Iterable[ListedFile], asked: Sequence[str], silent: Sequence[str]) -> Listing:
    """One listing of the files that several indexes and directories have."""
    by_version: dict[Version, list[ListedFile]] = {}
    not_numbers = []
    for file in files:
        try:
            by_version.setdefault(Version(file.release), []).append(file)
        except InvalidVersion:
            not_numbers.append(file.name)
    releases = tuple(_release(version, by_version[version]) for version in sorted(by_version))
    named = tuple(dict.fromkeys(not_numbers))
    return Listing(project=project, releases=releases, not_numbers=named, asked=tuple(asked), silent=tuple(silent))


def _release(version: Version, files: list[ListedFile]) -> ListedRelease:
    offered = [file for file in files if not file.yanked]
    return ListedRelease(release=str(version), files=tuple(offered or files), yanked=not offered)


def _fits(wheel: str, python: str) -> bool:
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return False
    minor = int(python.partition(".")[2] or 0)
    return any(
        _runs(tag.interpreter, tag.abi, minor) and ("linux" in tag.platform or tag.platform == "any") for tag in tags
    )


def _runs(interpreter: str, abi: str, minor: int) -> bool:
    made_for = re.fullmatch(r"cp3(\d+)", interpreter)
    if made_for is None:
        return interpreter in INDEPENDENT
    return int(made_for[1]) == minor or (abi == STABLE_ABI and int(made_for[1]) <= minor)
