"""Pruning: decides which objects of a registry may be removed, and why the others stay; then removes them.

While a build is removed, nobody sees a part of it, and no channel points at nothing. The prune claims the build, so
nobody publishes it meanwhile. It deletes the manifest first: from then on the build does not exist. Then it reads the
channels once more. A command that moves a channel checks after the move that the build still exists. So one of the two
always notices the other. A prune that dies leaves files without a manifest; the next prune removes them.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal
from uuid import uuid4

from pydantic import Field

from enginery.builds import MANIFEST, MODELS, Manifest, build_path
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.progress import Log, no_log
from enginery.core.s3 import Content, Prefix, UnfinishedUpload, abort_upload, probes, unfinished_uploads
from enginery.core.text import human_bytes
from enginery.core.threads import side_by_side
from enginery.registry.claims import CLAIM, PRUNING, Claim, ClaimHeld
from enginery.registry.reading import READS_AT_ONCE
from enginery.registry.registry import Registry
from enginery.registry.upkeep.inventory import (
    BUILD_PARTS,
    Inventory,
    StoredBuild,
    channel_uses,
    read_stored,
    take_inventory,
)

AT_WORK = "someone is at work on it"
LEFTOVER_AGE = timedelta(days=1)
"""Younger files without a manifest stay, because a publisher may still be sending them."""

Kind = Literal["build", "unfinished build", "claim", "upload", "probe"]


class Retention(Frozen):
    """The policy for builds that no channel needs.

    Attributes:
        keep: how many of the newest builds of each target stay.
        days: builds younger than this number of days stay.
    """

    keep: int = Field(default=3, ge=0)
    days: float = Field(default=30.0, ge=0)


class Verdict(Frozen):
    """What happens to one build or object of the registry.

    Attributes:
        kind: `build`; `unfinished build` for files without a manifest; `claim` of a publisher that died; `upload` for a
            multipart upload that was never completed; `probe` for an object that tested the server.
        name: `MODEL/BUILD`, or the path of an object.
        target: the name of a build's target; empty for other objects.
        since: when it was published or last written, UTC.
        size: bytes; 0 when S3 does not report the size.
        fate: `stays`; `goes` when it is to be removed; `gone` when it has been removed.
        reason: the reason for `fate`, in words.
        token: the ETag or upload id at the time of the verdict; another one later shows a change.
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
        dry_run: True when the prune only reported and removed nothing.
        verdicts: builds by model, target and age, newest first; then leftovers.
    """

    registry: str
    dry_run: bool
    verdicts: tuple[Verdict, ...]

    @property
    def removable(self) -> tuple[Verdict, ...]:
        """The verdicts on what is to be removed or has been removed."""
        return tuple(verdict for verdict in self.verdicts if verdict.fate != "stays")

    @property
    def sentence(self) -> str:
        """The result in one line."""
        size = human_bytes(sum(verdict.size for verdict in self.removable))
        stay = len(self.verdicts) - len(self.removable)
        done = "would go; nothing was removed" if self.dry_run else "removed"
        return f"{len(self.removable)} of {len(self.verdicts)} {done}, {size}; {stay} stay"


def prune(  # noqa: PLR0913  each is an option of the command
    registry: Registry,
    policy: Retention,
    *,
    model: str | None = None,
    dry_run: bool = True,
    log: Log = no_log,
    now: datetime | None = None,
) -> Pruning:
    """Remove the builds that neither the policy nor a channel keeps, and the leftovers of publishers that died.

    Args:
        registry: the registry.
        policy: which builds stay.
        model: prune only this model; None for all models.
        dry_run: remove nothing, only report what would be removed.
        log: takes a line for each removal.
        now: the time at which ages are measured; None for the current time.

    Raises:
        RegistryError: when the registry cannot be used, or a channel cannot be read, so that its builds are not known.
    """
    verdicts = tuple(judge(registry, policy, model, now or datetime.now(UTC)))
    if not dry_run:
        verdicts = tuple(_carry_out(registry, verdict, log) for verdict in verdicts)
    return Pruning(registry=registry.address, dry_run=dry_run, verdicts=verdicts)


def judge(registry: Registry, policy: Retention, model: str | None, now: datetime) -> Iterator[Verdict]:
    """Decide what happens to each build and leftover of the registry; nothing is removed."""
    inventory = take_inventory(registry, model)
    uses = {name: channel_uses(registry, name) for name in inventory.models}
    yield from _published(registry, policy, inventory, uses, now)
    yield from _leftovers(registry, inventory, uses, now)
    yield from _uploads(registry, model, now)
    if model is None:
        for info in probes(registry.prefix):
            yield _leftover("probe", info.path, info.modified or now, info.size, "", now)


Uses = Mapping[str, Mapping[str, str]]
"""Model -> build id -> why a channel needs it."""


def _published(
    registry: Registry, policy: Retention, inventory: Inventory, uses: Uses, now: datetime
) -> Iterator[Verdict]:
    stored = [build for build in inventory.builds if build.manifest]
    manifests = side_by_side(lambda build: read_stored(registry, build), stored, threads=READS_AT_ONCE)
    ranked: dict[tuple[str, str], int] = {}
    for build, manifest in sorted(zip(stored, manifests, strict=True), key=_by_age):
        target, since = _target_and_time(build, manifest)
        if isinstance(manifest, Manifest):
            ranked[build.model, target] = rank = ranked.get((build.model, target), 0) + 1
            needed = uses[build.model].get(build.build_id) or _by_policy(policy, manifest, rank, now)
        else:
            needed = f"its manifest {manifest.problem}" if manifest else "it was removed meanwhile"
        yield Verdict(
            kind="build",
            name=build.reference,
            target=target,
            since=since,
            size=build.size,
            fate="stays" if needed else "goes",
            reason=needed or "on no channel, old, and newer ones are there",
            token=build.manifest.etag if build.manifest else None,
        )


def _by_age(pair: tuple[StoredBuild, Manifest | RegistryError | None]) -> tuple[str, str, float]:
    target, since = _target_and_time(*pair)
    return pair[0].model, target, -since.timestamp()


def _target_and_time(build: StoredBuild, manifest: Manifest | RegistryError | None) -> tuple[str, datetime]:
    if isinstance(manifest, Manifest):
        return manifest.target.name, manifest.created
    return "", build.touched


def _by_policy(policy: Retention, manifest: Manifest, rank: int, now: datetime) -> str:
    if rank <= policy.keep:
        return f"one of the {policy.keep} newest" if policy.keep > 1 else "the newest"
    if now - manifest.created < timedelta(days=policy.days):
        return f"younger than {policy.days:g} days"
    return ""


def _leftovers(registry: Registry, inventory: Inventory, uses: Uses, now: datetime) -> Iterator[Verdict]:
    """The verdicts on what publishers leave when they die: files without a manifest, and claims beside a manifest."""
    for build in inventory.builds:
        if build.manifest and build.claim is None:
            continue
        needed = AT_WORK if Claim(registry.build_prefix(build.model, build.build_id)).is_held() else ""
        if build.manifest and build.claim:
            path = f"{build_path(build.model, build.build_id)}/{CLAIM}"
            yield _leftover("claim", path, build.touched, build.claim.size, needed, now)
            continue
        needed = needed or uses[build.model].get(build.build_id, "")
        yield _leftover("unfinished build", build.reference, build.touched, build.size, needed, now)


def _uploads(registry: Registry, model: str | None, now: datetime) -> Iterator[Verdict]:
    for upload in unfinished_uploads(registry.prefix, f"{MODELS}/{model}" if model else MODELS):
        parts = upload.path.split("/")
        in_build = len(parts) >= BUILD_PARTS
        busy = in_build and Claim(registry.build_prefix(parts[1], parts[3])).is_held()
        found = _leftover("upload", upload.path, upload.begun, 0, AT_WORK if busy else "", now)
        yield found.model_copy(update={"token": upload.upload_id})


def _leftover(  # noqa: PLR0913, PLR0917  each is a field of the verdict
    kind: Kind, name: str, since: datetime, size: int, needed: str, now: datetime
) -> Verdict:
    young = "" if now - since >= LEFTOVER_AGE else "younger than a day: its writer may be at work"
    reason = needed or young
    fate: Literal["stays", "goes"] = "stays" if reason else "goes"
    reason = reason or "older than a day: its writer has probably died"
    return Verdict(kind=kind, name=name, since=since, size=size, fate=fate, reason=reason)


def _carry_out(registry: Registry, verdict: Verdict, log: Log) -> Verdict:
    """Remove an object whose verdict is `goes`, unless it is needed by now; returns the final verdict."""
    if verdict.fate != "goes":
        return verdict
    kept = _remove(registry, verdict)
    log(f"{verdict.kind} {verdict.name}: {f'stays: {kept}' if kept else 'removed'}")
    changed = {"fate": "stays", "reason": kept} if kept else {"fate": "gone"}
    return verdict.model_copy(update=changed)


def _remove(registry: Registry, verdict: Verdict) -> str | None:
    if verdict.kind in {"build", "unfinished build"}:
        return _remove_build(registry, verdict.name, verdict.token)
    if verdict.kind == "claim":
        return _remove_claim(registry, verdict.name)
    if verdict.kind == "upload":
        abort_upload(registry.prefix, UnfinishedUpload(verdict.name, verdict.token or "", verdict.since))
    else:
        registry.prefix.delete(verdict.name)
    return None


def _remove_claim(registry: Registry, path: str) -> str | None:
    """Take over the claim and release it; returns why it stays when a process holds it by now."""
    _, model, _, build_id, _ = path.split("/")
    try:
        with Claim(registry.build_prefix(model, build_id), "nothing").hold():
            return None
    except ClaimHeld:
        return AT_WORK


def _remove_build(registry: Registry, name: str, etag: str | None) -> str | None:
    """Remove a build whose manifest still has the ETag of the verdict; otherwise returns the reason why it stays."""
    model, build_id = name.split("/", 1)
    prefix = registry.build_prefix(model, build_id)

    def needed() -> str | None:
        return channel_uses(registry, model).get(build_id)

    try:
        with Claim(prefix, f"{PRUNING} {uuid4().hex}").hold():
            return _remove_objects(prefix, etag, needed)
    except ClaimHeld:
        return AT_WORK


def _remove_objects(prefix: Prefix, etag: str | None, needed: Callable[[], str | None]) -> str | None:
    if reason := needed():
        return reason
    manifest = prefix.get(MANIFEST)
    if (manifest.etag if manifest else None) != etag:
        return "it was published or removed meanwhile"
    if manifest and (reason := _unpublish(prefix, manifest, needed)):
        return reason
    side_by_side(partial(abort_upload, prefix), unfinished_uploads(prefix))
    side_by_side(prefix.delete, [info.path for info in prefix.list() if info.path != CLAIM])
    return None


def _unpublish(prefix: Prefix, manifest: Content, needed: Callable[[], str | None]) -> str | None:
    """Delete the manifest. If a channel needs the build by now, put the manifest back and return the reason."""
    prefix.delete(MANIFEST)
    try:
        reason = needed()
    except BaseException:
        _put_back(prefix, manifest)
        raise
    if reason:
        _put_back(prefix, manifest)
        return f"{reason}, which was moved just now"
    return None


def _put_back(prefix: Prefix, manifest: Content) -> None:
    try:
        prefix.swap(MANIFEST, manifest.data, None)  # unless somebody has published the build again
    except BaseException as error:
        error.add_note(f"{prefix.where(MANIFEST)} was removed and could not be put back: publish the build again")
        raise
