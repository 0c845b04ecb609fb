"""Whether all that a registry promises is there: every byte of every build, and a build behind every channel."""

from collections.abc import Iterator
from typing import Literal

from enginery.errors import RegistryError
from enginery.manifest import Manifest
from enginery.progress import NoProgress, Progress
from enginery.registry.claims import CLAIM, is_at_work
from enginery.registry.inventory import Inventory, StoredBuild, described, take_inventory
from enginery.registry.layout import MODELS, channel_reference
from enginery.registry.reading import Registry
from enginery.registry.verifying import verify_build
from enginery.s3_errors import is_denied
from enginery.s3_leftovers import probes, unfinished_uploads
from enginery.steps import Frozen

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
