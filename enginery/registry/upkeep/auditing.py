"""Auditing: reads every byte of every build, follows every channel, and reports damage and leftovers."""

from collections.abc import Iterator
from typing import Literal

from enginery.builds import MODELS, PUBLISH_AGAIN, Manifest
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.progress import NO_PROGRESS, Progress
from enginery.core.s3 import is_denied, probes, unfinished_uploads
from enginery.registry.claims import CLAIM, Claim
from enginery.registry.layout import channel_reference
from enginery.registry.registry import Registry
from enginery.registry.upkeep.inventory import Inventory, StoredBuild, read_stored, take_inventory
from enginery.registry.upkeep.verifying import Damage, verify_build

PRUNE = "remove it with `enginery prune`"
PROMOTE = "promote a build that is there"


class Problem(Frozen):
    """A fault that an audit found.

    Attributes:
        level: `damage` for a build that is not as its manifest says, or a channel that points at no build; `leftover`
            for something that only takes up space.
        subject: the build, channel or object.
        problem: what was found.
        remedy: what to do.
    """

    level: Literal["damage", "leftover"]
    subject: str
    problem: str
    remedy: str


class Audit(Frozen):
    """What an audit read, and what it found.

    Attributes:
        registry: the registry's address.
        builds: the number of builds that were read.
        files: the number of their files.
        bytes: the size of these files.
        problems: everything that was found, damage first.
    """

    registry: str
    builds: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def damaged(self) -> bool:
        """Whether a build or a channel is damaged."""
        return any(problem.level == "damage" for problem in self.problems)

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        damage = sum(1 for problem in self.problems if problem.level == "damage")
        read = f"{self.builds} builds, {self.files} files, {self.bytes:,} bytes read"
        found = f"{damage} damaged" if damage else "all as their manifests say"
        return f"{read}: {found}; {len(self.problems) - damage} leftovers"


def audit(registry: Registry, model: str | None = None, progress: Progress = NO_PROGRESS) -> Audit:
    """Read every byte of every build of the registry or of one model, and follow every channel.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    inventory = take_inventory(registry, model)
    read = [_read(registry, build) for build in inventory.builds if build.manifest]
    manifests = [manifest for manifest in read if isinstance(manifest, Manifest)]
    files = sum(len(manifest.files) for manifest in manifests)
    size = sum(manifest.size for manifest in manifests)
    progress.begin(f"reading {len(manifests)} builds", files=files, size=size)
    problems = [problem for problem in read if isinstance(problem, Problem)]
    for manifest in manifests:
        problems += _checked(registry, manifest, progress)
    problems += _channels(registry, inventory)
    problems += _leftovers(registry, inventory, model)
    by_level = tuple(sorted(problems, key=lambda problem: problem.level))
    return Audit(registry=registry.address, builds=len(manifests), files=files, bytes=size, problems=by_level)


def _read(registry: Registry, build: StoredBuild) -> Manifest | Problem | None:
    found = read_stored(registry, build)
    if isinstance(found, RegistryError):
        return _damage(build.reference, f"its manifest {found.problem}", found.remedy)
    return found


def _checked(registry: Registry, manifest: Manifest, progress: Progress) -> list[Problem]:
    """The problems of a build; none when the build was removed meanwhile."""
    try:
        found = [_problem(manifest, damage) for damage in verify_build(registry, manifest)]
        progress.add(manifest.size)
    except RegistryError as error:
        if error.transient or is_denied(error):
            raise
        found = [_damage(error.subject, error.problem, PUBLISH_AGAIN)]
    return found if not found or registry.exists(manifest.model, manifest.build_id) else []


def _problem(manifest: Manifest, damage: Damage) -> Problem:
    """The problem of one file; a file that the manifest does not name is only a leftover."""
    subject = f"{manifest.reference}/{damage.path}"
    if damage.kind == "extra":
        return _leftover(subject, damage.problem, "remove it")
    return _damage(subject, damage.problem, PUBLISH_AGAIN)


def _channels(registry: Registry, inventory: Inventory) -> Iterator[Problem]:
    """The problems of channels: they point at no build, or their pointer cannot be read."""
    builds = {(build.model, build.build_id) for build in inventory.builds if build.manifest}
    for model in inventory.models:
        found, unreadable = registry.pointers(model)
        for error in unreadable:
            yield _damage(error.subject, error.problem, error.remedy)
        for pointer in found:
            if (model, pointer.build_id) in builds or registry.exists(model, pointer.build_id):
                continue
            subject = channel_reference(model, pointer.channel, pointer.target)
            yield _damage(subject, f"points at {pointer.build_id}, which is not there", PROMOTE)


def _leftovers(registry: Registry, inventory: Inventory, model: str | None) -> Iterator[Problem]:
    for build in inventory.builds:
        if Claim(registry.build_prefix(build.model, build.build_id)).is_held():
            continue
        if build.manifest is None:
            yield _leftover(build.reference, f"has {len(build.objects)} files and no manifest", PRUNE)
        elif build.claim:
            yield _leftover(f"{build.reference}/{CLAIM}", "is the claim of a publisher that died", PRUNE)
    yield from (_leftover(info.path, "belongs to no build and no channel", "remove it") for info in inventory.strays)
    for upload in unfinished_uploads(registry.prefix, f"{MODELS}/{model}" if model else MODELS):
        yield _leftover(upload.path, f"is a multipart upload begun {upload.begun:%Y-%m-%d}, never completed", PRUNE)
    if model is None:
        yield from (_leftover(info.path, "was left by a dead publisher", PRUNE) for info in probes(registry.prefix))


def _damage(subject: str, problem: str, remedy: str) -> Problem:
    return Problem(level="damage", subject=subject, problem=problem, remedy=remedy)


def _leftover(subject: str, problem: str, remedy: str) -> Problem:
    return Problem(level="leftover", subject=subject, problem=problem, remedy=remedy)
