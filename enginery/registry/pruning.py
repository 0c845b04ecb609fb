"""What may go from a registry and why the rest stays; then letting it go, each thing looked at once more."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal
from uuid import uuid4

from pydantic import Field

from enginery.builds import MANIFEST, MODELS, Manifest, build_path
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.s3 import (
    Content,
    PreconditionFailed,
    Prefix,
    UnfinishedUpload,
    abort_upload,
    probes,
    unfinished_uploads,
)
from enginery.core.text import human_bytes
from enginery.core.threads import side_by_side
from enginery.registry.claims import CLAIM, PRUNING, InTheWay, claimed, is_at_work
from enginery.registry.reading import READERS
from enginery.registry.registry import Registry
from enginery.registry.verifying import Inventory, StoredBuild, channel_uses, described, take_inventory

# Removing a build so that nobody ever sees a part of it, or a channel that points at nothing.
#
# The build is claimed, so nobody publishes it meanwhile. The manifest goes first: from then on there is no build. Only
# then are the channels read once more: whoever moves a channel looks for the build again after the move, so one of the
# two sees the other. A removal that dies leaves files without a manifest, which the next one finishes.


AT_WORK = "someone is at work on it"


def remove_build(registry: Registry, model: str, build_id: str, manifest_etag: str | None) -> str | None:
    """Remove a build with all its files.

    Args:
        registry: where.
        model: its model.
        build_id: its name.
        manifest_etag: the manifest it was judged by; None for files without one.

    Returns:
        Why it was kept after all: it is needed, or not what was judged. None when it is gone.

    Raises:
        RegistryError: when the registry cannot be used; a build that a channel needs then has its manifest again.
    """
    prefix = registry.build_prefix(model, build_id)
    try:
        with claimed(prefix, f"{PRUNING} {uuid4().hex}"):
            return _remove_objects(registry, prefix, (model, build_id), manifest_etag)
    except InTheWay:
        return AT_WORK


def _remove_objects(registry: Registry, prefix: Prefix, names: tuple[str, str], judged: str | None) -> str | None:
    model, build_id = names
    if reason := channel_uses(registry, model).get(build_id):
        return reason
    manifest = prefix.get(MANIFEST)
    if (manifest.etag if manifest else None) != judged:
        return "it was published or removed meanwhile"
    if manifest and (reason := _unpublish(registry, prefix, names, manifest)):
        return reason
    _remove_files(prefix)
    return None


def _unpublish(registry: Registry, prefix: Prefix, names: tuple[str, str], manifest: Content) -> str | None:
    """Remove the manifest; put it back and say why when a channel has been moved to the build."""
    model, build_id = names
    prefix.delete(MANIFEST)
    try:
        reason = channel_uses(registry, model).get(build_id)
    except BaseException:
        _put_back(prefix, manifest)
        raise
    if reason:
        _put_back(prefix, manifest)
        return f"{reason}, since just now"
    return None


def _put_back(prefix: Prefix, manifest: Content) -> None:
    try:
        prefix.put_bytes(MANIFEST, manifest.data, if_none_match=True, content_type="application/json")
    except PreconditionFailed:
        return  # it is there
    except BaseException as error:
        error.add_note(f"{prefix.where(MANIFEST)} was removed and could not be put back: publish the build again")
        raise


def _remove_files(prefix: Prefix) -> None:
    side_by_side(partial(abort_upload, prefix), unfinished_uploads(prefix))
    side_by_side(prefix.delete, [info.path for info in prefix.list() if info.path != CLAIM])


LEFTOVER_AGE = timedelta(days=1)
"""What has no manifest may be on its way; after a day without a sign of life it is not."""

Kind = Literal["build", "unfinished build", "claim", "upload", "probe"]


class Retention(Frozen):
    """What stays besides what channels need.

    Attributes:
        keep: so many of the newest builds of each target.
        days: every build that was published within so many days.
    """

    keep: int = Field(default=3, ge=0)
    days: float = Field(default=30.0, ge=0)


class Verdict(Frozen):
    """What becomes of one thing in the registry.

    Attributes:
        kind: a build; files that never became one; the claim of a publisher that died; a multipart upload that was
            never completed; an object with which the server was tried.
        name: `MODEL/BUILD`, or the path of an object.
        target: what a build is for.
        since: when it was published or last written, UTC.
        size: bytes; 0 where S3 does not say it.
        fate: whether it stays, would go, or is gone.
        reason: why.
        token: what it was judged by, to notice that it has changed since.
    """

    kind: Kind
    name: str
    target: str = ""
    since: datetime
    size: int = 0
    fate: Literal["stays", "goes", "gone"]
    reason: str
    token: str | None = Field(default=None, exclude=True)


class Pruning(Frozen):
    """What a prune found, and what it did.

    Attributes:
        registry: the registry's address.
        dry_run: whether nothing was removed.
        verdicts: builds by model, target and age, newest first; then what was left behind.
    """

    registry: str
    dry_run: bool
    verdicts: tuple[Verdict, ...]

    @property
    def removable(self) -> tuple[Verdict, ...]:
        """What goes, or is gone."""
        return tuple(verdict for verdict in self.verdicts if verdict.fate != "stays")

    @property
    def sentence(self) -> str:
        """What became of it all, in one line."""
        size = human_bytes(sum(verdict.size for verdict in self.removable))
        stay = len(self.verdicts) - len(self.removable)
        done = "would go; nothing was removed" if self.dry_run else "removed"
        return f"{len(self.removable)} of {len(self.verdicts)} {done}, {size}; {stay} stay"


def prune(  # noqa: PLR0913  what stays, and how it is told
    registry: Registry,
    policy: Retention,
    *,
    model: str | None = None,
    dry_run: bool = True,
    log: Log = lambda _: None,
    now: datetime | None = None,
) -> Pruning:
    """Remove the builds that the policy and the channels do not need, and what died publishers have left.

    Args:
        registry: where.
        policy: what stays.
        model: only this model's.
        dry_run: only say what would go.
        log: takes a line for each thing that is removed.
        now: the time by which ages are told.

    Raises:
        RegistryError: when the registry cannot be used, or a channel cannot be read: what it needs is not known then.
    """
    verdicts = tuple(judge(registry, policy, model, now or datetime.now(UTC)))
    if not dry_run:
        verdicts = tuple(_carry_out(registry, verdict, log) for verdict in verdicts)
    return Pruning(registry=registry.address, dry_run=dry_run, verdicts=verdicts)


def judge(registry: Registry, policy: Retention, model: str | None, now: datetime) -> Iterator[Verdict]:
    """What becomes of each thing in the registry; nothing is done."""
    inventory = take_inventory(registry, model)
    uses = {name: channel_uses(registry, name) for name in inventory.models}
    yield from _published(registry, policy, inventory, uses, now)
    yield from _leftovers(registry, inventory, uses, now)
    yield from _uploads(registry, model, now)
    if model is None:
        yield from (_probe(info.path, info.size, info.modified or now, now) for info in probes(registry.prefix))


Uses = Mapping[str, Mapping[str, str]]
"""Model -> build id -> why a channel needs it."""


def _published(
    registry: Registry, policy: Retention, inventory: Inventory, uses: Uses, now: datetime
) -> Iterator[Verdict]:
    stored = [build for build in inventory.builds if build.manifest]
    manifests = side_by_side(lambda build: described(registry, build), stored, threads=READERS)
    ranked: dict[tuple[str, str], int] = {}
    for build, manifest in sorted(zip(stored, manifests, strict=True), key=_order):
        if not isinstance(manifest, Manifest):
            unknown = f"its manifest {manifest.problem}" if manifest else "it was removed meanwhile"
            yield _verdict(build, build.touched, "", unknown)
            continue
        place = (build.model, manifest.target.name)
        ranked[place] = ranked.get(place, 0) + 1
        needed = uses[build.model].get(build.build_id) or _by_policy(policy, manifest, ranked[place], now)
        yield _verdict(build, manifest.created, manifest.target.name, needed)


def _order(pair: tuple[StoredBuild, Manifest | RegistryError | None]) -> tuple[str, str, float]:
    build, manifest = pair
    target = manifest.target.name if isinstance(manifest, Manifest) else ""
    created = manifest.created if isinstance(manifest, Manifest) else build.touched
    return build.model, target, -created.timestamp()


def _by_policy(policy: Retention, manifest: Manifest, rank: int, now: datetime) -> str:
    if rank <= policy.keep:
        return f"one of the {policy.keep} newest" if policy.keep > 1 else "the newest"
    if now - manifest.created < timedelta(days=policy.days):
        return f"younger than {policy.days:g} days"
    return ""


def _verdict(build: StoredBuild, since: datetime, target: str, needed: str) -> Verdict:
    assert build.manifest is not None  # noqa: S101  only asked for builds that have one
    return Verdict(
        kind="build",
        name=f"{build.model}/{build.build_id}",
        target=target,
        since=since,
        size=build.size,
        fate="stays" if needed else "goes",
        reason=needed or "on no channel, old, and newer ones are there",
        token=build.manifest.etag,
    )


def _leftovers(registry: Registry, inventory: Inventory, uses: Uses, now: datetime) -> Iterator[Verdict]:
    """What publishers have left that died: files without a manifest, and claims beside one."""
    for build in inventory.builds:
        claim = next((info for info in build.objects if info.path == CLAIM), None)
        if build.manifest and claim is None:
            continue
        name, needed = f"{build.model}/{build.build_id}", ""
        if is_at_work(registry.build_prefix(build.model, build.build_id)):
            needed = AT_WORK
        if build.manifest and claim:
            yield _leftover("claim", f"{_home(build)}/{CLAIM}", build.touched, claim.size, needed, now)
            continue
        needed = needed or uses[build.model].get(build.build_id, "")
        yield _leftover("unfinished build", name, build.touched, build.size, needed, now)


def _uploads(registry: Registry, model: str | None, now: datetime) -> Iterator[Verdict]:
    for upload in unfinished_uploads(registry.prefix, f"{MODELS}/{model}" if model else MODELS):
        parts = upload.path.split("/")
        busy = len(parts) > len(("models", "model", "builds", "id")) and is_at_work(
            registry.build_prefix(parts[1], parts[3])
        )
        found = _leftover("upload", upload.path, upload.begun, 0, AT_WORK if busy else "", now)
        yield found.model_copy(update={"token": upload.upload_id})


def _probe(path: str, size: int, since: datetime, now: datetime) -> Verdict:
    return _leftover("probe", path, since, size, "", now)


def _leftover(  # noqa: PLR0913, PLR0917  what a verdict says
    kind: Kind, name: str, since: datetime, size: int, needed: str, now: datetime
) -> Verdict:
    young = "" if now - since >= LEFTOVER_AGE else "younger than a day: its writer may be at work"
    reason = needed or young
    told = reason or "its writer never came to an end"
    return Verdict(kind=kind, name=name, since=since, size=size, fate="stays" if reason else "goes", reason=told)


def _home(build: StoredBuild) -> str:
    return build_path(build.model, build.build_id)


def _carry_out(registry: Registry, verdict: Verdict, log: Log) -> Verdict:
    """Remove what goes; what turns out to be needed stays."""
    if verdict.fate != "goes":
        return verdict
    kept = _remove(registry, verdict)
    log(f"{verdict.kind} {verdict.name}: {f'stays: {kept}' if kept else 'removed'}")
    changed = {"fate": "stays", "reason": kept} if kept else {"fate": "gone"}
    return verdict.model_copy(update=changed)


def _remove(registry: Registry, verdict: Verdict) -> str | None:
    if verdict.kind in {"build", "unfinished build"}:
        return remove_build(registry, *_names(verdict.name), verdict.token)
    if verdict.kind == "claim":
        return _remove_claim(registry, verdict.name)
    if verdict.kind == "upload":
        abort_upload(registry.prefix, UnfinishedUpload(verdict.name, verdict.token or "", verdict.since))
    else:
        registry.prefix.delete(verdict.name)
    return None


def _names(name: str) -> tuple[str, str]:
    model, _, build_id = name.partition("/")
    return model, build_id


def _remove_claim(registry: Registry, path: str) -> str | None:
    """Take the claim over, if nobody holds it by now, and give it up."""
    _, model, _, build_id, _ = path.split("/")
    try:
        with claimed(registry.build_prefix(model, build_id), "nothing"):
            return None
    except InTheWay:
        return AT_WORK
