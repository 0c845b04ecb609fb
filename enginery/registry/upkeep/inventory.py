"""All objects of a registry, from one listing: builds with and without a manifest, channels, and other objects."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from enginery.builds import MANIFEST, MODELS, Manifest
from enginery.core.errors import RegistryError
from enginery.core.s3 import ObjectInfo
from enginery.registry.claims import CLAIM
from enginery.registry.layout import CHANNELS, manifest_path
from enginery.registry.registry import Registry

BUILD_PARTS = 5
"""The number of parts of the path `models/<model>/builds/<build id>/<file>`; `<file>` may have several parts."""


@dataclass(frozen=True)
class StoredBuild:
    """The objects under a build's prefix, with paths relative to the prefix; the manifest may be missing."""

    model: str
    build_id: str
    objects: tuple[ObjectInfo, ...]

    @property
    def reference(self) -> str:
        """The build's name as on the command line, `MODEL/BUILD`."""
        return f"{self.model}/{self.build_id}"

    @property
    def manifest(self) -> ObjectInfo | None:
        """The manifest's object, if there is one."""
        return self._object(MANIFEST)

    @property
    def claim(self) -> ObjectInfo | None:
        """The claim of a publisher, if there is one."""
        return self._object(CLAIM)

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(info.size for info in self.objects)

    @property
    def touched(self) -> datetime:
        """When the newest object was written, UTC."""
        return max(info.modified for info in self.objects if info.modified is not None)

    def _object(self, path: str) -> ObjectInfo | None:
        return next((info for info in self.objects if info.path == path), None)


@dataclass(frozen=True)
class Inventory:
    """The objects of a registry.

    Attributes:
        builds: the builds, sorted by model and id.
        models: the names of the models that have a build or a channel.
        strays: objects that belong to no build and no channel.
    """

    builds: tuple[StoredBuild, ...]
    models: tuple[str, ...]
    strays: tuple[ObjectInfo, ...]


def take_inventory(registry: Registry, model: str | None = None) -> Inventory:
    """List the objects of the registry, or only those of one model."""
    builds: dict[tuple[str, str], list[ObjectInfo]] = {}
    models: set[str] = set()
    strays: list[ObjectInfo] = []
    for info in registry.prefix.list(f"{MODELS}/{model}" if model else MODELS):
        parts = info.path.split("/")
        if len(parts) >= BUILD_PARTS and parts[2] == "builds":
            builds.setdefault((parts[1], parts[3]), []).append(replace(info, path="/".join(parts[4:])))
        elif len(parts) < BUILD_PARTS or parts[2] != CHANNELS:
            strays.append(info)
            continue
        models.add(parts[1])
    stored = (StoredBuild(*names, tuple(objects)) for names, objects in sorted(builds.items()))
    return Inventory(tuple(stored), tuple(sorted(models)), tuple(strays))


def read_stored(registry: Registry, build: StoredBuild) -> Manifest | RegistryError | None:
    """The manifest of a stored build, or the error if it is not valid; None if it has been removed meanwhile."""
    data = registry.prefix.get_bytes(manifest_path(build.model, build.build_id))
    if data is None:
        return None
    try:
        return registry.parse(build.model, build.build_id, data)
    except RegistryError as error:
        return error


def channel_uses(registry: Registry, model: str) -> dict[str, str]:
    """The builds that the channels of a model need: build id -> why, such as `on channel stable`.

    A channel needs the build that it points at, and the build that a demotion would go back to.

    Raises:
        RegistryError: when a pointer cannot be read, so that the builds it needs are not known.
    """
    pointers = registry.channels(model)
    now = [(pointer.build_id, pointer.channel) for pointer in pointers]
    back = [(build_id, pointer.channel) for pointer in pointers for build_id in pointer.way_back()[-1:]]
    return _reasons(back, "the previous build of channel") | _reasons(now, "on channel")


def _reasons(named: Iterable[tuple[str, str]], how: str) -> dict[str, str]:
    channels: dict[str, set[str]] = {}
    for build_id, channel in named:
        channels.setdefault(build_id, set()).add(channel)
    return {build_id: f"{how} {', '.join(sorted(names))}" for build_id, names in channels.items()}
