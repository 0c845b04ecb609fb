"""Published builds, found by name, by channel or by listing. A build without a manifest does not exist."""

import difflib
from datetime import datetime

from enginery.errors import RegistryError
from enginery.manifest import Manifest, read_manifest
from enginery.parallel import side_by_side
from enginery.registry.channels import ChannelPointer, move_channel, read_channel
from enginery.registry.layout import MODELS, build_of, build_path, manifest_path
from enginery.s3 import Address, Prefix
from enginery.steps import Frozen

READERS = 16
SHOWN = 5


class PublishedBuild(Frozen):
    """A published build in one line; `size` is in bytes."""

    model: str
    build_id: str
    target: str
    gpu: str
    backend: str
    release: str
    precision: str
    channel: str
    created: datetime
    size: int

    @classmethod
    def of(cls, manifest: Manifest) -> "PublishedBuild":
        """The line for a manifest."""
        target = manifest.target
        return cls(
            model=manifest.model,
            build_id=manifest.build_id,
            target=target.name,
            gpu=target.gpu,
            backend=target.backend,
            release=target.release,
            precision=target.precision,
            channel=manifest.channel,
            created=manifest.created,
            size=manifest.size,
        )


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
        manifests = side_by_side(lambda names: self.manifest(*names), self._names(model), threads=READERS)
        return sorted((PublishedBuild.of(manifest) for manifest in manifests), key=lambda build: build.created)

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
        path = manifest_path(model, build_id)
        data = self.prefix.get_bytes(path)
        if data is None:
            return None
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
        return read_channel(self.prefix, model, channel, target)

    def move_channel(self, model: str, channel: str, target: str, build_id: str) -> ChannelPointer:
        """Point a channel at a published build.

        Raises:
            RegistryError: when there is no such build, or others keep moving the channel.
        """
        if not self.exists(model, build_id):
            raise RegistryError(f"no build {model}/{build_id}", subject=self.address, remedy=_LIST)
        return move_channel(self.prefix, model, channel, target, build_id)

    def _names(self, model: str | None) -> list[tuple[str, str]]:
        under = f"{MODELS}/{model}" if model else MODELS
        found = (build_of(info.path) for info in self.prefix.list(under))
        return [names for names in found if names]

    def _find_by_channel(self, reference: str) -> Manifest:
        model, _, rest = reference.partition("@")
        channel, slash, target = rest.partition("/")
        if not (model and channel and slash and target):
            remedy = "write MODEL@CHANNEL/TARGET, such as tiny-llama@candidate/cpu-int4"
            raise RegistryError("does not name a channel and a target", subject=reference, remedy=remedy)
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


_LIST = "see what is published with `enginery list`"


def _listed(names: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{model}/{build_id}" for model, build_id in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
