"""What a pull notes beside the manifest: whence, when, and which files their place makes other than published."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from enginery.errors import RegistryError
from enginery.files import write_atomic
from enginery.manifest import MODEL_REPOSITORY, Manifest, read_manifest
from enginery.records import FileRecord
from enginery.registry.layout import MANIFEST
from enginery.steps import Frozen
from enginery.triton.placement import CONFIG

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
