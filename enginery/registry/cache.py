"""A cache that many pulls on one machine share: files by their SHA-256, each downloaded once.

It is laid out like a store in a directory, and may be one. It can be removed whenever no pull runs: what was pulled
does not need it.
"""

from collections.abc import Sequence
from pathlib import Path

from enginery.context import Log
from enginery.digests import MEMORY, quick_digest, remember_digest
from enginery.files import remove_tree
from enginery.locks import waiting_lock
from enginery.progress import Progress
from enginery.records import FileRecord
from enginery.registry.placing import writing
from enginery.registry.room import require_room
from enginery.s3 import Prefix
from enginery.store.blobs import Blobs
from enginery.transfers import Download, download_all


class Cache:
    """A directory of files that pulls share.

    Attributes:
        root: the directory.
        blobs: its files. Their digests are remembered in it, for processes that have no home to keep.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.blobs = Blobs(self.root, memory=self.root / MEMORY)

    def fetch(self, source: Prefix, files: Sequence[FileRecord], work: str, progress: Progress, log: Log) -> int:
        """Have files of different digests in here; whoever comes first downloads them, the others wait.

        Args:
            source: where they are.
            files: what is wanted.
            work: names what is done, the same in each process that does the same.
            progress: told of all files, also of those that are here.
            log: told when another is waited for.

        Returns:
            The bytes that were downloaded.

        Raises:
            RegistryError: when the cache cannot be written, or the files not fetched.
        """
        lock = self.root / "locks" / f"{work}.add.lock"
        with writing(self.root), waiting_lock(lock, f"waiting for another pull that fills {self.root}", log):
            incoming = self.root / "work" / f"{work}.incoming"
            self._remove_unsound(incoming, files)
            self._collect(incoming, files)
            missing = [file for file in files if self.blobs.take_sound(file) is None]
            self._report(files, missing, progress)
            try:
                self._download(source, missing, incoming, progress)
            finally:
                self._collect(incoming, missing)
            remove_tree(incoming)
        return sum(file.size for file in missing)

    def _download(self, source: Prefix, files: Sequence[FileRecord], incoming: Path, progress: Progress) -> None:
        require_room(self.root, sum(file.size for file in files), there=incoming)
        downloads = [Download(file.path, incoming / file.sha256, file.size, file.sha256, resume=True) for file in files]
        download_all(source, downloads, progress)

    def _remove_unsound(self, incoming: Path, files: Sequence[FileRecord]) -> None:
        """Of what one that was killed has left: a file that a power failure cut short has its name all the same."""
        for file in files:
            part = incoming / file.sha256
            if part.is_file() and quick_digest(part, memory=self.blobs.memory) != file.sha256:
                part.unlink()

    def _collect(self, incoming: Path, files: Sequence[FileRecord]) -> None:
        """Take in what has come whole: a file gets its name when it has been digested."""
        for file in files:
            part = incoming / file.sha256
            if part.is_file():
                self.blobs.keep(part, file)
                remember_digest(self.blobs.path(file), file.sha256, memory=self.blobs.memory)

    def _report(self, files: Sequence[FileRecord], missing: Sequence[FileRecord], progress: Progress) -> None:
        for file in set(files).difference(missing):
            progress.add(file.size)
            progress.end_file()
