"""Pulling a build: fetched or reused, checked to the last byte, and visible at once or not at all.

Pulls on one machine may share a cache, where each file lies under its SHA-256 and is downloaded once. It is laid out
like a store in a directory, and may be one. It can be removed whenever no pull runs: pulled builds do not need it.
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
        channel: the channel it was found by, if any.
        mount: where a server sees the model repository.
        files: the number of files of the build.
        size: their bytes.
        fetched: how many of these bytes were downloaded; the others were on this machine.
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
    """Bring a published build into a directory, whole and checked; until then the build that was there stays.

    Of the registry it only needs the right to read objects. Another pull into the same directory is waited for.

    Args:
        registry: the registry.
        manifest: the build.
        to: a directory that is new, empty, or was pulled into before; `PullDirectory` says what is in it.
        link: a cache directory that pulls on this machine share: each file is downloaded into it once.
        mount: where a server will see DIR/model_repository, for the configurations of engines; None for that very path.
        channel: the channel it was found by, to be noted.
        policy: the keys of which one must have signed the manifest; None for those in `ENGINERY_TRUSTED_KEYS`.
        progress: counts every file.
        log: takes lines about what happens.

    Raises:
        UsageError: when `mount` is not an absolute path.
        RegistryError: when the build is not whole in the registry, is not trusted, or cannot be written locally.
    """
    directory = PullDirectory(to)
    mount = _absolute(mount) if mount else str(directory.model_repository)
    directory.require_ours()
    _require_own_names(manifest)
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


def _require_own_names(manifest: Manifest) -> None:
    """Refuse a build whose files have the names of the files that a pull writes beside them."""
    for file in manifest.files:
        if file.path.casefold() in {MANIFEST, NOTE}:
            problem = f"has a file of a name that is taken: {file.path}"
            raise RegistryError(problem, subject=manifest.build_id, remedy=PUBLISH_AGAIN)


def _absolute(mount: str) -> str:
    if not PurePosixPath(mount).is_absolute():
        remedy = "write the path at which the server sees DIR/model_repository, such as /models"
        raise UsageError("is not an absolute path", subject=f"mount {mount}", remedy=remedy)
    return mount.rstrip("/")


@dataclass(frozen=True)
class _Pull:
    """One pull.

    Attributes:
        source: the build in the registry.
        manifest: the build.
        data: the bytes of its manifest.
        directory: where it is pulled into.
        cache: a directory that several pulls share, if any.
        progress: counts every file.
        log: takes a line about what takes time.
    """

    source: Prefix
    manifest: Manifest
    data: bytes
    directory: PullDirectory
    cache: Path | None
    progress: Progress
    log: Log

    def run(self, note: PulledNote, signatures: Sequence[SignatureFile]) -> tuple[LocalBuild, int]:
        """Make the build the current one of the directory; returns it and how many bytes were downloaded."""
        fetched = 0
        with writing(self.directory.root), self.directory.locked(self.log):
            self.directory.sweep(self.manifest.build_id)
            build = self._found(note)
            if build is None:
                build, fetched = self._bring(note, signatures)
            self.directory.show(build.directory)
            self.directory.sweep()
        return build, fetched

    def _found(self, note: PulledNote) -> LocalBuild | None:
        """The build if it is there already, whole and for the same mount; bytecode that a server left is removed."""
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
        found = damages(build, partial(quick_digest, database=self.directory.digests))
        for damage in found:
            if damage.kind == "bytecode":
                (build.directory / damage.path).unlink()
        return all(damage.kind == "bytecode" for damage in found)

    def _bring(self, note: PulledNote, signatures: Sequence[SignatureFile]) -> tuple[LocalBuild, int]:
        """Add the build to those of the directory; returns it and how many bytes were downloaded.

        What is not downloaded is written: configurations for this mount, signatures, the note and the manifest.
        """
        staging = self.directory.staging(self.manifest.build_id)
        fetched = self._fill(staging)
        rewritten = tuple(self._rewrite(staging, note.mount))
        beside = tuple(_kept(staging, signature) for signature in signatures)
        note = note.model_copy(update={"pulled": datetime.now(UTC), "rewritten": rewritten, "beside": beside})
        write_atomic(staging / NOTE, note.model_dump_json(indent=1), mode=READ_ONLY)
        write_atomic(staging / MANIFEST, self.data, mode=READ_ONLY)
        return LocalBuild(self.directory.take(staging, self.manifest.build_id), self.manifest, note), fetched

    def _rewrite(self, build: Path, mount: str) -> Iterator[Rewritten]:
        for file in self.manifest.files:
            path = build / file.path
            if is_config(file.path) and (text := _configured(path, mount)) is not None:
                write_atomic(path, text, mode=READ_ONLY)
                size, sha256 = path.stat().st_size, file_digest(path)
                yield Rewritten(path=file.path, sha256=sha256, size=size, published=file.sha256)

    def _fill(self, staging: Path) -> int:
        """Bring every file there, checked by its digest, and nothing else; returns how many bytes were downloaded."""
        files = self.manifest.files
        self.progress.begin(f"pulling {self.manifest.build_id}", files=len(files), size=self.manifest.size)
        fetched = self._fetch(self._missing(staging), staging)
        named = {file.path for file in files}
        for path in {path.as_posix() for path in list_files(staging)} - named:
            remove_tree(staging / path)
        for path in named:
            os.chmod(f"{staging}/{path}", READ_ONLY)  # noqa: PTH101  faster: there may be thousands
        for folder, _, _ in os.walk(staging, topdown=False):
            if Path(folder) != staging and not os.listdir(folder):  # noqa: PTH208
                os.rmdir(folder)  # noqa: PTH106
        return fetched

    def _missing(self, staging: Path) -> list[FileRecord]:
        """The files that could not be put into their places from this machine."""
        files = self.manifest.files
        known: dict[str, Path] = {}
        for directory in self.directory.builds():
            for path, file in _expected(directory).items():
                known.setdefault(file.sha256, directory / path)
        if not (known or self.cache or any(staging.iterdir())):
            return list(files)  # a first pull: nothing can be reused
        reused = side_by_side(lambda file: self._reuse(file, known, staging), files)
        return [file for file, found in zip(files, reused, strict=True) if not found]

    def _reuse(self, file: FileRecord, known: Mapping[str, Path], staging: Path) -> bool:
        target = staging / file.path
        if not self._is(target, file):
            remove_tree(target)
            source = _blobs(self.cache).verified_path(file) if self.cache else None
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
        return quick_digest(path, database=self.directory.digests) == file.sha256

    def _fetch(self, missing: Sequence[FileRecord], staging: Path) -> int:
        """Download each distinct file once; returns the number of bytes."""
        distinct = {file.sha256: file for file in missing}
        places = {file: staging / file.path for file in distinct.values()}
        if self.cache:
            fetched = self._fetch_by_cache(self.cache, places)
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

    def _download(self, places: Mapping[FileRecord, Path], root: Path, begun: Path) -> int:
        size = sum(file.size for file in places)
        require_free_space(root, size, partial=begun)
        downloads = [Download(file.path, place, file.size, file.sha256, resume=True) for file, place in places.items()]
        download_all(self.source, downloads, self.progress)
        return size

    def _fetch_by_cache(self, root: Path, places: Mapping[FileRecord, Path]) -> int:
        """Bring the files to their places by the cache; the first of several processes downloads, the others wait."""
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
    """The files of a cache. Their digests are remembered inside it: a process may have no home directory."""
    return Blobs(cache, database=cache / DIGESTS_FILE)


def _collect(blobs: Blobs, incoming: Path, files: Collection[FileRecord], *, checked: bool) -> None:
    """Move files that are whole into the cache, and remove those that a power failure has cut short."""
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
    """The configuration for this mount; None when the published one is right."""
    data = path.read_bytes()
    try:
        text = mounted_at(data.decode(), mount)
    except ValueError as error:
        remedy = "publish the build again, or pull it with the Enginery that published it"
        raise RegistryError(f"is no configuration for Triton: {error}", subject=str(path), remedy=remedy) from error
    return None if text.encode() == data else text


def _expected(directory: Path) -> dict[str, FileRecord]:
    """The files that an earlier pull has put there; none when its note cannot be read."""
    try:
        return LocalBuild.read(directory).expected()
    except RegistryError:
        return {}


def _kept(build: Path, signature: SignatureFile) -> FileRecord:
    write_atomic(build / signature.path, signature.data, mode=READ_ONLY)
    return FileRecord(path=signature.path, sha256=bytes_digest(signature.data), size=len(signature.data))


def _put(source: Path, target: Path) -> None:
    """Put a local file there, read-only: a large one as a link, a small one as a copy, because those get edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > SMALL_FILE_BYTES:
        link_or_copy(source, target)
    else:
        copy_file(source, target)
    target.chmod(READ_ONLY)
