"""Files kept by their SHA-256, `blobs/sha256/ab/<digest>` in a directory: read-only, and linked rather than copied."""

import stat
from pathlib import Path

from enginery.digests import quick_digest
from enginery.files import cannot_write
from enginery.records import FileRecord
from enginery.store.layout import blob_path

READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class Blobs:
    """The files in a directory.

    Attributes:
        root: the directory.
        memory: where digests are remembered; None for Enginery's home.
    """

    def __init__(self, root: Path, memory: Path | None = None) -> None:
        self.root, self.memory = root, memory

    def path(self, file: FileRecord) -> Path:
        """Where the file's bytes are, or would be."""
        return self.root / blob_path(file)

    def has(self, file: FileRecord) -> bool:
        """Whether the file's bytes are here, judged by their number."""
        try:
            return self.path(file).stat().st_size == file.size
        except FileNotFoundError:
            return False

    def take_sound(self, file: FileRecord) -> Path | None:
        """The file's bytes, digested unless they are known unchanged; None when they are not here.

        Those that are damaged are removed, so that whoever needs them has them made or fetched anew.

        Raises:
            StoreError: when the digest cannot be taken.
        """
        blob = self.path(file)
        if not self.has(file):
            return None
        if quick_digest(blob, memory=self.memory) == file.sha256:
            return blob
        blob.unlink(missing_ok=True)  # another one may have found that, too
        return None

    def keep(self, part: Path, file: FileRecord) -> None:
        """Take a finished file in here, which is on the same file system.

        Raises:
            StoreError: when it cannot be written.
        """
        blob = self.path(file)
        try:
            part.chmod(READ_ONLY)
            blob.parent.mkdir(parents=True, exist_ok=True)
            part.replace(blob)
        except OSError as error:
            raise cannot_write(blob, error) from error
