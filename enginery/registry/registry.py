"""The registry as its users see it: what `PublishedBuilds` reads, and channels moved and builds resolved."""

from typing import Unpack

from enginery.registry.channels import ChannelPointer
from enginery.registry.layout import split_reference
from enginery.registry.promoting import Why, demote, promote
from enginery.registry.reading import PublishedBuilds
from enginery.registry.resolving.query import BuildOptions, BuildQuery
from enginery.registry.resolving.resolve import Resolved, resolve


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
        """Point a channel at a build, for the build's target.

        Args:
            build: the build, as `find` takes it: `BUILD`, `MODEL/BUILD` or `MODEL@CHANNEL/TARGET`.
            channel: the channel's name; it is created when it does not exist.
            reason: why, for the channel's history.
            force: promote the build although it failed a gate; needs a reason.
            expected: the id of the build that the channel must still point at; None for any.
            allow_unconditional_writes: accept an endpoint that ignores If-Match.

        Raises:
            UsageError: when the channel's name is not valid, or a forced promotion has no reason.
            RegistryError: when there is no such build, it failed a gate, or the channel has moved.
        """
        why = Why(reason=reason, force=force, expected=expected, allow_unconditional_writes=allow_unconditional_writes)
        return promote(self, self.find(build), channel, why).pointer

    def demote(
        self, channel: str, *, reason: str = "", expected: str | None = None, allow_unconditional_writes: bool = False
    ) -> ChannelPointer:
        """Point a channel, `MODEL@CHANNEL/TARGET`, back at the build it pointed at before.

        Raises:
            RegistryError: when there is nothing to go back to, or the channel points at another build than expected.
        """
        why = Why(reason=reason, expected=expected, allow_unconditional_writes=allow_unconditional_writes)
        return demote(self, *split_reference(channel), why).pointer

    def resolve(self, model: str, **options: Unpack[BuildOptions]) -> Resolved:
        """Find the one build of a model that matches the options and runs on the machine.

        Args:
            model: the model's name.
            options: what else is known of the build and the machine, such as `channel="stable"` and `gpu="cpu"`;
                `BuildQuery` describes all of them.

        Raises:
            UsageError: when the options make no sense.
            NothingFits: with the near misses, and the reasons against each.
            SeveralFit: with the options that tell the builds apart.
            RegistryError: when the registry cannot be read.
        """
        return resolve(self, BuildQuery(model=model, **options))
