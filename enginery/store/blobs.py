"""Files kept by their SHA-256 in a directory, as `blobs/sha256/ab/<digest>`: read-only, linked rather than copied."""

import stat
from pathlib import Path

from enginery.core.digests import file_digest, quick_digest
from enginery.core.errors import StoreError
from enginery.core.files import list_files, writing
from enginery.core.threads import side_by_side
from enginery.store.layout import blob_path
from enginery.store.steps import FileRecord

READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class Blobs:
    """The files under a directory. Methods raise StoreError when one cannot be read or written.

    Attributes:
        root: the directory.
        database: the database of known digests; None for the one in Enginery's home.
    """

    def __init__(self, root: Path, database: Path | None = None) -> None:
        self.root, self.database = root, database

    def path(self, file: FileRecord) -> Path:
        """Where the file's bytes are, or would be."""
        return self.root / blob_path(file)

    def has(self, file: FileRecord) -> bool:
        """Whether the file is there, with its size; it is not digested."""
        try:
            return self.path(file).stat().st_size == file.size
        except FileNotFoundError:
            return False

    def take_sound(self, file: FileRecord) -> Path | None:
        """The path of the file, checked by its digest; None when it is not there or damaged.

        A damaged file is removed, so that it is made or fetched again. A digest that is remembered is not taken again.
        """
        blob = self.path(file)
        if not self.has(file):
            return None
        if quick_digest(blob, database=self.database) == file.sha256:
            return blob
        blob.unlink(missing_ok=True)  # another process may have removed it
        return None

    def keep(self, part: Path, file: FileRecord) -> None:
        """Move a finished file in; it must be on the same file system."""
        blob = self.path(file)
        with writing(blob):
            part.chmod(READ_ONLY)
            blob.parent.mkdir(parents=True, exist_ok=True)
            part.replace(blob)


def digest_output(root: Path) -> tuple[FileRecord, ...]:
    """Every file under `root` with its SHA-256 and size, sorted by path; directories without files do not count.

    Raises:
        StoreError: for symbolic links and special files, and for names that are not UTF-8.
        FileNotFoundError: when there is no `root`.
    """
    files = side_by_side(lambda path: _describe(root, path), list_files(root))
    return tuple(sorted(files, key=lambda file: file.path))


def _describe(root: Path, path: Path) -> FileRecord:
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        remedy = "rename it: stores and records keep names as UTF-8"
        raise StoreError("has a name that is not UTF-8", subject=repr(path.as_posix()), remedy=remedy) from error
    file = root / path
    return FileRecord(path=path.as_posix(), sha256=file_digest(file), size=file.stat().st_size)
