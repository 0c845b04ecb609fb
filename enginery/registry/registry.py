"""The registry as its users see it: it reads builds, finds the build that fits a machine, and moves channels."""

from typing import Unpack

from enginery.builds import Manifest
from enginery.core.errors import RegistryError, UsageError
from enginery.core.s3 import honours_conditional_writes
from enginery.registry.channels import Action, ChannelPointer, Decide, Move, Moved, change_channel, new_move, one_line
from enginery.registry.layout import channel_reference, require_name, split_reference
from enginery.registry.reading import PublishedBuilds
from enginery.registry.resolving.compatibility import failures
from enginery.registry.resolving.query import BuildOptions, BuildQuery
from enginery.registry.resolving.resolve import Resolved, resolve

LOST_MOVE = (
    "If-Match, so of two who move a channel at once one would be lost",
    "use another endpoint, or --allow-unconditional-writes when nobody else moves channels now",
)
"""What can happen to a channel at an endpoint that ignores conditional writes, and the remedy."""


class Registry(PublishedBuilds):
    """The builds under an address such as `s3://engines/prod`."""

    def promote(  # noqa: PLR0913  each is a decision of the user
        self,
        build: str,
        channel: str,
        *,
        reason: str = "",
        force: bool = False,
        expected: str | None = None,
        allow_unconditional_writes: bool = False,
    ) -> ChannelPointer:
        """Point a channel at a build, for the build's target; nothing is written when the channel points there already.

        Args:
            build: the build's name as `find` takes it: `BUILD`, `MODEL/BUILD` or `MODEL@CHANNEL/TARGET`.
            channel: the channel's name; it is created when it does not exist.
            reason: why, for the channel's history.
            force: promote the build although it failed a gate; needs a reason.
            expected: the id of the build that the channel must point at now; None for any build.
            allow_unconditional_writes: accept an endpoint that ignores If-Match; there, one of two simultaneous moves
                is lost.

        Raises:
            UsageError: when the channel's name is not valid, or a forced promotion has no reason.
            RegistryError: when there is no such build, it failed a gate, or the channel does not point at `expected`.
        """
        manifest = self.find(build)
        require_name("channel", channel)
        overruled = _overruled(manifest, reason, force=force)
        if not allow_unconditional_writes:
            self.require_conditional_writes(*LOST_MOVE)
        target = manifest.target.name

        def decide(now: ChannelPointer | None) -> Move | None:
            _require_expected(now, expected, channel_reference(manifest.model, channel, target))
            if now and now.build_id == manifest.build_id:
                return None
            return new_move(Action.PROMOTE, now, manifest.build_id, one_line(reason), overruled)

        return self._move(manifest.model, channel, target, decide).pointer

    def demote(
        self, channel: str, *, reason: str = "", expected: str | None = None, allow_unconditional_writes: bool = False
    ) -> ChannelPointer:
        """Point a channel, `MODEL@CHANNEL/TARGET`, back at its previous build; a second demotion goes one further back.

        When another user moves the channel at the same time, this demotion is refused. So if two users demote the same
        build, the channel goes back only once.

        Raises:
            RegistryError: when there is no such channel, there is nothing to go back to, the previous build was
                removed, or the channel points at another build than expected.
        """
        names = split_reference(channel)
        for field, value in zip(("model", "channel", "target"), names, strict=True):
            require_name(field, value)
        if not allow_unconditional_writes:
            self.require_conditional_writes(*LOST_MOVE)

        def decide(now: ChannelPointer | None) -> Move:
            nonlocal expected
            _require_expected(now, expected, channel)
            back = self._previous_build(now, channel)
            expected = now.build_id if now else None
            return new_move(Action.DEMOTE, now, back, one_line(reason))

        return self._move(*names, decide).pointer

    def point_channel(self, manifest: Manifest, channel: str) -> str:
        """Point a channel at a build that was just published; returns one line that says where it points now.

        A channel that pointed at this build earlier is not moved: another build was published or promoted after it, or
        this build was demoted. Running the unchanged spec again must not undo that.
        """
        target = manifest.target.name

        def decide(now: ChannelPointer | None) -> Move | None:
            if now and (now.build_id == manifest.build_id or now.was_on(manifest.build_id, manifest.created)):
                return None
            return new_move(Action.PUBLISH, now, manifest.build_id, "")

        pointer, written = self._move(manifest.model, channel, target, decide)
        name = f"channel {channel} of {manifest.model} for {target}"
        if pointer.build_id == manifest.build_id:
            return f"{name} is {'now' if written else 'already'} {manifest.build_id}"
        since = f"{pointer.last.action}, {pointer.moved:%Y-%m-%d %H:%M} UTC"
        why = f"{manifest.build_id} was on it before, and publishing it again does not bring it back"
        does = f"`enginery promote {manifest.reference} {channel}` does"
        return f"{name} stays {pointer.build_id} ({since}): {why}; {does}"

    def resolve(self, model: str, **options: Unpack[BuildOptions]) -> Resolved:
        """Find the one build of a model that matches the options and runs on the machine.

        Args:
            model: the model's name.
            options: options such as `channel="stable"` and `gpu="cpu"`; `BuildQuery` describes all of them.

        Raises:
            UsageError: when an option is not valid.
            NothingFits: when no build fits; has the builds that were considered, with the reasons against each.
            SeveralFit: when several builds fit; has the options that tell them apart.
            RegistryError: when the registry cannot be read.
        """
        return resolve(self, BuildQuery(model=model, **options))

    def require_conditional_writes(self, harm: str, remedy: str) -> None:
        """Raise a RegistryError when the endpoint ignores conditional writes.

        `harm` says in the error which condition is ignored, and what can happen then.
        """
        if not honours_conditional_writes(self.prefix):
            raise RegistryError(f"this S3 endpoint ignores {harm}", subject=self.address, remedy=remedy)

    def honours_conditional_writes(self) -> bool:
        """Whether the endpoint honours conditional writes. A test object shows it, once for each process.

        Raises:
            RegistryError: when objects cannot be written, read or removed here.
        """
        return honours_conditional_writes(self.prefix)

    def _move(self, model: str, channel: str, target: str, decide: Decide) -> Moved:
        """Move a channel, and move it back when the build was removed meanwhile.

        A prune deletes the manifest first and reads the channels afterwards. So a move and a prune of one build cannot
        both succeed.
        """
        moved = change_channel(self.prefix, model, channel, target, decide)
        build_id = moved.pointer.build_id
        if not moved.written or self.exists(model, build_id):
            return moved

        def back(now: ChannelPointer | None) -> Move | None:
            if now is None or now.build_id != build_id or now.previous is None:
                return None
            return new_move(Action.DEMOTE, now, now.previous, f"{build_id} was removed meanwhile")

        change_channel(self.prefix, model, channel, target, back)
        problem = f"{model}/{build_id} was removed while the channel was moved to it"
        remedy = "promote another build, or publish this one again and promote it"
        where = channel_reference(model, channel, target)
        raise RegistryError(problem, subject=where, remedy=remedy, transient=True)

    def _previous_build(self, now: ChannelPointer | None, where: str) -> str:
        """The id of the build that a demotion goes back to; an error when there is none, or it was removed."""
        if now is None:
            remedy = f"see where channels point with `enginery channels {where.partition('@')[0]}`"
            raise RegistryError("points at nothing, so it cannot go back", subject=where, remedy=remedy)
        path = now.way_back()
        if not path:
            remedy = f"promote another build with `enginery promote BUILD {now.channel}`"
            raise RegistryError(f"pointed at nothing before {now.build_id}", subject=where, remedy=remedy)
        there = [build_id for build_id in reversed(path) if self.exists(now.model, build_id)]
        if path[-1] not in there:
            other = f"{now.model}/{there[0]}" if there else "BUILD"
            remedy = f"go to another one with `enginery promote {other} {now.channel}`"
            problem = f"pointed at {path[-1]} before, which is not published any more"
            raise RegistryError(problem, subject=where, remedy=remedy)
        return path[-1]


def _overruled(manifest: Manifest, reason: str, *, force: bool) -> tuple[str, ...]:
    """The gates that the build failed and that `force` overrules; an error when `force` is not set."""
    if force and not reason.strip():
        raise UsageError("a forced promotion needs a reason", subject="reason", remedy="say why, for the history")
    failed = failures(manifest)
    if failed and not force:
        remedy = "build one that passes; or overrule it with --force --reason TEXT, which the channel's history keeps"
        raise RegistryError(f"failed a gate: {'; '.join(failed)}", subject=manifest.reference, remedy=remedy)
    return failed


def _require_expected(now: ChannelPointer | None, expected: str | None, where: str) -> None:
    found = now.build_id if now else None
    if expected is None or found == expected:
        return
    by = f", moved there by {now.last.by}" if now and now.last.by else ""
    problem = f"points at {found or 'nothing'}{by}, not at {expected} as expected"
    raise RegistryError(problem, subject=where, remedy="look at what is on it now, and decide again")
