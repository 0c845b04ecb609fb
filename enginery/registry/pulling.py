"""Pulling a build: fetched or found on this machine, checked to the last byte, and there at once or not at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from enginery import __version__
from enginery.context import Log
from enginery.digests import bytes_digest, file_digest, quick_digest
from enginery.errors import RegistryError, UsageError
from enginery.files import write_atomic
from enginery.manifest import Manifest
from enginery.progress import NoProgress, Progress
from enginery.records import FileRecord
from enginery.registry.cache import Cache
from enginery.registry.filling import Filling
from enginery.registry.layout import MANIFEST
from enginery.registry.placing import PullDirectory, writing
from enginery.registry.published import manifest_json
from enginery.registry.pulled import NOTE, LocalBuild, PulledNote, Rewritten, is_config
from enginery.registry.reading import Registry
from enginery.registry.verifying import damages
from enginery.s3 import Prefix
from enginery.signing.policy import Policy
from enginery.signing.signatures import require_signed
from enginery.steps import Frozen
from enginery.store.blobs import READ_ONLY
from enginery.triton.placement import mounted_at

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
