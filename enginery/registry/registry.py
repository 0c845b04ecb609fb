"""The registry as its users see it: what `PublishedBuilds` reads, and channels moved and builds resolved."""

from enginery.registry.channels import ChannelPointer
from enginery.registry.promoting import Why, demote, promote
from enginery.registry.reading import PublishedBuilds, split_reference
from enginery.registry.resolving import BuildQuery, Resolved, resolve


class Registry(PublishedBuilds):
    """The builds under an address such as `s3://engines/prod`."""

    def promote(  # noqa: PLR0913  each is a decision of whoever promotes
        self,
        build: str,
        channel: str,
        *,
        reason: str = "",
        force: bool = False,
        expected: str | None = None,
        allow_unconditional_writes: bool = False,
    ) -> ChannelPointer:
        """Point a channel at a build; `build` is what `find` takes, and `reason` goes into the channel's history.

        Args:
            build: `BUILD`, `MODEL/BUILD` or `MODEL@CHANNEL/TARGET`.
            channel: the channel's name; one that is not there yet is made.
            reason: why.
            force: promote it although it failed a gate; needs a reason.
            expected: the id of the build that the channel must still point at; None for any.
            allow_unconditional_writes: accept an endpoint that ignores If-Match.

        Raises:
            UsageError: when the channel's name is none, or a forced promotion has no reason.
            RegistryError: when there is no such build, it failed a gate, or the channel has moved.
        """
        why = Why(reason=reason, force=force, expected=expected, allow_unconditional_writes=allow_unconditional_writes)
        return promote(self, self.find(build), channel, why).pointer

    def demote(
        self,
        channel: str,
        *,
        reason: str = "",
        expected: str | None = None,
        allow_unconditional_writes: bool = False,
    ) -> ChannelPointer:
        """Point a channel, `MODEL@CHANNEL/TARGET`, back at the build it pointed at before.

        Raises:
            RegistryError: when there is nothing to go back to, or the channel points at another build than expected.
        """
        why = Why(reason=reason, expected=expected, allow_unconditional_writes=allow_unconditional_writes)
        return demote(self, *split_reference(channel), why).pointer

    def resolve(  # noqa: PLR0913  each is an option
        self,
        model: str,
        *,
        channel: str | None = None,
        build: str | None = None,
        target: str | None = None,
        gpu: str = "auto",
        gpus: int | None = None,
        world_size: int | None = None,
        backend: str | None = None,
        release: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        other_product: bool = False,
    ) -> "Resolved":
        """The one build of a model that is what was asked for and runs in the place that was named.

        Args:
            model: the model's name.
            channel: the channel it is on; without one, every build that passed its gates is looked at.
            build: its id, or how that begins; instead of a channel.
            target: the name of its target.
            gpu: a product name in any spelling, `cpu`, `any`, or `auto` for what this machine has.
            gpus: how many GPUs there are; with `auto`, as many as this machine has.
            world_size: the GPUs that it takes, exactly.
            backend: `tensorrt`, `pytorch` or `onnxruntime`.
            release: its backend's version, or a range such as `>=1.0,<1.3`.
            runtime: the TensorRT-LLM of the container that is to serve it.
            precision: the number format of its weights.
            other_product: accept a TensorRT engine built for another product of the same compute capability.

        Raises:
            UsageError: when something asked for cannot be meant.
            NothingFits: with the near misses, and the reasons of each.
            SeveralFit: with the options that tell them apart.
            RegistryError: when the registry cannot be read.
        """
        asked = BuildQuery(
            model=model,
            channel=channel,
            build=build,
            target=target,
            gpu=gpu,
            gpus=gpus,
            world_size=world_size,
            backend=backend,
            release=release,
            runtime=runtime,
            precision=precision,
            other_product=other_product,
        )
        return resolve(self, asked)
