"""Pulling a build: fetched or found on this machine, checked to the last byte, and there at once or not at all."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from enginery.builds import (
    MANIFEST,
    NOTE,
    LocalBuild,
    Manifest,
    Policy,
    PullDirectory,
    PulledNote,
    Rewritten,
    is_config,
    mounted_at,
    require_room,
    writing,
)
from enginery.core.digests import (
    MEMORY,
    SMALL_FILE_BYTES,
    bytes_digest,
    file_digest,
    json_digest,
    quick_digest,
    remember_digest,
)
from enginery.core.errors import RegistryError, UsageError
from enginery.core.files import copy_file, link_or_copy, list_files, remove_tree, write_atomic
from enginery.core.locks import waiting_lock
from enginery.core.model import Frozen
from enginery.core.progress import Log, NoProgress, Progress
from enginery.core.s3 import Download, Prefix, download_all
from enginery.core.threads import side_by_side
from enginery.core.versions import __version__
from enginery.registry.reading import manifest_json
from enginery.registry.registry import Registry
from enginery.registry.signatures import require_signed
from enginery.registry.verifying import damages
from enginery.store import READ_ONLY, Blobs, FileRecord

# A cache that many pulls on one machine share: files by their SHA-256, each downloaded once.
#
# It is laid out like a store in a directory, and may be one. It can be removed whenever no pull runs: what was pulled
# does not need it.


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


# Filling a directory with a build's files: those that are on this machine already are used, the others fetched.


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
    if source.stat().st_size > SMALL_FILE_BYTES:
        link_or_copy(source, target)
    else:
        copy_file(source, target)
    target.chmod(READ_ONLY)


Trust = Callable[[Prefix, bytes], Sequence[tuple[str, bytes]]]
"""Asked with the build's prefix and its manifest's bytes before anything is fetched; raises when they are not trusted.

It returns what is to be kept beside the manifest, such as the signature that counts: paths in the build, and bytes.
"""


class Pulled(Frozen):
    """What a pull did.

    Attributes:
        directory: where it was put.
        model_repository: what a Triton server is given.
        channel: the channel it was found by, if it was.
        mount: where a server sees the model repository.
        files: how many the build has.
        size: its bytes.
        fetched: how many of them came from the registry; the others were on this machine.
        rewritten: the configurations that name `mount`.
    """

    model: str
    build_id: str
    registry: str
    channel: str | None
    directory: str
    model_repository: str
    mount: str
    files: int
    size: int
    fetched: int
    rewritten: tuple[str, ...]


def as_set(source: Prefix, manifest: bytes) -> Sequence[tuple[str, bytes]]:
    """Trust what the keys in `ENGINERY_TRUSTED_KEYS` have signed; all, where none are named."""
    return require_signed(source, manifest, Policy.from_environment())


def _silent(line: str) -> None:
    """Tell nobody."""


def pull(  # noqa: PLR0913  each is an option of the command
    registry: Registry,
    manifest: Manifest,
    to: Path,
    *,
    link: Path | None = None,
    mount: str | None = None,
    channel: str | None = None,
    trust: Trust = as_set,
    progress: Progress | None = None,
    log: Log = _silent,
) -> Pulled:
    """Bring a published build into a directory, whole and checked; until it is, what was there before stays.

    Reading its objects is all that it needs of the registry. Another pull into the same directory is waited for.

    Args:
        registry: where it is.
        manifest: the build.
        to: a directory that is new, empty, or was pulled into before; laid out as in `placing`.
        link: a directory that pulls on this machine share: each file is downloaded into it once.
        mount: where a server will see DIR/model_repository, as configurations of engines have to know; None for there.
        channel: the channel it was found by, to be noted.
        trust: decides whether the manifest is trusted; left out, the keys in `ENGINERY_TRUSTED_KEYS` do.
        progress: told of every file.
        log: told of what happens.

    Raises:
        UsageError: when `mount` is not an absolute path.
        RegistryError: when the build is not whole in the registry, is not trusted, or cannot be written here.
    """
    directory = PullDirectory(to)
    seen_at = _absolute(mount) if mount else str(directory.model_repository)
    directory.require_ours()
    _require_own_names(manifest)
    source = registry.build_prefix(manifest.model, manifest.build_id)
    data = manifest_json(source, manifest)
    order = _Order(source, manifest, data, registry.address, channel, seen_at, tuple(trust(source, data)))
    cache = Cache(link) if link else None
    with writing(directory.root), directory.locked(log):
        directory.sweep(manifest.build_id)
        build, fetched = order.fulfil(directory, cache, progress or NoProgress(), log)
        directory.show(build.directory)
        directory.sweep()
    return order.report(directory, build, fetched)


def _require_own_names(manifest: Manifest) -> None:
    """Refuse a build with files of the names that are written beside them."""
    for file in manifest.files:
        if file.path.casefold() in {MANIFEST, NOTE}:
            problem = f"has a file of a name that is taken: {file.path}"
            raise RegistryError(problem, subject=manifest.build_id, remedy="do not use this build; publish it again")


def _absolute(mount: str) -> str:
    if not PurePosixPath(mount).is_absolute():
        remedy = "write the path at which the server sees DIR/model_repository, such as /models"
        raise UsageError("is not an absolute path", subject=f"mount {mount}", remedy=remedy)
    return mount.rstrip("/")


@dataclass(frozen=True)
class _Order:
    """A build that is wanted in a directory."""

    source: Prefix
    manifest: Manifest
    data: bytes
    registry: str
    channel: str | None
    mount: str
    beside: tuple[tuple[str, bytes], ...]

    def fulfil(
        self, directory: PullDirectory, cache: Cache | None, progress: Progress, log: Log
    ) -> tuple[LocalBuild, int]:
        """Have the build among those of the directory; returns it and how many bytes were fetched."""
        for place in directory.builds():
            if self._is_at(place, directory.memory):
                log(f"{self.manifest.build_id} is already there")
                return LocalBuild.read(place), 0
        staging = directory.staging(self.manifest.build_id)
        builds = tuple(directory.builds())
        filling = Filling(self.source, self.manifest, staging, directory.memory, builds, cache, progress, log)
        fetched = filling.run()
        note = self._describe(staging)
        return LocalBuild(directory.take(staging, self.manifest.build_id), self.manifest, note), fetched

    def _is_at(self, place: Path, memory: Path) -> bool:
        """Whether this build is there, whole and for the same mount; bytecode that a server left is removed."""
        try:
            build = LocalBuild.read(place)
        except RegistryError:
            return False
        note = build.note
        if note is None or (note.manifest, note.mount) != (bytes_digest(self.data), self.mount):
            return False
        found = damages(build, partial(quick_digest, memory=memory))
        for damage in found:
            if damage.kind == "bytecode":
                (place / damage.path).unlink()
        return all(damage.kind == "bytecode" for damage in found)

    def _describe(self, build: Path) -> PulledNote:
        """Write what is not fetched: configurations for this place, what lies beside, the note and the manifest."""
        note = PulledNote(
            model=self.manifest.model,
            build_id=self.manifest.build_id,
            registry=self.registry,
            channel=self.channel,
            mount=self.mount,
            manifest=bytes_digest(self.data),
            pulled=datetime.now(UTC),
            enginery=__version__,
            rewritten=tuple(self._rewrite(build)),
            beside=tuple(_kept(build, path, data) for path, data in self.beside),
        )
        note.write(build)
        write_atomic(build / MANIFEST, self.data, mode=READ_ONLY)
        return note

    def _rewrite(self, build: Path) -> Iterator[Rewritten]:
        for file in self.manifest.files:
            path = build / file.path
            if is_config(file.path) and (text := self._configured(path)) is not None:
                write_atomic(path, text, mode=READ_ONLY)
                here = {"sha256": file_digest(path), "size": path.stat().st_size}
                yield Rewritten(path=file.path, published=file.sha256, **here)

    def _configured(self, path: Path) -> str | None:
        """The configuration for this place; None when it is the one that is published."""
        data = path.read_bytes()
        try:
            text = mounted_at(data.decode(), self.mount)
        except ValueError as error:
            remedy = "publish the build again, or pull it with the Enginery that published it"
            raise RegistryError(f"is no configuration for Triton: {error}", subject=str(path), remedy=remedy) from error
        return None if text.encode() == data else text

    def report(self, directory: PullDirectory, build: LocalBuild, fetched: int) -> Pulled:
        """What was done."""
        return Pulled(
            model=self.manifest.model,
            build_id=self.manifest.build_id,
            registry=self.registry,
            channel=self.channel,
            directory=str(directory.root),
            model_repository=str(directory.model_repository),
            mount=self.mount,
            files=len(self.manifest.files),
            size=self.manifest.size,
            fetched=fetched,
            rewritten=tuple(changed.path for changed in build.note.rewritten) if build.note else (),
        )


def _kept(build: Path, path: str, data: bytes) -> FileRecord:
    write_atomic(build / path, data, mode=READ_ONLY)
    return FileRecord(path=path, sha256=bytes_digest(data), size=len(data))
