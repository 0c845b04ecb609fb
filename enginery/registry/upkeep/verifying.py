"""Verifying: compares every byte of a build with its manifest, in the registry or in a local directory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from enginery.builds import BUILDS, CURRENT, LINKS, MANIFEST, NOTE, LocalBuild, Manifest, PullDirectory
from enginery.core.digests import bytes_digest, file_digest
from enginery.core.model import Frozen
from enginery.core.progress import NoProgress, Progress
from enginery.core.s3 import Prefix, digest_object
from enginery.core.threads import side_by_side
from enginery.registry.claims import CLAIM
from enginery.registry.layout import SIGNATURES
from enginery.registry.reading import manifest_problem
from enginery.registry.registry import Registry
from enginery.store import FileRecord

UNLISTED = (MANIFEST, CLAIM, f"{SIGNATURES}/")
"""Objects of a build that its manifest does not name."""


class Damage(Frozen):
    """A file that is not as the manifest says.

    Attributes:
        path: the file's path, relative to the build.
        kind: what is wrong. `bytecode` is a `.pyc` file that the manifest does not name: Python writes it when a server
            loads a model from a writable directory. An attacker could write one too, and a server would run it.
        problem: what is wrong in words, with sizes or digests.
    """

    path: str
    kind: Literal["missing", "extra", "size", "altered", "bytecode"]
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def verify_build(registry: Registry, manifest: Manifest, progress: Progress | None = None) -> list[Damage]:
    """Read every object of a published build, and list by path what is not as its manifest says. No file is written.

    The caller calls `progress.begin`, so that one progress can count several builds.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    source = registry.build_prefix(manifest.model, manifest.build_id)
    listed = {info.path: info.size for info in source.list()}
    named = {file.path for file in manifest.files}
    found = [_extra(path) for path in listed.keys() - named if not path.startswith(UNLISTED)]
    if problem := manifest_problem(source.get(MANIFEST), manifest):
        found.append(Damage(path=MANIFEST, kind="altered" if MANIFEST in listed else "missing", problem=problem))
    reported = progress or NoProgress()

    def examine(file: FileRecord) -> Damage | None:
        damage = _examine_object(source, file, listed.get(file.path))
        reported.add(file.size)
        reported.end_file()
        return damage

    examined = side_by_side(examine, manifest.files)
    return _by_path([*found, *filter(None, examined)])


def _examine_object(source: Prefix, file: FileRecord, size: int | None) -> Damage | None:
    if size != file.size:
        return _missing(file) if size is None else _other_size(file, size)
    found = digest_object(source, file.path, size=file.size, expected=file.sha256)
    return None if found == file.sha256 else _altered(file, found)


def verify_directory(directory: Path) -> list[Damage]:
    """Read every file of the build in a directory, and list by path what is not as its manifest says.

    The directory is one that `pull` filled, of which the current build is read, or a plain copy of a build.

    Raises:
        RegistryError: when the directory holds no build, or its manifest is not valid.
    """
    build = local_build(directory)
    found = damages(build, file_digest)
    return found if build.directory == directory else [*_wrong_links(PullDirectory(directory)), *found]


def local_build(directory: Path) -> LocalBuild:
    """The current build of a directory that `pull` filled; for a plain copy of a build, the build in the directory.

    Raises:
        RegistryError: when there is none, or its manifest is not valid.
    """
    current = PullDirectory(directory).linked(CURRENT)
    return LocalBuild.read(current or directory)


def damages(build: LocalBuild, digest: Callable[[Path], str]) -> list[Damage]:
    """List by path what is not as the build's manifest and note say; `digest` returns the SHA-256 of a file."""
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
            return Damage(path=file.path, kind="altered", problem="is a symbolic link, or lies behind one")
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
    """All files below `root` as relative paths. A symbolic link counts as a file, also a link to a directory."""
    for directory, names, files in os.walk(root):
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in [*files, *links]:
            yield (Path(directory) / name).relative_to(root).as_posix()


def _wrong_links(pulled: PullDirectory) -> Iterator[Damage]:
    current = pulled.linked(CURRENT)
    if current and current.parent != pulled.root / BUILDS:
        yield Damage(path=CURRENT, kind="altered", problem=f"leads out of {BUILDS}, to {current}")
    for name, target in LINKS.items():
        link = pulled.root / name
        if not link.is_symlink() or str(link.readlink()) != target:
            yield Damage(path=name, kind="altered", problem=f"is not the link to {target} that a pull makes")


def _missing(file: FileRecord) -> Damage:
    return Damage(path=file.path, kind="missing", problem="is missing")


def _extra(path: str) -> Damage:
    if "/__pycache__/" in path and path.endswith(".pyc"):
        problem = "is bytecode that is not in the manifest: Python wrote it when a server ran, or somebody else did"
        return Damage(path=path, kind="bytecode", problem=problem)
    return Damage(path=path, kind="extra", problem="is not in the manifest")


def _other_size(file: FileRecord, size: int) -> Damage:
    return Damage(path=file.path, kind="size", problem=f"has {size:,} bytes, not {file.size:,}")


def _altered(file: FileRecord, sha256: str) -> Damage:
    return Damage(path=file.path, kind="altered", problem=f"sha256 is {sha256}, not {file.sha256}")


def _by_path(found: list[Damage]) -> list[Damage]:
    return sorted(found, key=lambda damage: damage.path)
