"""Filling a directory with a build's files: those on this machine are reused, the others are downloaded.

Pulls on one machine may share a cache, where each file lies under its SHA-256 and is downloaded once. It is laid out
like a store in a directory, and may be one. It can be removed whenever no pull runs: pulled builds do not need it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginery.builds import LocalBuild, Manifest, require_free_space, writing
from enginery.core.digests import MEMORY, SMALL_FILE_BYTES, json_digest, quick_digest, remember_digest
from enginery.core.errors import RegistryError
from enginery.core.files import copy_file, link_or_copy, list_files, remove_tree
from enginery.core.locks import waiting_lock
from enginery.core.progress import Log, Progress
from enginery.core.s3 import Download, Prefix, download_all
from enginery.core.threads import side_by_side
from enginery.store import READ_ONLY, Blobs, FileRecord


class Cache:
    """A directory of files that pulls share.

    Attributes:
        root: the directory.
        blobs: its files. Their digests are remembered inside it, because a process may have no home directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.blobs = Blobs(self.root, memory=self.root / MEMORY)

    def fetch(self, source: Prefix, files: Sequence[FileRecord], work: str, progress: Progress, log: Log) -> int:
        """Bring files into the cache; of several processes the first downloads them, the others wait.

        Args:
            source: the build in the registry.
            files: the files, each with another digest.
            work: a name for this work, the same in every process that fetches the same build.
            progress: counts every file, also one that the cache holds already.
            log: takes a line when another pull is waited for.

        Returns:
            The number of bytes downloaded.

        Raises:
            RegistryError: when the cache cannot be written, or a file cannot be fetched.
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
        require_free_space(self.root, sum(file.size for file in files), partial=incoming)
        downloads = [Download(file.path, incoming / file.sha256, file.size, file.sha256, resume=True) for file in files]
        download_all(source, downloads, progress)

    def _remove_unsound(self, incoming: Path, files: Sequence[FileRecord]) -> None:
        """Remove files that a killed pull has left and that a power failure has cut short."""
        for file in files:
            part = incoming / file.sha256
            if part.is_file() and quick_digest(part, memory=self.blobs.memory) != file.sha256:
                part.unlink()

    def _collect(self, incoming: Path, files: Sequence[FileRecord]) -> None:
        """Move files that are whole into the cache. A download has its final name only once its digest was right."""
        for file in files:
            part = incoming / file.sha256
            if part.is_file():
                self.blobs.keep(part, file)
                remember_digest(self.blobs.path(file), file.sha256, memory=self.blobs.memory)

    def _report(self, files: Sequence[FileRecord], missing: Sequence[FileRecord], progress: Progress) -> None:
        for file in set(files).difference(missing):
            progress.add(file.size)
            progress.end_file()


@dataclass(frozen=True)
class Filling:
    """Brings the files of a build into a directory.

    Attributes:
        source: the build in the registry.
        manifest: lists the files that belong into the directory.
        directory: the directory; files in it already are reused or removed.
        memory: where digests are remembered.
        builds: other builds on this machine, whose files are reused when they are the same.
        cache: a cache to use, if any.
        progress: counts every file.
        log: takes a line about what takes time.
    """

    source: Prefix
    manifest: Manifest
    directory: Path
    memory: Path
    builds: tuple[Path, ...]
    cache: Cache | None
    progress: Progress
    log: Log

    def run(self) -> int:
        """Bring every file there, checked by its digest, and nothing else; returns how many bytes were downloaded.

        Raises:
            RegistryError: when a file cannot be downloaded or is not what the manifest says.
            OSError, StoreError: when something cannot be written.
        """
        files = self.manifest.files
        self.progress.begin(f"pulling {self.manifest.build_id}", files=len(files), size=self.manifest.size)
        missing = self._missing(files)
        fetched = self._fetch(missing)
        self._tidy()
        return fetched

    def _missing(self, files: Sequence[FileRecord]) -> list[FileRecord]:
        known = self._known()
        if not (known or self.cache or any(self.directory.iterdir())):
            return list(files)  # a first pull: nothing can be reused
        reused = side_by_side(lambda file: self._reuse(file, known), files)
        return [file for file, found in zip(files, reused, strict=True) if not found]

    def _known(self) -> dict[str, Path]:
        """The files of the other builds, by the SHA-256 that they should have."""
        known: dict[str, Path] = {}
        for directory in self.builds:
            for path, file in _expected(directory).items():
                known.setdefault(file.sha256, directory / path)
        return known

    def _reuse(self, file: FileRecord, known: Mapping[str, Path]) -> bool:
        """Whether a file could be put into its place from this machine."""
        target = self.directory / file.path
        if not self._is(target, file):
            remove_tree(target)
            source = self.cache.blobs.take_sound(file) if self.cache else None
            if source is None and self._is(known.get(file.sha256), file):
                source = known[file.sha256]
            if source is None:
                return False
            _put(source, target)
        self._count(file)
        return True

    def _is(self, path: Path | None, file: FileRecord) -> bool:
        if path is None or path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        return quick_digest(path, memory=self.memory) == file.sha256

    def _fetch(self, missing: list[FileRecord]) -> int:
        distinct = {file.sha256: file for file in missing}
        fetched = self._fetch_by_cache(self.cache, distinct) if self.cache else self._download(distinct.values())
        for file in missing:
            first = distinct[file.sha256]
            if file is not first:
                _put(self.directory / first.path, self.directory / file.path)
                self._count(file)
        return fetched

    def _download(self, files: Collection[FileRecord]) -> int:
        size = sum(file.size for file in files)
        require_free_space(self.directory, size, partial=self.directory)
        places = {file: self.directory / file.path for file in files}
        downloads = [Download(file.path, place, file.size, file.sha256, resume=True) for file, place in places.items()]
        download_all(self.source, downloads, self.progress)
        for file, place in places.items():
            remember_digest(place, file.sha256, memory=self.memory)
        return size

    def _fetch_by_cache(self, cache: Cache, files: Mapping[str, FileRecord]) -> int:
        work = json_digest([self.manifest.model, self.manifest.build_id])
        fetched = cache.fetch(self.source, list(files.values()), work, self.progress, self.log)
        if cache.root.stat().st_dev != self.directory.stat().st_dev:
            self.log(f"{cache.root} is on another file system: its files are copied, not linked")
        for file in files.values():
            _put(cache.blobs.path(file), self.directory / file.path)
        return fetched

    def _tidy(self) -> None:
        """Remove everything but the files of this build, also empty directories, and make the files read-only."""
        named = {file.path for file in self.manifest.files}
        for path in {path.as_posix() for path in list_files(self.directory)} - named:
            remove_tree(self.directory / path)
        for path in named:
            os.chmod(f"{self.directory}/{path}", READ_ONLY)  # noqa: PTH101  faster: there may be thousands
        for folder, _, _ in os.walk(self.directory, topdown=False):
            if Path(folder) != self.directory and not os.listdir(folder):  # noqa: PTH208
                os.rmdir(folder)  # noqa: PTH106

    def _count(self, file: FileRecord) -> None:
        self.progress.add(file.size)
        self.progress.end_file()


def _expected(directory: Path) -> dict[str, FileRecord]:
    """The files that an earlier pull has put there; none when its note cannot be read."""
    try:
        return LocalBuild.read(directory).expected()
    except RegistryError:
        return {}


def _put(source: Path, target: Path) -> None:
    """Put a local file there, read-only: a large one as a link, a small one as a copy, because those get edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > SMALL_FILE_BYTES:
        link_or_copy(source, target)
    else:
        copy_file(source, target)
    target.chmod(READ_ONLY)
