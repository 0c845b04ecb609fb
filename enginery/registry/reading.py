"""Published builds, found by name, by channel or by listing. A build without a manifest does not exist."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from enginery.errors import RegistryError
from enginery.manifest import Manifest, read_manifest
from enginery.registry.channels import ChannelPointer, Pointed, read_channel
from enginery.registry.layout import MODELS, build_of, build_path, channels_path, manifest_path, pointer_of
from enginery.registry.listing import Listing, PublishedBuild, read_each
from enginery.registry.manifest_cache import read_listed
from enginery.s3 import Address, ObjectInfo, Prefix

if TYPE_CHECKING:
    from enginery.registry.resolving import Resolved

SHOWN = 5


class Registry:
    """The builds under an address such as `s3://engines/prod`."""

    def __init__(self, address: str) -> None:
        self.prefix = Prefix(Address.parse(address), RegistryError)

    @property
    def address(self) -> str:
        """The registry's address."""
        return str(self.prefix.address)

    def build_prefix(self, model: str, build_id: str) -> Prefix:
        """The objects of one build."""
        address = self.prefix.address
        return Prefix(Address(address.bucket, address.key(build_path(model, build_id))), RegistryError)

    def builds(self, model: str | None = None) -> list[PublishedBuild]:
        """Every published build, newest last; of one model when it is named.

        Raises:
            RegistryError: when the registry cannot be read, or holds a manifest that is not sound.
        """
        builds, unsound = self.listing(model)
        if unsound:
            raise unsound[0]
        return builds

    def listing(self, model: str | None = None) -> Listing:
        """Every published build that can be read, of one model when it is named, and why the others cannot.

        Raises:
            RegistryError: when the registry cannot be read.
        """
        manifests, unsound = self.manifests(model)
        return Listing([PublishedBuild.of(manifest) for manifest in manifests], unsound)

    def manifests(self, model: str | None = None) -> tuple[list[Manifest], list[RegistryError]]:
        """The manifests of all builds, or of a model's, the oldest first; and what is wrong with those not sound.

        Those that were read before are kept on this machine, so asking again costs little more than a listing.

        Raises:
            RegistryError: when the registry cannot be read.
        """
        listed = [info for info in self._listed(model) if build_of(info.path)]
        found, unsound = read_each(self._read_listed, listed)
        return sorted(found, key=lambda manifest: manifest.created), unsound

    def exists(self, model: str, build_id: str) -> bool:
        """Whether the build is published."""
        return self.prefix.head(manifest_path(model, build_id)) is not None

    def manifest(self, model: str, build_id: str) -> Manifest:
        """The manifest of a build.

        Raises:
            RegistryError: when there is none, or it is not sound.
        """
        found = self.read(model, build_id)
        if found is None:
            raise RegistryError(f"no build {model}/{build_id}", subject=self.address, remedy=_LIST)
        return found

    def read(self, model: str, build_id: str) -> Manifest | None:
        """The manifest of a build, or None when it is not published.

        Raises:
            RegistryError: when it is not sound.
        """
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        return None if data is None else self.parse(model, build_id, data)

    def manifest_json(self, model: str, build_id: str) -> bytes:
        """A manifest's bytes as they are in the registry: what a signature covers. `parse` reads them.

        Raises:
            RegistryError: when there is none.
        """
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        if data is None:
            raise RegistryError(f"no build {model}/{build_id}", subject=self.address, remedy=_LIST)
        return data

    def parse(self, model: str, build_id: str, data: bytes) -> Manifest:
        """The manifest in these bytes, which were read for this build.

        Raises:
            RegistryError: when it is not sound, or of another build.
        """
        path = manifest_path(model, build_id)
        manifest = read_manifest(data, subject=self.prefix.where(path))
        if (manifest.model, manifest.build_id) != (model, build_id):
            problem = f"describes another build: {manifest.model}/{manifest.build_id}"
            raise RegistryError(problem, subject=self.prefix.where(path), remedy="publish the build again")
        return manifest

    def find(self, reference: str) -> Manifest:
        """The build meant by `BUILD`, `MODEL/BUILD` (or how they begin) or `MODEL@CHANNEL/TARGET`.

        Raises:
            RegistryError: when there is none, or more than one; near ones are named.
        """
        if "@" in reference:
            return self._find_by_channel(reference)
        model, slash, build_id = reference.rpartition("/")
        if model and build_id and (named := self.read(model, build_id)):
            return named  # without a listing, which not everybody may
        names = self._names(model if slash else None)
        exact = [name for name in names if name[1] == build_id]
        found = exact or [name for name in names if build_id and name[1].startswith(build_id)]
        if len(found) == 1:
            return self.manifest(*found[0])
        if found:
            several = _listed(found)
            remedy = f"say which one: {several}"
            raise RegistryError(f"{reference!r} could be {len(found)} builds", subject=self.address, remedy=remedy)
        raise RegistryError(f"no build {reference!r}", subject=self.address, remedy=self._near(reference))

    def channel(self, model: str, channel: str, target: str) -> ChannelPointer | None:
        """Where a channel points for a target, or None."""
        pointed = self.pointed(model, channel, target)
        return pointed.pointer if pointed else None

    def pointed(self, model: str, channel: str, target: str) -> Pointed | None:
        """Where a channel points for a target, with the etag of the pointer; None where it points at nothing."""
        return read_channel(self.prefix, model, channel, target)

    def pointers(self, model: str, channel: str | None = None) -> tuple[list[Pointed], list[RegistryError]]:
        """The pointers of a model's channels, or of one of them; and what is wrong with those not sound.

        Raises:
            RegistryError: when the registry cannot be read.
        """
        listed = (pointer_of(info.path) for info in self.prefix.list(channels_path(model, channel)))
        return read_each(lambda names: self.pointed(model, *names), [names for names in listed if names])

    def channels(self, model: str) -> list[ChannelPointer]:
        """Where each channel of a model points, for each target, with its history.

        Raises:
            RegistryError: when one of them is not sound, or the registry cannot be read.
        """
        found, unsound = self.pointers(model)
        if unsound:
            raise unsound[0]
        return [pointed.pointer for pointed in found]

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
        from enginery.registry.promoting import Why, promote  # noqa: PLC0415  it needs this module

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
        from enginery.registry.promoting import Why, demote  # noqa: PLC0415  it needs this module

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
        from enginery.registry.asked import Asked  # noqa: PLC0415  most who read builds resolve none
        from enginery.registry.resolving import resolve  # noqa: PLC0415  it needs this module

        asked = Asked(
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

    def _listed(self, model: str | None) -> Iterator[ObjectInfo]:
        return self.prefix.list(f"{MODELS}/{model}" if model else MODELS)

    def _read_listed(self, info: ObjectInfo) -> Manifest | None:
        data, names = read_listed(self.prefix, info), build_of(info.path)
        return self.parse(*names, data) if data is not None and names else None

    def _names(self, model: str | None) -> list[tuple[str, str]]:
        found = (build_of(info.path) for info in self._listed(model))
        return [names for names in found if names]

    def _find_by_channel(self, reference: str) -> Manifest:
        model, channel, target = split_reference(reference)
        pointer = self.channel(model, channel, target)
        if pointer is None:
            problem = f"channel {channel} of {model} has no build for {target}"
            raise RegistryError(problem, subject=self.address, remedy=self._near(f"{model}/{target}"))
        return self.manifest(model, pointer.build_id)

    def _near(self, reference: str) -> str:
        names = {f"{model}/{build_id}": (model, build_id) for model, build_id in self._names(None)}
        by_id = {build_id: (model, build_id) for model, build_id in names.values()}
        near = [names[name] for name in difflib.get_close_matches(reference, names, n=SHOWN, cutoff=0.4)]
        near += [by_id[name] for name in difflib.get_close_matches(reference, by_id, n=SHOWN, cutoff=0.4)]
        if near:
            return f"did you mean {_listed(list(dict.fromkeys(near)))}?"
        return f"published are {_listed(list(names.values()))}" if names else "publish one first: nothing is there yet"


def split_reference(reference: str) -> tuple[str, str, str]:
    """Model, channel and target of `MODEL@CHANNEL/TARGET`.

    Raises:
        RegistryError: when it is not of that form.
    """
    model, _, rest = reference.partition("@")
    channel, slash, target = rest.partition("/")
    if not (model and channel and slash and target):
        remedy = "write MODEL@CHANNEL/TARGET, such as tiny-llama@candidate/cpu-int4"
        raise RegistryError("does not name a channel and a target", subject=reference, remedy=remedy)
    return model, channel, target


_LIST = "see what is published with `enginery list`"


def _listed(names: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{model}/{build_id}" for model, build_id in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
