"""Whether every byte of a build is what its manifest says, in the registry or in a directory it was pulled into."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from enginery.builds import (
    BUILDS,
    CURRENT,
    LINKS,
    MANIFEST,
    MODELS,
    NOTE,
    LocalBuild,
    Manifest,
    PullDirectory,
    read_manifest,
)
from enginery.core.digests import bytes_digest, file_digest
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.progress import NoProgress, Progress
from enginery.core.s3 import ObjectInfo, Prefix, digest_object, is_denied, probes, unfinished_uploads
from enginery.core.threads import side_by_side
from enginery.registry.claims import CLAIM, is_at_work
from enginery.registry.layout import CHANNELS, channel_reference, manifest_path
from enginery.registry.reading import manifest_problem
from enginery.registry.registry import Registry
from enginery.store import FileRecord

UNLISTED = (MANIFEST, CLAIM, "signatures/")
"""What lies beside a build's files, and no manifest names."""


class Damage(Frozen):
    """A file that is not what the manifest says.

    Attributes:
        path: relative to the build.
        kind: what is wrong with it; `bytecode` is what Python writes beside a model when a server loads it, unless the
            directory is read-only there, and what anybody could put there for it to run.
        problem: the same for people, with the figures.
    """

    path: str
    kind: Literal["missing", "extra", "size", "altered", "bytecode"]
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def verify_build(registry: Registry, manifest: Manifest, progress: Progress | None = None) -> list[Damage]:
    """Read every object of a published build, keeping none, and list what is not as its manifest says, by path.

    `progress` is told of each file; to begin it is the caller's, who may read several builds.

    Raises:
        RegistryError: when the registry cannot be read; so it is not known whether the build is whole.
    """
    source = registry.build_prefix(manifest.model, manifest.build_id)
    listed = {info.path: info.size for info in source.list()}
    named = {file.path for file in manifest.files}
    found = [_extra(path) for path in listed.keys() - named if not path.startswith(UNLISTED)]
    if problem := manifest_problem(source.get(MANIFEST), manifest):
        found.append(Damage(path=MANIFEST, kind="altered" if MANIFEST in listed else "missing", problem=problem))
    told = progress or NoProgress()

    def examine(file: FileRecord) -> Damage | None:
        damage = _examine_object(source, file, listed.get(file.path))
        told.add(file.size)
        told.end_file()
        return damage

    examined = side_by_side(examine, manifest.files)
    return _by_path([*found, *filter(None, examined)])


def _examine_object(source: Prefix, file: FileRecord, size: int | None) -> Damage | None:
    if size != file.size:
        return _missing(file) if size is None else _other_size(file, size)
    found = digest_object(source, file.path, size=file.size)
    if found != file.sha256:  # once more, as a network alters bytes too
        found = digest_object(source, file.path, size=file.size)
    return None if found == file.sha256 else _altered(file, found)


def verify_directory(directory: Path) -> list[Damage]:
    """Read every file of the build in a directory, and list what is not as its manifest says, by path.

    The directory is one that was pulled into, of which the current build is read, or a plain copy of a build.

    Raises:
        RegistryError: when it holds no build, or one whose manifest is not sound.
    """
    build = local_build(directory)
    found = damages(build, file_digest)
    return found if build.directory == directory else [*_wrong_links(PullDirectory(directory)), *found]


def local_build(directory: Path) -> LocalBuild:
    """The build that counts in a directory.

    Raises:
        RegistryError: when there is none, or its manifest is not sound.
    """
    current = PullDirectory(directory).linked(CURRENT)
    return LocalBuild.read(current or directory)


def damages(build: LocalBuild, digest: Callable[[Path], str]) -> list[Damage]:
    """What in a directory is not as the build's manifest says, by path; `digest` takes the SHA-256 of a file."""
    expected = build.expected()
    there = set(_walk(build.directory))
    own = {MANIFEST, NOTE} if build.note else {MANIFEST}
    found = [_extra(path) for path in there - expected.keys() - own if build.note or not path.startswith(UNLISTED)]
    if build.note and (problem := _manifest_differs(build.directory / MANIFEST, build.note.manifest)):
        found.append(problem)
    examined = side_by_side(lambda file: _examine_file(build.directory, file, digest), expected.values())
    return _by_path([*found, *filter(None, examined)])


def _manifest_differs(path: Path, sha256: str) -> Damage | None:
    found = bytes_digest(path.read_bytes())
    problem = f"sha256 is {found}, not {sha256} as it was pulled"
    return None if found == sha256 else Damage(path=MANIFEST, kind="altered", problem=problem)


def _examine_file(root: Path, file: FileRecord, digest: Callable[[Path], str]) -> Damage | None:
    path = root / file.path
    try:
        if path.resolve(strict=True) != root.resolve() / file.path:
            return Damage(path=file.path, kind="altered", problem="is or lies behind a symbolic link")
        size = path.stat().st_size
        if size != file.size:
            return _other_size(file, size)
        found = digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return _missing(file)
    except OSError as error:
        return Damage(path=file.path, kind="altered", problem=f"cannot be read: {error.strerror}")
    return None if found == file.sha256 else _altered(file, found)


def _walk(root: Path) -> Iterator[str]:
    """All that is no directory, relative to `root`; a link to one is no directory."""
    for directory, names, files in os.walk(root):
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in [*files, *links]:
            yield (Path(directory) / name).relative_to(root).as_posix()


def _wrong_links(place: PullDirectory) -> Iterator[Damage]:
    current = place.linked(CURRENT)
    if current and current.parent != place.root / BUILDS:
        yield Damage(path=CURRENT, kind="altered", problem=f"leads out of {BUILDS}, to {current}")
    for name, target in LINKS.items():
        link = place.root / name
        if not link.is_symlink() or str(link.readlink()) != target:
            yield Damage(path=name, kind="altered", problem=f"is not the link to {target} that a pull makes")


def _missing(file: FileRecord) -> Damage:
    return Damage(path=file.path, kind="missing", problem="is missing")


def _extra(path: str) -> Damage:
    if "/__pycache__/" in path and path.endswith(".pyc"):
        problem = "is bytecode, of which the manifest says nothing: Python wrote it when a server ran, or somebody else"
        return Damage(path=path, kind="bytecode", problem=problem)
    return Damage(path=path, kind="extra", problem="is not in the manifest")


def _other_size(file: FileRecord, size: int) -> Damage:
    return Damage(path=file.path, kind="size", problem=f"has {size:,} bytes, not {file.size:,}")


def _altered(file: FileRecord, sha256: str) -> Damage:
    return Damage(path=file.path, kind="altered", problem=f"sha256 is {sha256}, not {file.sha256}")


def _by_path(found: list[Damage]) -> list[Damage]:
    return sorted(found, key=lambda damage: damage.path)


# All that lies in a registry, from one listing: builds with and without a manifest, channels, and what is neither.


BUILD_PARTS = 5
"""`models/<model>/builds/<build id>/<file>`, at least."""


@dataclass(frozen=True)
class StoredBuild:
    """The objects under a build's prefix, with paths relative to it."""

    model: str
    build_id: str
    objects: tuple[ObjectInfo, ...]

    @property
    def manifest(self) -> ObjectInfo | None:
        """The object that makes it a build, if it is there."""
        return next((info for info in self.objects if info.path == MANIFEST), None)

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(info.size for info in self.objects)

    @property
    def touched(self) -> datetime:
        """When the newest object was written, UTC."""
        return max(info.modified for info in self.objects if info.modified is not None)


@dataclass(frozen=True)
class Inventory:
    """What lies in a registry.

    Attributes:
        builds: by model and id.
        models: the names of the models that have a build or a channel.
        strays: objects among the models that are part of no build and no channel.
    """

    builds: tuple[StoredBuild, ...]
    models: tuple[str, ...]
    strays: tuple[ObjectInfo, ...]


def take_inventory(registry: Registry, model: str | None = None) -> Inventory:
    """What lies in the registry, or of one model.

    Raises:
        RegistryError: when the registry cannot be listed.
    """
    builds: dict[tuple[str, str], list[ObjectInfo]] = {}
    models: set[str] = set()
    strays: list[ObjectInfo] = []
    for info in registry.prefix.list(f"{MODELS}/{model}" if model else MODELS):
        parts = info.path.split("/")
        if len(parts) >= BUILD_PARTS and parts[2] == "builds":
            relative = replace(info, path="/".join(parts[4:]))
            builds.setdefault((parts[1], parts[3]), []).append(relative)
        elif len(parts) < BUILD_PARTS or parts[2] != CHANNELS:
            strays.append(info)
            continue
        models.add(parts[1])
    stored = (StoredBuild(*names, tuple(objects)) for names, objects in sorted(builds.items()))
    return Inventory(tuple(stored), tuple(sorted(models)), tuple(strays))


def described(registry: Registry, build: StoredBuild) -> Manifest | RegistryError | None:
    """The manifest of a stored build, or what is wrong with it; None when it has been removed meanwhile.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    path = manifest_path(build.model, build.build_id)
    data = registry.prefix.get_bytes(path)
    if data is None:
        return None
    try:
        manifest = read_manifest(data, subject=registry.prefix.where(path))
    except RegistryError as error:
        return error
    if (manifest.model, manifest.build_id) == (build.model, build.build_id):
        return manifest
    problem = f"describes another build: {manifest.model}/{manifest.build_id}"
    return RegistryError(problem, subject=registry.prefix.where(path), remedy="publish the build again")


def channel_uses(registry: Registry, model: str) -> dict[str, str]:
    """The builds that channels need: build id -> why, such as `on channel stable`.

    These are the build that a channel points at, and the one that a demotion would go back to.

    Raises:
        RegistryError: when a pointer cannot be read: what it names is not known then.
    """
    pointers = registry.channels(model)
    now = [(pointer.build_id, pointer.channel) for pointer in pointers]
    back = [(build_id, pointer.channel) for pointer in pointers for build_id in pointer.way_back()[-1:]]
    return _told(back, "the way back of channel") | _told(now, "on channel")


def _told(named: Iterable[tuple[str, str]], how: str) -> dict[str, str]:
    channels: dict[str, set[str]] = {}
    for build_id, channel in named:
        channels.setdefault(build_id, set()).add(channel)
    return {build_id: f"{how} {', '.join(sorted(names))}" for build_id, names in channels.items()}


# Whether all that a registry promises is there: every byte of every build, and a build behind every channel.


PRUNE = "remove it with `enginery prune`"
PROMOTE = "promote a build that is there"
PUBLISH = "do not use this build; publish it again"


class Problem(Frozen):
    """Something that is not as it should be.

    Attributes:
        level: `damage` where a build or a channel does not hold what it promises; `leftover` where something only takes
            room.
        subject: the build, channel or object.
        problem: what was found.
        remedy: what to do, in the imperative.
    """

    level: Literal["damage", "leftover"]
    subject: str
    problem: str
    remedy: str


class Audit(Frozen):
    """What an audit looked at, and what it found.

    Attributes:
        registry: the registry's address.
        builds: how many builds were read.
        files: how many files they have.
        bytes: the size of these.
        problems: damage first.
    """

    registry: str
    builds: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def damaged(self) -> bool:
        """Whether a build or a channel does not hold what it promises."""
        return any(problem.level == "damage" for problem in self.problems)

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        damage = sum(1 for problem in self.problems if problem.level == "damage")
        read = f"{self.builds} builds, {self.files} files, {self.bytes:,} bytes read"
        found = f"{damage} damaged" if damage else "all as their manifests say"
        return f"{read}: {found}; {len(self.problems) - damage} leftovers"


def audit(registry: Registry, model: str | None = None, progress: Progress | None = None) -> Audit:
    """Read every byte of every build of the registry, or of a model, and look behind every channel.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    told = progress or NoProgress()
    inventory = take_inventory(registry, model)
    read = [_read(registry, build) for build in inventory.builds if build.manifest]
    manifests = [manifest for manifest in read if isinstance(manifest, Manifest)]
    files = sum(len(manifest.files) for manifest in manifests)
    size = sum(manifest.size for manifest in manifests)
    told.begin(f"reading {len(manifests)} builds", files=files, size=size)
    problems = [problem for problem in read if isinstance(problem, Problem)]
    for manifest in manifests:
        problems += _checked(registry, manifest, told)
    problems += _channels(registry, inventory)
    problems += _leftovers(registry, inventory, model)
    ordered = sorted(problems, key=lambda problem: problem.level)
    return Audit(registry=registry.address, builds=len(manifests), files=files, bytes=size, problems=tuple(ordered))


def _read(registry: Registry, build: StoredBuild) -> Manifest | Problem | None:
    found = described(registry, build)
    if not isinstance(found, RegistryError):
        return found
    name = f"{build.model}/{build.build_id}"
    return Problem(level="damage", subject=name, problem=f"its manifest {found.problem}", remedy=found.remedy)


def _checked(registry: Registry, manifest: Manifest, progress: Progress) -> list[Problem]:
    """What is wrong with a build; nothing, when it was removed meanwhile."""
    try:
        found = list(_verified(registry, manifest, progress))
    except RegistryError as error:
        if error.transient or is_denied(error):
            raise
        found = [Problem(level="damage", subject=error.subject, problem=error.problem, remedy=PUBLISH)]
    return found if not found or registry.exists(manifest.model, manifest.build_id) else []


def _verified(registry: Registry, manifest: Manifest, progress: Progress) -> Iterator[Problem]:
    """What of a build is not as its manifest says; a file that no manifest names does no harm."""
    for damage in verify_build(registry, manifest):
        subject = f"{manifest.reference}/{damage.path}"
        if damage.kind == "extra":
            yield _leftover(subject, damage.problem, "remove it")
        else:
            yield Problem(level="damage", subject=subject, problem=damage.problem, remedy=PUBLISH)
    progress.add(manifest.size)


def _channels(registry: Registry, inventory: Inventory) -> Iterator[Problem]:
    """Channels that name no build, and pointers that cannot be read."""
    builds = {(build.model, build.build_id) for build in inventory.builds if build.manifest}
    for model in inventory.models:
        found, unsound = registry.pointers(model)
        for error in unsound:
            yield Problem(level="damage", subject=error.subject, problem=error.problem, remedy=error.remedy)
        for pointer, _ in found:
            if (model, pointer.build_id) in builds or registry.exists(model, pointer.build_id):
                continue
            subject = channel_reference(model, pointer.channel, pointer.target)
            problem = f"points at {pointer.build_id}, which is not there"
            yield Problem(level="damage", subject=subject, problem=problem, remedy=PROMOTE)


def _leftovers(registry: Registry, inventory: Inventory, model: str | None) -> Iterator[Problem]:
    for build in inventory.builds:
        name = f"{build.model}/{build.build_id}"
        busy = is_at_work(registry.build_prefix(build.model, build.build_id))
        if build.manifest is None and not busy:
            yield _leftover(name, f"has {len(build.objects)} files and no manifest", PRUNE)
        elif not busy and any(info.path == CLAIM for info in build.objects):
            yield _leftover(f"{name}/{CLAIM}", "is the claim of a publisher that died", PRUNE)
    yield from (_leftover(info.path, "belongs to no build and no channel", "remove it") for info in inventory.strays)
    for upload in unfinished_uploads(registry.prefix, f"{MODELS}/{model}" if model else MODELS):
        yield _leftover(upload.path, f"is a multipart upload begun {upload.begun:%Y-%m-%d}, never completed", PRUNE)
    if model is None:
        yield from (_leftover(info.path, "is left of a publisher that died", PRUNE) for info in probes(registry.prefix))


def _leftover(subject: str, problem: str, remedy: str) -> Problem:
    return Problem(level="leftover", subject=subject, problem=problem, remedy=remedy)
