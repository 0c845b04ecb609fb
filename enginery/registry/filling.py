"""Filling a directory with a build's files: those that are on this machine already are used, the others fetched."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginery.context import Log
from enginery.digests import SOONER_DIGESTED_BYTES, json_digest, quick_digest, remember_digest
from enginery.errors import RegistryError
from enginery.files import copy_file, link_or_copy, list_files, remove_tree
from enginery.manifest import Manifest
from enginery.parallel import side_by_side
from enginery.progress import Progress
from enginery.records import FileRecord
from enginery.registry.cache import Cache
from enginery.registry.pulled import LocalBuild
from enginery.registry.room import require_room
from enginery.s3 import Prefix
from enginery.store.blobs import READ_ONLY
from enginery.transfers import Download, download_all


@dataclass(frozen=True)
class Filling:
    """A build on its way into a directory.

    Attributes:
        source: the build in the registry.
        manifest: what belongs into the directory.
        directory: the directory; what is in it already is used or removed.
        memory: where digests are remembered.
        builds: other builds on this machine, whose files are used where they are the same.
        cache: a cache to use, if any.
        progress: told of every file.
        log: told of what takes time.
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
        """Have every file there, digested, and nothing else; returns how many bytes were fetched.

        Raises:
            RegistryError: when a file cannot be fetched or is not what the manifest says.
            OSError: when something cannot be written; so does a StoreError.
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
            return list(files)  # a first pull has nothing to look for
        there = side_by_side(lambda file: self._have(file, known), files)
        return [file for file, found in zip(files, there, strict=True) if not found]

    def _known(self) -> dict[str, Path]:
        """Files of the other builds, by the SHA-256 that they should have."""
        known: dict[str, Path] = {}
        for directory in self.builds:
            for path, file in _expected(directory).items():
                known.setdefault(file.sha256, directory / path)
        return known

    def _have(self, file: FileRecord, known: Mapping[str, Path]) -> bool:
        """Whether a file is in its place, after it was looked for on this machine."""
        target = self.directory / file.path
        if not self._is(target, file):
            remove_tree(target)
            source = self.cache.blobs.take_sound(file) if self.cache else None
            if source is None and self._is(known.get(file.sha256), file):
                source = known[file.sha256]
            if source is None:
                return False
            _place(source, target)
        self._tell(file)
        return True

    def _is(self, path: Path | None, file: FileRecord) -> bool:
        if path is None or path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        return quick_digest(path, memory=self.memory) == file.sha256

    def _fetch(self, missing: list[FileRecord]) -> int:
        distinct = {file.sha256: file for file in missing}
        fetched = self._fetch_by(self.cache, distinct) if self.cache else self._fetch_straight(distinct.values())
        for file in missing:
            first = distinct[file.sha256]
            if file is not first:
                _place(self.directory / first.path, self.directory / file.path)
                self._tell(file)
        return fetched

    def _fetch_straight(self, files: Collection[FileRecord]) -> int:
        size = sum(file.size for file in files)
        require_room(self.directory, size, there=self.directory)
        places = {file: self.directory / file.path for file in files}
        downloads = [Download(file.path, place, file.size, file.sha256, resume=True) for file, place in places.items()]
        download_all(self.source, downloads, self.progress)
        for file, place in places.items():
            remember_digest(place, file.sha256, memory=self.memory)
        return size

    def _fetch_by(self, cache: Cache, files: Mapping[str, FileRecord]) -> int:
        work = json_digest([self.manifest.model, self.manifest.build_id])
        fetched = cache.fetch(self.source, list(files.values()), work, self.progress, self.log)
        if cache.root.stat().st_dev != self.directory.stat().st_dev:
            self.log(f"{cache.root} is on another file system: its files are copied, not linked")
        for file in files.values():
            _place(cache.blobs.path(file), self.directory / file.path)
        return fetched

    def _tidy(self) -> None:
        """Leave the files of this build and no others, not even an empty directory; each may be read by all."""
        named = {file.path for file in self.manifest.files}
        there = {path.as_posix() for path in list_files(self.directory)}
        for path in there - named:
            remove_tree(self.directory / path)
        for path in named:
            os.chmod(f"{self.directory}/{path}", READ_ONLY)  # noqa: PTH101  there may be thousands
        for left, _, _ in os.walk(self.directory, topdown=False):
            if Path(left) != self.directory and not os.listdir(left):  # noqa: PTH208
                os.rmdir(left)  # noqa: PTH106

    def _tell(self, file: FileRecord) -> None:
        self.progress.add(file.size)
        self.progress.end_file()


def _expected(directory: Path) -> dict[str, FileRecord]:
    """What an earlier pull has put there; nothing where that cannot be told."""
    try:
        return LocalBuild.read(directory).expected()
    except RegistryError:
        return {}


def _place(source: Path, target: Path) -> None:
    """Put a file of this machine there, read-only: a large one linked, a small one copied, as those are edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > SOONER_DIGESTED_BYTES:
        link_or_copy(source, target)
    else:
        copy_file(source, target)
    target.chmod(READ_ONLY)
