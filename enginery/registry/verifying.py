"""Whether every byte of a build is what its manifest says, in the registry or in a directory it was pulled into."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from enginery.digests import bytes_digest, file_digest
from enginery.manifest import Manifest
from enginery.parallel import side_by_side
from enginery.progress import NoProgress, Progress
from enginery.records import FileRecord
from enginery.registry.claims import CLAIM
from enginery.registry.layout import MANIFEST
from enginery.registry.placing import BUILDS, CURRENT, LINKS, PullDirectory
from enginery.registry.published import manifest_problem
from enginery.registry.pulled import NOTE, LocalBuild
from enginery.registry.reading import Registry
from enginery.s3 import Prefix
from enginery.steps import Frozen

UNLISTED = (MANIFEST, CLAIM, "signatures/")
"""What lies beside a build's files, and no manifest names."""


class Damage(Frozen):
    """A file that is not what the manifest says.

    Attributes:
        path: relative to the build.
        kind: what is wrong with it; `bytecode` is what Python writes beside a model when a server loads it, unless the
            directory is read-only there, and what anybody could put there for it to run.
        problem: the same for people, with the figures.
    """

    path: str
    kind: Literal["missing", "extra", "size", "altered", "bytecode"]
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def verify_build(registry: Registry, manifest: Manifest, progress: Progress | None = None) -> list[Damage]:
    """Read every object of a published build, keeping none, and list what is not as its manifest says, by path.

    `progress` is told of each file; to begin it is the caller's, who may read several builds.

    Raises:
        RegistryError: when the registry cannot be read; so it is not known whether the build is whole.
    """
    source = registry.build_prefix(manifest.model, manifest.build_id)
    listed = {info.path: info.size for info in source.list()}
    named = {file.path for file in manifest.files}
    found = [_extra(path) for path in listed.keys() - named if not path.startswith(UNLISTED)]
    if problem := manifest_problem(source.get(MANIFEST), manifest):
        found.append(Damage(path=MANIFEST, kind="altered" if MANIFEST in listed else "missing", problem=problem))
    told = progress or NoProgress()

    def examine(file: FileRecord) -> Damage | None:
        damage = _examine_object(source, file, listed.get(file.path))
        told.add(file.size)
        told.end_file()
        return damage

    examined = side_by_side(examine, manifest.files)
    return _by_path([*found, *filter(None, examined)])


def _examine_object(source: Prefix, file: FileRecord, size: int | None) -> Damage | None:
    if size != file.size:
        return _missing(file) if size is None else _other_size(file, size)
    found = source.digest(file.path, size=file.size)
    if found != file.sha256:  # once more, as a network alters bytes too
        found = source.digest(file.path, size=file.size)
    return None if found == file.sha256 else _altered(file, found)


def verify_directory(directory: Path) -> list[Damage]:
    """Read every file of the build in a directory, and list what is not as its manifest says, by path.

    The directory is one that was pulled into, of which the current build is read, or a plain copy of a build.

    Raises:
        RegistryError: when it holds no build, or one whose manifest is not sound.
    """
    build = local_build(directory)
    found = damages(build, file_digest)
    return found if build.directory == directory else [*_wrong_links(PullDirectory(directory)), *found]


def local_build(directory: Path) -> LocalBuild:
    """The build that counts in a directory.

    Raises:
        RegistryError: when there is none, or its manifest is not sound.
    """
    current = PullDirectory(directory).linked(CURRENT)
    return LocalBuild.read(current or directory)


def damages(build: LocalBuild, digest: Callable[[Path], str]) -> list[Damage]:
    """What in a directory is not as the build's manifest says, by path; `digest` takes the SHA-256 of a file."""
    expected = build.expected()
    there = set(_walk(build.directory))
    own = {MANIFEST, NOTE} if build.note else {MANIFEST}
    found = [_extra(path) for path in there - expected.keys() - own if build.note or not path.startswith(UNLISTED)]
    if build.note and (problem := _manifest_differs(build.directory / MANIFEST, build.note.manifest)):
        found.append(problem)
    examined = side_by_side(lambda file: _examine_file(build.directory, file, digest), expected.values())
    return _by_path([*found, *filter(None, examined)])


def _manifest_differs(path: Path, sha256: str) -> Damage | None:
    found = bytes_digest(path.read_bytes())
    problem = f"sha256 is {found}, not {sha256} as it was pulled"
    return None if found == sha256 else Damage(path=MANIFEST, kind="altered", problem=problem)


def _examine_file(root: Path, file: FileRecord, digest: Callable[[Path], str]) -> Damage | None:
    path = root / file.path
    try:
        if path.resolve(strict=True) != root.resolve() / file.path:
            return Damage(path=file.path, kind="altered", problem="is or lies behind a symbolic link")
        size = path.stat().st_size
        if size != file.size:
            return _other_size(file, size)
        found = digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return _missing(file)
    except OSError as error:
        return Damage(path=file.path, kind="altered", problem=f"cannot be read: {error.strerror}")
    return None if found == file.sha256 else _altered(file, found)


def _walk(root: Path) -> Iterator[str]:
    """All that is no directory, relative to `root`; a link to one is no directory."""
    for directory, names, files in os.walk(root):
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in [*files, *links]:
            yield (Path(directory) / name).relative_to(root).as_posix()


def _wrong_links(place: PullDirectory) -> Iterator[Damage]:
    current = place.linked(CURRENT)
    if current and current.parent != place.root / BUILDS:
        yield Damage(path=CURRENT, kind="altered", problem=f"leads out of {BUILDS}, to {current}")
    for name, target in LINKS.items():
        link = place.root / name
        if not link.is_symlink() or str(link.readlink()) != target:
            yield Damage(path=name, kind="altered", problem=f"is not the link to {target} that a pull makes")


def _missing(file: FileRecord) -> Damage:
    return Damage(path=file.path, kind="missing", problem="is missing")


def _extra(path: str) -> Damage:
    if "/__pycache__/" in path and path.endswith(".pyc"):
        problem = "is bytecode, of which the manifest says nothing: Python wrote it when a server ran, or somebody else"
        return Damage(path=path, kind="bytecode", problem=problem)
    return Damage(path=path, kind="extra", problem="is not in the manifest")


def _other_size(file: FileRecord, size: int) -> Damage:
    return Damage(path=file.path, kind="size", problem=f"has {size:,} bytes, not {file.size:,}")


def _altered(file: FileRecord, sha256: str) -> Damage:
    return Damage(path=file.path, kind="altered", problem=f"sha256 is {sha256}, not {file.sha256}")


def _by_path(found: list[Damage]) -> list[Damage]:
    return sorted(found, key=lambda damage: damage.path)
