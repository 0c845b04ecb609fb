"""What a pull notes beside the manifest: whence, when, and which files their place makes other than published."""

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
from enginery.core.digests import MEMORY
from enginery.core.errors import EngineryError, RegistryError
from enginery.core.files import DISK_FULL, remove_tree, sync, sync_tree, write_atomic
from enginery.core.locks import waiting_lock
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.text import human_bytes
from enginery.store import FileRecord

NOTE = "pulled.json"
NOTE_SCHEMA = 1
CONFIG_PARTS = 3
"""`model_repository/<model>/config.pbtxt`."""


class Rewritten(Frozen):
    """A configuration that names the place it was put.

    Attributes:
        path: relative to the build.
        published: the SHA-256 that its manifest says.
        sha256: that of what is here.
        size: bytes of what is here.
    """

    path: str
    published: str
    sha256: str
    size: int


class PulledNote(Frozen):
    """How a build got here.

    Attributes:
        registry: the address it came from.
        channel: the channel it was found by, if it was.
        mount: where a server sees the model repository.
        manifest: the SHA-256 of the manifest's bytes.
        pulled: when, UTC.
        enginery: the version that did it.
        rewritten: the files that are not as published.
        beside: what lies beside the build that its manifest does not name, such as a signature of it.
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
    rewritten: tuple[Rewritten, ...]
    beside: tuple[FileRecord, ...]

    def write(self, build: Path) -> None:
        """Put it into the build's directory."""
        write_atomic(build / NOTE, self.model_dump_json(indent=1), mode=0o444)


class LocalBuild(NamedTuple):
    """A build in a directory.

    Attributes:
        directory: where.
        manifest: its manifest.
        note: what the pull noted; None for a plain copy of a build, such as `aws s3 sync` makes.
    """

    directory: Path
    manifest: Manifest
    note: PulledNote | None

    @classmethod
    def read(cls, directory: Path) -> "LocalBuild":
        """The build in `directory`.

        Raises:
            RegistryError: when there is none, or its manifest or note is not sound.
        """
        path = directory / MANIFEST
        try:
            manifest = read_manifest(path.read_bytes(), subject=str(path))
        except OSError as error:
            remedy = "name a directory that a build was pulled into"
            raise RegistryError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
        return cls(directory, manifest, _read_note(directory / NOTE))

    def expected(self) -> dict[str, FileRecord]:
        """What every file must be, by its path."""
        files = {file.path: file for file in self.manifest.files}
        if self.note:
            files |= {file.path: file for file in self.note.beside}
            files |= {
                changed.path: FileRecord(path=changed.path, sha256=changed.sha256, size=changed.size)
                for changed in self._rewritten(files)
            }
        return files

    def _rewritten(self, published: dict[str, FileRecord]) -> Iterator[Rewritten]:
        """Those of the note that it may speak of: a configuration, rewritten from what was published."""
        for changed in self.note.rewritten if self.note else ():
            known = published.get(changed.path)
            if known and known.sha256 == changed.published and is_config(changed.path):
                yield changed


def is_config(path: str) -> bool:
    """Whether a file of a build configures a model."""
    parts = path.split("/")
    return len(parts) == CONFIG_PARTS and (parts[0], parts[2]) == (MODEL_REPOSITORY, CONFIG)


def _read_note(path: Path) -> PulledNote | None:
    remedy = "pull the build again"
    try:
        return PulledNote.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RegistryError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
    except ValidationError as error:
        raise RegistryError("is not what a pull has noted", subject=str(path), remedy=remedy) from error


# The directory that a pull fills: whole builds, and links to the one that counts.
#
#     DIR/builds/<build id>/…                          a build as it is in the registry, with pulled.json
#     DIR/current -> builds/<build id>                 replaced in one step: the moment in which a build appears
#     DIR/previous -> builds/<build id>                the one before, which a running server may still read
#     DIR/model_repository -> current/model_repository what a Triton server is given
#     DIR/manifest.json -> current/manifest.json
#     DIR/.enginery/                                   the lock, remembered digests, builds on their way
#
# So DIR itself may be a mount point, which could not be renamed over.


BUILDS = "builds"
CURRENT = "current"
PREVIOUS = "previous"
LINKS = {name: f"{CURRENT}/{name}" for name in (MODEL_REPOSITORY, MANIFEST)}
STATE = ".enginery"
FOREIGN_BUT_HARMLESS = {"lost+found"}
"""An empty file system has it."""
SHOWN = 3


class PullDirectory:
    """A directory to pull into. It is changed under its lock only.

    Attributes:
        root: where it is, absolute.
        model_repository: what a Triton server is given.
        memory: where the digests of its large files are remembered.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.model_repository = self.root / MODEL_REPOSITORY
        self._state = self.root / STATE
        self.memory = self._state / MEMORY

    def require_ours(self) -> None:
        """Make sure that it is new, empty, or was made by a pull; nothing in it is touched.

        Raises:
            RegistryError: when it holds something else.
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
            foreign = list(found.keys() - FOREIGN_BUT_HARMLESS)
        if foreign:
            more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
            problem = (
                f"holds what no pull has put there: {', '.join(sorted(foreign)[:SHOWN])}{more}; nothing was touched"
            )
            remedy = "name a new or empty directory, or one that was pulled into before"
            raise RegistryError(problem, subject=str(self.root), remedy=remedy)

    @contextmanager
    def locked(self, log: Log) -> Iterator[None]:
        """No other pull works in it; one that does is waited for. The lock of a process that died is free."""
        self._state.mkdir(parents=True, exist_ok=True)
        with waiting_lock(self._state / "lock", f"waiting for another pull into {self.root}", log):
            yield

    def staging(self, build_id: str) -> Path:
        """Where a build is put together; what a pull that was killed has left of it is still there."""
        directory = self._state / f"incoming-{build_id}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def builds(self) -> list[Path]:
        """The builds that are here, whether they count or not; the current one first."""
        found = self.root / BUILDS
        current = self.linked(CURRENT)
        return sorted(found.iterdir(), key=lambda path: (path != current, path.name)) if found.is_dir() else []

    def linked(self, name: str) -> Path | None:
        """The build that the link `current` or `previous` leads to."""
        link = self.root / name
        return self.root / link.readlink() if link.is_symlink() else None

    def sweep(self, build_id: str | None = None) -> None:
        """Remove builds on their way, and those before `previous`; what a pull of `build_id` can use is left."""
        wanted = {self.linked(CURRENT), self.linked(PREVIOUS)}
        if build_id:
            wanted |= {self._state / f"incoming-{build_id}", self.root / BUILDS / build_id}
        for path in [*self.builds(), *self._state.glob("incoming-*"), *self._state.glob("link-*")]:
            if path not in wanted:
                remove_tree(path)

    def take(self, staging: Path, build_id: str) -> Path:
        """Make a build that is put together one of the builds here; it has the build's name, or that with a number."""
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

    def show(self, build: Path) -> None:
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


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Failures to write there become errors that say what to do about them.

    Raises:
        RegistryError: when something cannot be written; the disk being full is told apart.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(directory, error) from error
    except EngineryError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:  # a time-out of HTTP is an OSError, without
            raise _cannot_write(directory, error.__cause__) from error
        raise


def _cannot_write(directory: Path, error: OSError) -> RegistryError:
    if error.errno in DISK_FULL:
        remedy = "free some space there and run it again: what has been fetched is not fetched again"
        return RegistryError("the disk is full", subject=str(directory), remedy=remedy)
    where = error.filename if isinstance(error.filename, str) else str(directory)
    remedy = f"check that {directory} is a directory that you may write to"
    return RegistryError(f"cannot be written: {error.strerror or error}", subject=where, remedy=remedy)


# Whether a disk has room for what is to be downloaded, asked before it begins.


BLOCK = 512
"""The unit of `st_blocks`."""


def require_room(directory: Path, size: int, *, there: Path) -> None:
    """Make sure that `size` bytes fit in, where parts of them may be `there` already.

    Raises:
        RegistryError: when they do not.
    """
    parts = sum(path.stat().st_blocks * BLOCK for path in there.rglob("*") if path.is_file())
    free = shutil.disk_usage(directory).free
    if size > free + parts:
        problem = f"{human_bytes(size - parts)} are to be fetched, but the disk has {human_bytes(free)} free"
        raise RegistryError(problem, subject=str(directory), remedy="free some space there, or name another directory")
