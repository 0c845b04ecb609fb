"""A step's output, described file by file."""

from pathlib import Path

from enginery.digests import file_digest
from enginery.errors import StoreError
from enginery.files import list_files
from enginery.parallel import side_by_side
from enginery.records import FileRecord


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
    whole = root / path
    return FileRecord(path=path.as_posix(), sha256=file_digest(whole), size=whole.stat().st_size)
