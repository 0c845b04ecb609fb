"""Pulling a build: fetched or reused, checked to the last byte, and visible at once or not at all."""

from collections.abc import Callable, Iterator, Sequence
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
    is_config,
    mounted_at,
    writing,
)
from enginery.core import __version__
from enginery.core.digests import bytes_digest, file_digest, quick_digest
from enginery.core.errors import RegistryError, UsageError
from enginery.core.files import write_atomic
from enginery.core.model import Frozen
from enginery.core.progress import Log, NoProgress, Progress, no_log
from enginery.core.s3 import Prefix
from enginery.registry.pulling.filling import Cache, Filling
from enginery.registry.reading import unchanged_manifest_json
from enginery.registry.registry import Registry
from enginery.registry.signatures import require_signed
from enginery.registry.upkeep.verifying import damages
from enginery.store import READ_ONLY, FileRecord

Trust = Callable[[Prefix, bytes], Sequence[tuple[str, bytes]]]
"""Called with the build's prefix and the bytes of its manifest before anything is fetched; raises when not trusted.

It returns files to keep beside the manifest, such as the accepted signature: their paths in the build, and bytes.
"""


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


def require_environment_keys(source: Prefix, manifest: bytes) -> Sequence[tuple[str, bytes]]:
    """Trust what a key in `ENGINERY_TRUSTED_KEYS` has signed; everything when that is not set."""
    return require_signed(source, manifest, Policy.from_environment())


def pull(  # noqa: PLR0913  each is an option of the command
    registry: Registry,
    manifest: Manifest,
    to: Path,
    *,
    link: Path | None = None,
    mount: str | None = None,
    channel: str | None = None,
    trust: Trust = require_environment_keys,
    progress: Progress | None = None,
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
        trust: decides whether the manifest is trusted; by default the keys in `ENGINERY_TRUSTED_KEYS` do.
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
    job = _Pull(source, manifest, data, registry.address, channel, mount, tuple(trust(source, data)))
    cache = Cache(link) if link else None
    with writing(directory.root), directory.locked(log):
        directory.sweep(manifest.build_id)
        build, fetched = job.run(directory, cache, progress or NoProgress(), log)
        directory.show(build.directory)
        directory.sweep()
    return job.report(directory, build, fetched)


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
    """One pull: a build, and what is noted and written with it."""

    source: Prefix
    manifest: Manifest
    data: bytes
    registry: str
    channel: str | None
    mount: str
    beside: tuple[tuple[str, bytes], ...]

    def run(
        self, directory: PullDirectory, cache: Cache | None, progress: Progress, log: Log
    ) -> tuple[LocalBuild, int]:
        """Add the build to those of the directory; returns it and how many bytes were downloaded."""
        for build in directory.builds():
            if self._is_at(build, directory.memory):
                log(f"{self.manifest.build_id} is already there")
                return LocalBuild.read(build), 0
        staging = directory.staging(self.manifest.build_id)
        builds = tuple(directory.builds())
        filling = Filling(self.source, self.manifest, staging, directory.memory, builds, cache, progress, log)
        fetched = filling.run()
        note = self._write_note(staging)
        return LocalBuild(directory.take(staging, self.manifest.build_id), self.manifest, note), fetched

    def _is_at(self, directory: Path, memory: Path) -> bool:
        """Whether this build is there, whole and for the same mount; removes bytecode that a server has left."""
        try:
            build = LocalBuild.read(directory)
        except RegistryError:
            return False
        note = build.note
        if note is None or (note.manifest, note.mount) != (bytes_digest(self.data), self.mount):
            return False
        found = damages(build, partial(quick_digest, memory=memory))
        for damage in found:
            if damage.kind == "bytecode":
                (directory / damage.path).unlink()
        return all(damage.kind == "bytecode" for damage in found)

    def _write_note(self, build: Path) -> PulledNote:
        """Write what is not downloaded: configurations for this mount, signatures, the note and the manifest."""
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
                size, sha256 = path.stat().st_size, file_digest(path)
                yield Rewritten(path=file.path, published=file.sha256, sha256=sha256, size=size)

    def _configured(self, path: Path) -> str | None:
        """The configuration for this mount; None when the published one is right."""
        data = path.read_bytes()
        try:
            text = mounted_at(data.decode(), self.mount)
        except ValueError as error:
            remedy = "publish the build again, or pull it with the Enginery that published it"
            raise RegistryError(f"is no configuration for Triton: {error}", subject=str(path), remedy=remedy) from error
        return None if text.encode() == data else text

    def report(self, directory: PullDirectory, build: LocalBuild, fetched: int) -> Pulled:
        """The result, for people and scripts."""
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
