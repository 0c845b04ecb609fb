"""Pulling: brings a build into a local directory. Every byte is checked, and the build appears whole or not at all.

Pulls on one machine may share a cache directory. A file in it has its SHA-256 as its name and is downloaded once. The
cache has the layout of a store, so a store's directory can be the cache. Pulled builds do not need the cache: it can
be removed while no pull runs.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from enginery.builds import (
    MANIFEST,
    NOTE,
    PUBLISH_AGAIN,
    LocalBuild,
    Manifest,
    Policy,
    PullDirectory,
    PulledNote,
    Rewritten,
    SignatureFile,
    is_config,
    mounted_at,
    require_free_space,
    writing,
)
from enginery.core import __version__
from enginery.core.digests import (
    DIGESTS_FILE,
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
from enginery.core.progress import NO_PROGRESS, Log, Progress, no_log
from enginery.core.s3 import Download, Prefix, download_all
from enginery.core.threads import side_by_side
from enginery.registry.reading import unchanged_manifest_json
from enginery.registry.registry import Registry
from enginery.registry.signatures import require_signed
from enginery.registry.upkeep.verifying import damages
from enginery.store import READ_ONLY, Blobs, FileRecord


class Pulled(Frozen):
    """The result of a pull.

    Attributes:
        directory: the directory it was pulled into.
        model_repository: the path to give to a Triton server.
        channel: the channel that led to the build, if any.
        mount: the path at which a server sees the model repository.
        files: the number of files of the build.
        size: the bytes of all files.
        fetched: the bytes that were downloaded; the others were already on this machine.
        rewritten: the model configurations that were changed to name `mount`.
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


def pull(  # noqa: PLR0913  each is an option of the command
    registry: Registry,
    manifest: Manifest,
    to: Path,
    *,
    link: Path | None = None,
    mount: str | None = None,
    channel: str | None = None,
    policy: Policy | None = None,
    progress: Progress = NO_PROGRESS,
    log: Log = no_log,
) -> Pulled:
    """Bring a published build into a directory. The build before stays the current one until all files are checked.

    The user needs permission to read objects, nothing else. If another pull into the directory runs, this one waits.

    Args:
        registry: the registry.
        manifest: the build's manifest.
        to: a directory that is new, empty, or was pulled into before; `PullDirectory` says what is in it.
        link: a cache directory that pulls on this machine share: each file is downloaded into it once.
        mount: the path at which a server will see DIR/model_repository; the model configurations name it. None for
            DIR/model_repository itself.
        channel: the channel that led to the build; it is written into the pull's note.
        policy: the trusted keys, of which one must have signed the manifest; None for `ENGINERY_TRUSTED_KEYS`.
        progress: counts every file.
        log: takes lines about what happens.

    Raises:
        UsageError: when `mount` is not an absolute path.
        RegistryError: when a file is missing or damaged in the registry, no trusted key has signed the build, or it
            cannot be written locally.
    """
    directory = PullDirectory(to)
    mount = _absolute(mount) if mount else str(directory.model_repository)
    directory.require_ours()
    _require_free_names(manifest)
    source = registry.build_prefix(manifest.model, manifest.build_id)
    data = unchanged_manifest_json(source, manifest)
    signatures = require_signed(source, data, Policy.chosen() if policy is None else policy)
    note = PulledNote(
        model=manifest.model,
        build_id=manifest.build_id,
        registry=registry.address,
        channel=channel,
        mount=mount,
        manifest=bytes_digest(data),
        pulled=datetime.now(UTC),
        enginery=__version__,
    )
    cache = link.expanduser().absolute() if link else None
    build, fetched = _Pull(source, manifest, data, directory, cache, progress, log).run(note, signatures)
    assert build.note is not None  # noqa: S101  a pull has written it
    return Pulled(
        **build.note.model_dump(include={"model", "build_id", "registry", "channel", "mount"}),
        directory=str(directory.root),
        model_repository=str(directory.model_repository),
        files=len(manifest.files),
        size=manifest.size,
        fetched=fetched,
        rewritten=tuple(changed.path for changed in build.note.rewritten),
    )


def _require_free_names(manifest: Manifest) -> None:
    """Refuse a build with a file whose name a pull needs for a file of its own."""
    for file in manifest.files:
        if file.path.casefold() in {MANIFEST, NOTE}:
            problem = f"has a file with a name that a pull needs: {file.path}"
            raise RegistryError(problem, subject=manifest.build_id, remedy=PUBLISH_AGAIN)


def _absolute(mount: str) -> str:
    if not PurePosixPath(mount).is_absolute():
        remedy = "write the path at which the server sees DIR/model_repository, such as /models"
        raise UsageError("is not an absolute path", subject=f"mount {mount}", remedy=remedy)
    return mount.rstrip("/")


@dataclass(frozen=True)
class _Pull:
    """One pull. `source` is the prefix of the build, `data` the bytes of its manifest, `cache` the shared cache."""

    source: Prefix
    manifest: Manifest
    data: bytes
    directory: PullDirectory
    cache: Path | None
    progress: Progress
    log: Log

    def run(self, note: PulledNote, signatures: Sequence[SignatureFile]) -> tuple[LocalBuild, int]:
        """Make the build the current one of the directory; returns the build and the number of bytes downloaded."""
        fetched = 0
        with writing(self.directory.root), self.directory.locked(self.log):
            self.directory.sweep(self.manifest.build_id)
            build = self._present(note)
            if build is None:
                build, fetched = self._add(note, signatures)
            self.directory.make_current(build.directory)
            self.directory.sweep()
        return build, fetched

    def _present(self, note: PulledNote) -> LocalBuild | None:
        """The build, if the directory has it undamaged and for the same mount; None otherwise."""
        for place in self.directory.builds():
            try:
                build = LocalBuild.read(place)
            except RegistryError:
                continue
            same = build.note and (build.note.manifest, build.note.mount) == (note.manifest, note.mount)
            if same and self._is_whole(build):
                self.log(f"{self.manifest.build_id} is already there")
                return build
        return None

    def _is_whole(self, build: LocalBuild) -> bool:
        """Whether every file is as it was pulled. Bytecode that a server wrote does not count; it is removed."""
        found = damages(build, partial(quick_digest, database=self.directory.digests))
        for damage in found:
            if damage.kind == "bytecode":
                (build.directory / damage.path).unlink()
        return all(damage.kind == "bytecode" for damage in found)

    def _add(self, note: PulledNote, signatures: Sequence[SignatureFile]) -> tuple[LocalBuild, int]:
        """Add the build to the directory; returns the build and the number of bytes downloaded.

        The configurations for this mount, the signatures, the note and the manifest are written, not downloaded.
        """
        staging = self.directory.staging(self.manifest.build_id)
        fetched = self._fill(staging)
        rewritten = tuple(self._rewrite(staging, note.mount))
        beside = tuple(_write_signature(staging, signature) for signature in signatures)
        note = note.model_copy(update={"pulled": datetime.now(UTC), "rewritten": rewritten, "beside": beside})
        write_atomic(staging / NOTE, note.model_dump_json(indent=1), mode=READ_ONLY)
        write_atomic(staging / MANIFEST, self.data, mode=READ_ONLY)
        return LocalBuild(self.directory.add(staging, self.manifest.build_id), self.manifest, note), fetched

    def _rewrite(self, build: Path, mount: str) -> Iterator[Rewritten]:
        for file in self.manifest.files:
            path = build / file.path
            if is_config(file.path) and (text := _configured(path, mount)) is not None:
                write_atomic(path, text, mode=READ_ONLY)
                size, sha256 = path.stat().st_size, file_digest(path)
                yield Rewritten(path=file.path, sha256=sha256, size=size, published=file.sha256)

    def _fill(self, staging: Path) -> int:
        """Put every file into `staging`, checked, and remove other files; returns the number of bytes downloaded."""
        files = self.manifest.files
        self.progress.begin(f"pulling {self.manifest.build_id}", files=len(files), size=self.manifest.size)
        fetched = self._fetch(self._missing(staging), staging)
        named = {file.path for file in files}
        for path in {path.as_posix() for path in list_files(staging)} - named:
            remove_tree(staging / path)
        for path in named:
            os.chmod(f"{staging}/{path}", READ_ONLY)  # noqa: PTH101  faster: there may be thousands of files
        for folder, _, _ in os.walk(staging, topdown=False):
            if Path(folder) != staging and not os.listdir(folder):  # noqa: PTH208
                os.rmdir(folder)  # noqa: PTH106
        return fetched

    def _missing(self, staging: Path) -> list[FileRecord]:
        """Put the files that this machine has into their places; returns the files that must be downloaded."""
        files = self.manifest.files
        known: dict[str, Path] = {}
        for directory in self.directory.builds():
            for path, file in _expected(directory).items():
                known.setdefault(file.sha256, directory / path)
        if not (known or self.cache or any(staging.iterdir())):
            return list(files)  # a first pull; there is nothing to reuse
        reused = side_by_side(lambda file: self._reuse(file, known, staging), files)
        return [file for file, found in zip(files, reused, strict=True) if not found]

    def _reuse(self, file: FileRecord, known: Mapping[str, Path], staging: Path) -> bool:
        target = staging / file.path
        if not self._holds(target, file):
            remove_tree(target)
            source = _blobs(self.cache).verified_path(file) if self.cache else None
            if source is None and self._holds(known.get(file.sha256), file):
                source = known[file.sha256]
            if source is None:
                return False
            _put(source, target)
        self._count(file)
        return True

    def _holds(self, path: Path | None, file: FileRecord) -> bool:
        if path is None or path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        return quick_digest(path, database=self.directory.digests) == file.sha256

    def _fetch(self, missing: Sequence[FileRecord], staging: Path) -> int:
        """Download the missing files, files with the same bytes only once; returns the number of bytes downloaded."""
        distinct = {file.sha256: file for file in missing}
        places = {file: staging / file.path for file in distinct.values()}
        if self.cache:
            fetched = self._fetch_through_cache(self.cache, places)
        else:
            fetched = self._download(places, staging, staging)
            for file, place in places.items():
                remember_digest(place, file.sha256, database=self.directory.digests)
        for file in missing:
            first = distinct[file.sha256]
            if file is not first:
                _put(staging / first.path, staging / file.path)
                self._count(file)
        return fetched

    def _download(self, places: Mapping[FileRecord, Path], root: Path, incoming: Path) -> int:
        size = sum(file.size for file in places)
        require_free_space(root, size, partial=incoming)
        downloads = [Download(file.path, place, file.size, file.sha256, resume=True) for file, place in places.items()]
        download_all(self.source, downloads, self.progress)
        return size

    def _fetch_through_cache(self, root: Path, places: Mapping[FileRecord, Path]) -> int:
        """Download files into the cache, one process after the other, and link or copy them into their places."""
        blobs, work = _blobs(root), json_digest([self.manifest.model, self.manifest.build_id])
        lock, incoming = root / "locks" / f"{work}.add.lock", root / "work" / f"{work}.incoming"
        with writing(root), waiting_lock(lock, f"waiting for another pull that fills {root}", self.log):
            _collect(blobs, incoming, places, checked=False)
            missing = {file: incoming / file.sha256 for file in places if blobs.verified_path(file) is None}
            for file in places.keys() - missing.keys():
                self._count(file)
            try:
                fetched = self._download(missing, root, incoming)
            finally:
                _collect(blobs, incoming, missing, checked=True)
            remove_tree(incoming)
        if root.stat().st_dev != self.directory.root.stat().st_dev:
            self.log(f"{root} is on another file system: its files are copied, not linked")
        for file, place in places.items():
            _put(blobs.path(file), place)
        return fetched

    def _count(self, file: FileRecord) -> None:
        self.progress.add(file.size)
        self.progress.end_file()


def _blobs(cache: Path) -> Blobs:
    """The files of a cache. Digests are remembered in the cache, because a process may have no home directory."""
    return Blobs(cache, database=cache / DIGESTS_FILE)


def _collect(blobs: Blobs, incoming: Path, files: Collection[FileRecord], *, checked: bool) -> None:
    """Move downloaded files into the cache. Unless they are `checked`, remove those that a power failure has cut."""
    for file in files:
        part = incoming / file.sha256
        if not part.is_file():
            continue
        if not checked and quick_digest(part, database=blobs.database) != file.sha256:
            part.unlink()
        else:
            blobs.keep(part, file)
            remember_digest(blobs.path(file), file.sha256, database=blobs.database)


def _configured(path: Path, mount: str) -> str | None:
    """The text of the configuration for this mount; None when the published file needs no change."""
    data = path.read_bytes()
    try:
        text = mounted_at(data.decode(), mount)
    except ValueError as error:
        remedy = "publish the build again, or pull it with the Enginery that published it"
        raise RegistryError(f"is no configuration for Triton: {error}", subject=str(path), remedy=remedy) from error
    return None if text.encode() == data else text


def _expected(directory: Path) -> dict[str, FileRecord]:
    """Path -> file of a build that was pulled before; empty when its manifest or note cannot be read."""
    try:
        return LocalBuild.read(directory).expected()
    except RegistryError:
        return {}


def _write_signature(build: Path, signature: SignatureFile) -> FileRecord:
    write_atomic(build / signature.path, signature.data, mode=READ_ONLY)
    return FileRecord(path=signature.path, sha256=bytes_digest(signature.data), size=len(signature.data))


def _put(source: Path, target: Path) -> None:
    """Put `source` at `target`, read-only: a large file as a link, a small one as a copy, because people edit those."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > SMALL_FILE_BYTES:
        link_or_copy(source, target)
    else:
        copy_file(source, target)
    target.chmod(READ_ONLY)
