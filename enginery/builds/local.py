"""Builds in local directories: the directory that a pull fills, and the note that it writes beside the manifest.

    DIR/builds/<build id>/…                          a build as it is in the registry, with the note pulled.json
    DIR/current -> builds/<build id>                 the current build; a pull replaces this link in one step
    DIR/previous -> builds/<build id>                the build before, which a running server may still read
    DIR/model_repository -> current/model_repository the path for a Triton server
    DIR/manifest.json -> current/manifest.json
    DIR/.enginery/                                   the lock, remembered digests, builds that are not complete yet

Only links inside DIR are replaced, so DIR itself can be a mount point, which cannot be renamed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pydantic import ValidationError

from enginery.builds.manifest import MANIFEST, MODEL_REPOSITORY, Manifest, read_manifest
from enginery.builds.model_config import CONFIG
from enginery.core.digests import DIGESTS_FILE
from enginery.core.errors import EngineryError, RegistryError
from enginery.core.files import DISK_FULL, remove_tree, sync, sync_tree
from enginery.core.locks import waiting_lock
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.text import first_of, human_bytes
from enginery.store import FileRecord

NOTE = "pulled.json"
NOTE_SCHEMA = 1
CONFIG_PARTS = 3
"""The number of parts of the path `model_repository/<model>/config.pbtxt`."""
BUILDS = "builds"
CURRENT = "current"
PREVIOUS = "previous"
LINKS = {name: f"{CURRENT}/{name}" for name in (MODEL_REPOSITORY, MANIFEST)}
STATE = ".enginery"
HARMLESS = {"lost+found"}
"""Names that may be in a directory which counts as empty: a new file system has them."""
SHOWN = 3
BLOCK = 512
"""The bytes of one block as `st_blocks` counts them."""


class Rewritten(FileRecord):
    """A model configuration that a pull has changed. `published` is the SHA-256 of the file in the registry."""

    published: str


class PulledNote(Frozen):
    """The note of a pull: where the build came from, and which of its files are not as published.

    Attributes:
        registry: the address of the registry.
        channel: the channel that led to the build, if any.
        mount: the path at which a server sees the model repository.
        manifest: the SHA-256 of the manifest's bytes.
        pulled: when it was pulled, UTC.
        enginery: the version of Enginery that pulled it.
        rewritten: the model configurations that the pull has changed.
        beside: files that the pull has added and the manifest does not name, such as a signature.
    """

    schema_version: int = NOTE_SCHEMA
    model: str
    build_id: str
    registry: str
    channel: str | None
    mount: str
    manifest: str
    pulled: datetime
    enginery: str
    rewritten: tuple[Rewritten, ...] = ()
    beside: tuple[FileRecord, ...] = ()


class LocalBuild(NamedTuple):
    """A build in a directory.

    Attributes:
        directory: the directory.
        manifest: the build's manifest.
        note: the note of the pull; None for a plain copy of a build, as made with `aws s3 sync`.
    """

    directory: Path
    manifest: Manifest
    note: PulledNote | None

    @classmethod
    def read(cls, directory: Path) -> "LocalBuild":
        """The build in `directory`.

        Raises:
            RegistryError: when the directory has no build, or its manifest or note is not valid.
        """
        path = directory / MANIFEST
        try:
            manifest = read_manifest(path.read_bytes(), subject=str(path))
        except OSError as error:
            remedy = "name a directory that a build was pulled into"
            raise RegistryError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
        return cls(directory, manifest, _read_note(directory / NOTE))

    def expected(self) -> dict[str, FileRecord]:
        """The size and digest that every file must have, by path."""
        files = {file.path: file for file in self.manifest.files}
        if self.note:
            files |= {file.path: file for file in self.note.beside}
        for changed in self.note.rewritten if self.note else ():
            known = files.get(changed.path)
            # Only a changed model configuration is expected; the note cannot excuse a change of another file.
            if known and known.sha256 == changed.published and is_config(changed.path):
                files[changed.path] = changed
        return files


class PullDirectory:
    """A directory to pull into. It is changed only under its lock.

    Attributes:
        root: its absolute path.
        model_repository: the path to give to a Triton server.
        digests: the database in which the digests of its large files are remembered.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.model_repository = self.root / MODEL_REPOSITORY
        self._state = self.root / STATE
        self.digests = self._state / DIGESTS_FILE

    def require_ours(self) -> None:
        """Make sure that the directory is new, empty, or was made by a pull. Nothing in it is changed.

        Raises:
            RegistryError: when it holds files that no pull has made.
        """
        if not os.path.lexists(self.root):
            return
        with writing(self.root):
            found = {entry.name: entry for entry in os.scandir(self.root)}
        links = {*LINKS, CURRENT, PREVIOUS}
        if STATE in found:
            foreign = [name for name in links & found.keys() if not found[name].is_symlink()]
            foreign += [
                name for name in {BUILDS, STATE} & found.keys() if not found[name].is_dir(follow_symlinks=False)
            ]
        else:
            foreign = list(found.keys() - HARMLESS)
        if foreign:
            shown = first_of(sorted(foreign), SHOWN)
            problem = f"holds files that no pull has made: {shown}; nothing was changed"
            remedy = "name a new or empty directory, or one that was pulled into before"
            raise RegistryError(problem, subject=str(self.root), remedy=remedy)

    @contextmanager
    def locked(self, log: Log) -> Iterator[None]:
        """Wait for other pulls into the directory, and hold its lock. The lock of a process that dies is released."""
        self._state.mkdir(parents=True, exist_ok=True)
        with waiting_lock(self._state / "lock", f"waiting for another pull into {self.root}", log):
            yield

    def staging(self, build_id: str) -> Path:
        """The directory in which a build is put together; it may hold files of the same build from a killed pull."""
        directory = self._state / f"incoming-{build_id}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def builds(self) -> list[Path]:
        """All builds in the directory, the current one first."""
        found = self.root / BUILDS
        current = self.linked(CURRENT)
        return sorted(found.iterdir(), key=lambda path: (path != current, path.name)) if found.is_dir() else []

    def linked(self, name: str) -> Path | None:
        """The directory of the build that the link `current` or `previous` points to; None without the link."""
        link = self.root / name
        return self.root / link.readlink() if link.is_symlink() else None

    def sweep(self, build_id: str | None = None) -> None:
        """Remove builds older than the previous one, and files of killed pulls; those of `build_id` stay."""
        wanted = {self.linked(CURRENT), self.linked(PREVIOUS)}
        if build_id:
            wanted |= {self._state / f"incoming-{build_id}", self.root / BUILDS / build_id}
        for path in [*self.builds(), *self._state.glob("incoming-*"), *self._state.glob("link-*")]:
            if path not in wanted:
                remove_tree(path)

    def add(self, staging: Path, build_id: str) -> Path:
        """Move a complete build from `staging` to `builds/`; a number is added to its name if the name is taken."""
        sync_tree(staging)
        place = self.root / BUILDS / build_id
        place.parent.mkdir(exist_ok=True)
        number = 1
        while os.path.lexists(place):
            number += 1
            place = place.with_name(f"{build_id}.{number}")
        staging.rename(place)
        sync(place.parent)
        return place

    def make_current(self, build: Path) -> None:
        """Make a build the current one, in one step."""
        for name, target in LINKS.items():
            self._link(name, Path(target))
        before = self.linked(CURRENT)
        if before == build:
            return
        if before:
            self._link(PREVIOUS, before.relative_to(self.root))
        self._link(CURRENT, build.relative_to(self.root))
        sync(self.root)

    def _link(self, name: str, target: Path) -> None:
        link = self.root / name
        if link.is_symlink() and link.readlink() == target:
            return
        new = self._state / f"link-{uuid4().hex}"
        new.symlink_to(target)
        new.replace(link)


def is_config(path: str) -> bool:
    """Whether a path in a build is the path of a model's configuration."""
    parts = path.split("/")
    return len(parts) == CONFIG_PARTS and (parts[0], parts[2]) == (MODEL_REPOSITORY, CONFIG)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn an OSError of a `with` block that writes into `directory` into a RegistryError with a remedy."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(directory, error) from error
    except EngineryError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:  # an HTTP timeout has no errno
            raise _cannot_write(directory, error.__cause__) from error
        raise


def require_free_space(directory: Path, size: int, *, partial: Path) -> None:
    """Raise a RegistryError when the disk has no space for `size` bytes; files in `partial` are part of them."""
    present = sum(path.stat().st_blocks * BLOCK for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(directory).free
    if size > free + present:
        problem = f"{human_bytes(size - present)} must be fetched, but the disk has {human_bytes(free)} free"
        raise RegistryError(problem, subject=str(directory), remedy="free some space there, or name another directory")


def _read_note(path: Path) -> PulledNote | None:
    remedy = "pull the build again"
    try:
        return PulledNote.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RegistryError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
    except ValidationError as error:
        raise RegistryError("is not the note of a pull", subject=str(path), remedy=remedy) from error


def _cannot_write(directory: Path, error: OSError) -> RegistryError:
    if error.errno in DISK_FULL:
        remedy = "free some space there and run it again: what has been fetched is not fetched again"
        return RegistryError("the disk is full", subject=str(directory), remedy=remedy)
    where = error.filename if isinstance(error.filename, str) else str(directory)
    remedy = f"check that {directory} is a directory that you may write to"
    return RegistryError(f"cannot be written: {error.strerror or error}", subject=where, remedy=remedy)
