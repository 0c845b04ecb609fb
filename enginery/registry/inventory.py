"""All that lies in a registry, from one listing: builds with and without a manifest, channels, and what is neither."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from enginery.errors import RegistryError
from enginery.manifest import Manifest, read_manifest
from enginery.registry.layout import CHANNELS, MANIFEST, MODELS, manifest_path
from enginery.registry.reading import Registry
from enginery.s3 import ObjectInfo

BUILD_PARTS = 5
"""`models/<model>/builds/<build id>/<file>`, at least."""


@dataclass(frozen=True)
class StoredBuild:
    """The objects under a build's prefix, with paths relative to it."""

    model: str
    build_id: str
    objects: tuple[ObjectInfo, ...]

    @property
    def manifest(self) -> ObjectInfo | None:
        """The object that makes it a build, if it is there."""
        return next((info for info in self.objects if info.path == MANIFEST), None)

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(info.size for info in self.objects)

    @property
    def touched(self) -> datetime:
        """When the newest object was written, UTC."""
        return max(info.modified for info in self.objects if info.modified is not None)


@dataclass(frozen=True)
class Inventory:
    """What lies in a registry.

    Attributes:
        builds: by model and id.
        models: the names of the models that have a build or a channel.
        strays: objects among the models that are part of no build and no channel.
    """

    builds: tuple[StoredBuild, ...]
    models: tuple[str, ...]
    strays: tuple[ObjectInfo, ...]


def take_inventory(registry: Registry, model: str | None = None) -> Inventory:
    """What lies in the registry, or of one model.

    Raises:
        RegistryError: when the registry cannot be listed.
    """
    builds: dict[tuple[str, str], list[ObjectInfo]] = {}
    models: set[str] = set()
    strays: list[ObjectInfo] = []
    for info in registry.prefix.list(f"{MODELS}/{model}" if model else MODELS):
        parts = info.path.split("/")
        if len(parts) >= BUILD_PARTS and parts[2] == "builds":
            relative = replace(info, path="/".join(parts[4:]))
            builds.setdefault((parts[1], parts[3]), []).append(relative)
        elif len(parts) < BUILD_PARTS or parts[2] != CHANNELS:
            strays.append(info)
            continue
        models.add(parts[1])
    stored = (StoredBuild(*names, tuple(objects)) for names, objects in sorted(builds.items()))
    return Inventory(tuple(stored), tuple(sorted(models)), tuple(strays))


def described(registry: Registry, build: StoredBuild) -> Manifest | RegistryError | None:
    """The manifest of a stored build, or what is wrong with it; None when it has been removed meanwhile.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    path = manifest_path(build.model, build.build_id)
    data = registry.prefix.get_bytes(path)
    if data is None:
        return None
    try:
        manifest = read_manifest(data, subject=registry.prefix.where(path))
    except RegistryError as error:
        return error
    if (manifest.model, manifest.build_id) == (build.model, build.build_id):
        return manifest
    problem = f"describes another build: {manifest.model}/{manifest.build_id}"
    return RegistryError(problem, subject=registry.prefix.where(path), remedy="publish the build again")


def channel_uses(registry: Registry, model: str) -> dict[str, str]:
    """The builds that channels need: build id -> why, such as `on channel stable`.

    These are the build that a channel points at, and the one that a demotion would go back to.

    Raises:
        RegistryError: when a pointer cannot be read: what it names is not known then.
    """
    pointers = registry.channels(model)
    now = [(pointer.build_id, pointer.channel) for pointer in pointers]
    back = [(build_id, pointer.channel) for pointer in pointers for build_id in pointer.way_back()[-1:]]
    return _told(back, "the way back of channel") | _told(now, "on channel")


def _told(named: Iterable[tuple[str, str]], how: str) -> dict[str, str]:
    channels: dict[str, set[str]] = {}
    for build_id, channel in named:
        channels.setdefault(build_id, set()).add(channel)
    return {build_id: f"{how} {', '.join(sorted(names))}" for build_id, names in channels.items()}
