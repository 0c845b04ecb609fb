"""Read-only files in a directory, named by their SHA-256: `blobs/sha256/ab/<digest>`. Hard links avoid copies."""

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
    """The content-addressed files of a directory. Methods raise StoreError when a file cannot be read or written.

    Attributes:
        root: the directory.
        database: the database of remembered digests; None for the database in Enginery's home.
    """

    def __init__(self, root: Path, database: Path | None = None) -> None:
        self.root, self.database = root, database

    def path(self, file: FileRecord) -> Path:
        """The path of the file's bytes, whether the file exists or not."""
        return self.root / blob_path(file)

    def has(self, file: FileRecord) -> bool:
        """Whether the file exists and has its size. It is not digested."""
        try:
            return self.path(file).stat().st_size == file.size
        except FileNotFoundError:
            return False

    def verified_path(self, file: FileRecord) -> Path | None:
        """The path of the file if its digest is right; None when the file is missing or damaged.

        A damaged file is removed, so that it is made or fetched again. A remembered digest is not computed again.
        """
        blob = self.path(file)
        if not self.has(file):
            return None
        if quick_digest(blob, database=self.database) == file.sha256:
            return blob
        blob.unlink(missing_ok=True)  # another process may have removed it
        return None

    def keep(self, part: Path, file: FileRecord) -> None:
        """Move the complete file `part` into the store. It must be on the same file system."""
        blob = self.path(file)
        with writing(blob):
            part.chmod(READ_ONLY)
            blob.parent.mkdir(parents=True, exist_ok=True)
            part.replace(blob)


def digest_output(root: Path) -> tuple[FileRecord, ...]:
    """Every file under `root` with its SHA-256 and size, sorted by path. Empty directories are left out.

    Raises:
        StoreError: for symbolic links, special files, and names that are not UTF-8.
        FileNotFoundError: when `root` does not exist.
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
