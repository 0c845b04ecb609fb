"""Moving channels: promotion, demotion, and what a publish does to its channel; and the gates of a promotion."""

from collections.abc import Callable, Iterator

from enginery.builds import Manifest
from enginery.core.errors import RegistryError, UsageError
from enginery.core.model import Frozen
from enginery.core.s3 import honours_conditional_writes
from enginery.registry.channels import Action, ChannelPointer, Decide, Move, Moved, a_move, change_channel, one_line
from enginery.registry.layout import channel_reference, require_name
from enginery.registry.reading import PublishedBuilds

Gate = Callable[[Manifest], Iterator[str]]
"""Yields what a build did not pass, each in one sentence; nothing for a build that passed."""


def validation_gate(manifest: Manifest) -> Iterator[str]:
    """The build must have passed the validation of its answers."""
    report = manifest.validation
    if not report.passed:
        yield f"validation: {len(report.misses)} of {len(report.results)} answers are not as expected"


GATES: tuple[Gate, ...] = (validation_gate,)
"""All gates; new ones are added here."""


def failures(manifest: Manifest) -> tuple[str, ...]:
    """The gates that a build failed, in words; empty for a build that may be promoted."""
    return tuple(failure for gate in GATES for failure in gate(manifest))


class Why(Frozen):
    """Why a channel is moved, and under which conditions.

    Attributes:
        reason: the reason, for the history.
        force: promote a build although it failed a gate; needs a reason.
        expected: the build that the channel must still point at; None for any.
        allow_unconditional_writes: accept an S3 endpoint that ignores If-Match; there, one of two simultaneous moves
            is lost.
    """

    reason: str = ""
    force: bool = False
    expected: str | None = None
    allow_unconditional_writes: bool = False


def promote(registry: PublishedBuilds, manifest: Manifest, channel: str, why: Why) -> Moved:
    """Point a channel at a build, for the build's target; nothing is written when it already does.

    Raises:
        UsageError: when the channel's name is not valid, or a forced promotion has no reason.
        RegistryError: when the build failed a gate, or the channel points at another build than expected.
    """
    require_name("channel", channel)
    overruled = _overruled(manifest, why)
    _require_conditional_writes(registry, why)
    target = manifest.target.name

    def decide(now: ChannelPointer | None) -> Move | None:
        _require_expected(now, why.expected, channel_reference(manifest.model, channel, target))
        if now and now.build_id == manifest.build_id:
            return None
        return a_move(Action.PROMOTE, now, manifest.build_id, one_line(why.reason), overruled)

    return _move(registry, manifest.model, channel, target, decide)


def demote(registry: PublishedBuilds, model: str, channel: str, target: str, why: Why) -> Moved:
    """Point a channel back at the build it pointed at before; a second demotion goes one further back.

    When somebody else moves the channel meanwhile, it stays there: two users who demote the same build go back once.

    Raises:
        RegistryError: when there is no such channel, there is nothing to go back to, the previous build was removed,
            or the channel points at another build than expected.
    """
    for name, value in (("model", model), ("channel", channel), ("target", target)):
        require_name(name, value)
    _require_conditional_writes(registry, why)
    where = channel_reference(model, channel, target)
    expected = why.expected

    def decide(now: ChannelPointer | None) -> Move:
        nonlocal expected
        _require_expected(now, expected, where)
        back = _build_before(registry, now, where)
        expected = now.build_id if now else None
        return a_move(Action.DEMOTE, now, back, one_line(why.reason))

    return _move(registry, model, channel, target, decide)


def point_channel(registry: PublishedBuilds, manifest: Manifest, channel: str) -> str:
    """Point a channel at a build that was just published, and say in one line where it points now.

    A channel that pointed at the build before is not moved: the build was superseded or demoted, and running its
    unchanged spec again must not undo that.
    """
    target = manifest.target.name

    def decide(now: ChannelPointer | None) -> Move | None:
        if now and (now.build_id == manifest.build_id or now.was_on(manifest.build_id, manifest.created)):
            return None
        return a_move(Action.PUBLISH, now, manifest.build_id, "")

    pointer, written = _move(registry, manifest.model, channel, target, decide)
    name = f"channel {channel} of {manifest.model} for {target}"
    if pointer.build_id == manifest.build_id:
        return f"{name} is {'now' if written else 'already'} {manifest.build_id}"
    since = f"{pointer.last.action}, {pointer.moved:%Y-%m-%d %H:%M} UTC"
    why = f"{manifest.build_id} was on it before, and publishing it again does not bring it back"
    return f"{name} stays {pointer.build_id} ({since}): {why}; `enginery promote {manifest.reference} {channel}` does"


def _move(registry: PublishedBuilds, model: str, channel: str, target: str, decide: Decide) -> Moved:
    """Move a channel, and move it back when the build was removed meanwhile.

    A prune deletes the manifest first and then reads the channels, so either it or this notices the other.

    Raises:
        RegistryError: when the build was removed.
    """
    moved = change_channel(registry.prefix, model, channel, target, decide)
    build_id = moved.pointer.build_id
    if not moved.written or registry.exists(model, build_id):
        return moved

    def back(now: ChannelPointer | None) -> Move | None:
        if now is None or now.build_id != build_id or now.previous is None:
            return None
        return a_move(Action.DEMOTE, now, now.previous, f"{build_id} was removed meanwhile")

    change_channel(registry.prefix, model, channel, target, back)
    problem = f"{model}/{build_id} was removed while the channel was moved to it"
    remedy = "promote another build, or publish this one again and promote it"
    where = channel_reference(model, channel, target)
    raise RegistryError(problem, subject=where, remedy=remedy, transient=True)


def _overruled(manifest: Manifest, why: Why) -> tuple[str, ...]:
    """The gates that the build failed and that are overruled."""
    if why.force and not why.reason.strip():
        raise UsageError("a forced promotion needs a reason", subject="reason", remedy="say why, for the history")
    failed = failures(manifest)
    if failed and not why.force:
        remedy = "build one that passes; or overrule it with --force --reason TEXT, which the channel's history keeps"
        raise RegistryError(f"failed a gate: {'; '.join(failed)}", subject=manifest.reference, remedy=remedy)
    return failed


def _require_expected(now: ChannelPointer | None, expected: str | None, where: str) -> None:
    found = now.build_id if now else None
    if expected is None or found == expected:
        return
    by = f", moved there by {now.last.by}" if now and now.last.by else ""
    problem = f"points at {found or 'nothing'}{by}; expected was {expected}"
    raise RegistryError(problem, subject=where, remedy="look at what is on it now, and decide again")


def _build_before(registry: PublishedBuilds, now: ChannelPointer | None, where: str) -> str:
    if now is None:
        remedy = f"see where channels point with `enginery channels {where.partition('@')[0]}`"
        raise RegistryError("points at nothing, so there is no way back", subject=where, remedy=remedy)
    path = now.way_back()
    if not path:
        remedy = f"promote another build with `enginery promote BUILD {now.channel}`"
        raise RegistryError(f"pointed at nothing before {now.build_id}", subject=where, remedy=remedy)
    there = [build_id for build_id in reversed(path) if registry.exists(now.model, build_id)]
    if path[-1] not in there:
        other = f"{now.model}/{there[0]}" if there else "BUILD"
        remedy = f"go to another one with `enginery promote {other} {now.channel}`"
        problem = f"pointed at {path[-1]} before, which is not published any more"
        raise RegistryError(problem, subject=where, remedy=remedy)
    return path[-1]


def _require_conditional_writes(registry: PublishedBuilds, why: Why) -> None:
    if why.allow_unconditional_writes or honours_conditional_writes(registry.prefix):
        return
    raise RegistryError(
        "this S3 endpoint ignores If-Match, so of two who move a channel at once one would be lost",
        subject=registry.address,
        remedy="use another endpoint, or --allow-unconditional-writes when nobody else moves channels now",
    )
