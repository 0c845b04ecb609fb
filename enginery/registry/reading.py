"""Reading a registry: finds published builds by name, by channel or by listing, and reads their manifests.

A build without a manifest does not exist. Manifests are kept on this machine after the first reading, under their
ETags: while the ETag stays the same, the bytes do too.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import AliasPath, Field

from enginery.builds import MANIFEST, MODELS, Manifest, build_path, read_manifest
from enginery.core.digests import bytes_digest, json_digest
from enginery.core.errors import RegistryError, StoreError
from enginery.core.files import write_atomic
from enginery.core.home import home
from enginery.core.model import Frozen
from enginery.core.s3 import Address, Content, ObjectInfo, Prefix, endpoint
from enginery.core.text import first_of
from enginery.core.threads import side_by_side
from enginery.registry.channels import ChannelPointer, read_channel
from enginery.registry.layout import build_of, channels_path, manifest_path, pointer_of, split_reference

READS_AT_ONCE = 16
SHOWN = 5
"""The largest number of builds that an error names."""
LIST_BUILDS = "see what is published with `enginery list`"

T = TypeVar("T")
R = TypeVar("R")


class PublishedBuild(Frozen):
    """The main facts of a published build, for one line of a listing; `size` is in bytes."""

    model: str
    build_id: str
    target: str = Field(validation_alias=AliasPath("target", "name"))
    gpu: str = Field(validation_alias=AliasPath("target", "gpu"))
    backend: str = Field(validation_alias=AliasPath("target", "backend"))
    release: str = Field(validation_alias=AliasPath("target", "release"))
    precision: str = Field(validation_alias=AliasPath("target", "precision"))
    channel: str
    created: datetime
    size: int


class PublishedBuilds:
    """The part of a registry that only reads. Its address is a prefix in S3, such as `s3://engines/prod`.

    Methods raise RegistryError when the registry cannot be read, or when an object that they need is not valid.
    """

    def __init__(self, address: str) -> None:
        self.prefix = Prefix(Address.parse(address), RegistryError)

    @property
    def address(self) -> str:
        """The registry's address."""
        return str(self.prefix.address)

    def build_prefix(self, model: str, build_id: str) -> Prefix:
        """The prefix of the objects of one build."""
        address = self.prefix.address
        return Prefix(Address(address.bucket, address.key(build_path(model, build_id))), RegistryError)

    def builds(self, model: str | None = None) -> list[PublishedBuild]:
        """All published builds, or those of one model, newest last; an error when a manifest cannot be read."""
        builds, unreadable = self.listing(model)
        if unreadable:
            raise unreadable[0]
        return builds

    def listing(self, model: str | None = None) -> tuple[list[PublishedBuild], list[RegistryError]]:
        """All published builds, or those of one model, newest last; and the errors of manifests that cannot be read."""
        manifests, unreadable = self.manifests(model)
        return [PublishedBuild.model_validate(manifest, from_attributes=True) for manifest in manifests], unreadable

    def manifests(self, model: str | None = None) -> tuple[list[Manifest], list[RegistryError]]:
        """All manifests, or those of one model, oldest first; and the errors of manifests that cannot be read.

        Manifests that were read before come from this machine, so a second call takes little longer than a listing.
        """
        listed = [info for info in self._listed(model) if build_of(info.path)]
        found, unreadable = _read_each(self._read_listed, listed)
        return sorted(found, key=lambda manifest: manifest.created), unreadable

    def exists(self, model: str, build_id: str) -> bool:
        """Whether the build is published."""
        return self.prefix.head(manifest_path(model, build_id)) is not None

    def manifest(self, model: str, build_id: str) -> Manifest:
        """The manifest of a build; an error when the build is not published."""
        return self.parse(model, build_id, self.manifest_json(model, build_id))

    def read(self, model: str, build_id: str) -> Manifest | None:
        """The manifest of a build, or None when it is not published."""
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        return None if data is None else self.parse(model, build_id, data)

    def manifest_json(self, model: str, build_id: str) -> bytes:
        """The exact bytes of a build's manifest, as a signature covers them; an error when it is not published."""
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        if data is None:
            raise RegistryError(f"no build {model}/{build_id}", subject=self.address, remedy=LIST_BUILDS)
        return data

    def parse(self, model: str, build_id: str, data: bytes) -> Manifest:
        """Read a manifest from the bytes of its object; an error when the bytes do not describe this build."""
        path = manifest_path(model, build_id)
        manifest = read_manifest(data, subject=self.prefix.where(path))
        if (manifest.model, manifest.build_id) != (model, build_id):
            problem = f"describes another build: {manifest.model}/{manifest.build_id}"
            raise RegistryError(problem, subject=self.prefix.where(path), remedy="publish the build again")
        return manifest

    def find(self, reference: str) -> Manifest:
        """The manifest of the build that a user names: `BUILD`, `MODEL/BUILD` or `MODEL@CHANNEL/TARGET`.

        The beginning of a build id is enough. `MODEL/BUILD` with the whole id, and `MODEL@CHANNEL/TARGET`, are found
        without listing the bucket.

        Raises:
            RegistryError: when no build has this name, or more than one has; the error names similar builds.
        """
        if "@" in reference:
            return self._find_by_channel(reference)
        model, slash, build_id = reference.rpartition("/")
        if model and build_id and (named := self.read(model, build_id)):
            return named  # no listing, because some users have no permission for it
        names = self._names(model if slash else None)
        exact = [name for name in names if name[1] == build_id]
        found = exact or [name for name in names if build_id and name[1].startswith(build_id)]
        if len(found) == 1:
            return self.manifest(*found[0])
        if found:
            remedy = f"say which one: {_joined(found)}"
            raise RegistryError(f"{reference!r} could be {len(found)} builds", subject=self.address, remedy=remedy)
        raise RegistryError(f"no build {reference!r}", subject=self.address, remedy=self._similar(reference))

    def channel(self, model: str, channel: str, target: str) -> ChannelPointer | None:
        """The pointer of a channel for a target; None when there is none."""
        return read_channel(self.prefix, model, channel, target)

    def pointers(self, model: str, channel: str | None = None) -> tuple[list[ChannelPointer], list[RegistryError]]:
        """The pointers of a model's channels, or of one channel; and the errors of those that cannot be read."""
        listed = (pointer_of(info.path) for info in self.prefix.list(channels_path(model, channel)))
        return _read_each(lambda names: self.channel(model, *names), [names for names in listed if names])

    def channels(self, model: str) -> list[ChannelPointer]:
        """The pointers of all channels of a model, one for each target; an error when one cannot be read."""
        found, unreadable = self.pointers(model)
        if unreadable:
            raise unreadable[0]
        return found

    def _listed(self, model: str | None) -> Iterator[ObjectInfo]:
        return self.prefix.list(f"{MODELS}/{model}" if model else MODELS)

    def _read_listed(self, info: ObjectInfo) -> Manifest | None:
        data, names = _read_cached(self.prefix, info), build_of(info.path)
        return self.parse(*names, data) if data is not None and names else None

    def _names(self, model: str | None) -> list[tuple[str, str]]:
        found = (build_of(info.path) for info in self._listed(model))
        return [names for names in found if names]

    def _find_by_channel(self, reference: str) -> Manifest:
        model, channel, target = split_reference(reference)
        pointer = self.channel(model, channel, target)
        if pointer is None:
            problem = f"channel {channel} of {model} has no build for {target}"
            raise RegistryError(problem, subject=self.address, remedy=self._similar(f"{model}/{target}"))
        return self.manifest(model, pointer.build_id)

    def _similar(self, reference: str) -> str:
        """The remedy for a name that no build has: similar builds, else some of the published ones."""
        names = {f"{model}/{build_id}": (model, build_id) for model, build_id in self._names(None)}
        by_id = {build_id: (model, build_id) for model, build_id in names.values()}
        near = [names[name] for name in difflib.get_close_matches(reference, names, n=SHOWN, cutoff=0.4)]
        near += [by_id[name] for name in difflib.get_close_matches(reference, by_id, n=SHOWN, cutoff=0.4)]
        if near:
            return f"did you mean {_joined(list(dict.fromkeys(near)))}?"
        return f"published are {_joined(list(names.values()))}" if names else "publish one first: nothing is there yet"


def unchanged_manifest_json(source: Prefix, manifest: Manifest) -> bytes:
    """Read the bytes of a manifest once more, from the build's prefix.

    Raises:
        RegistryError: when the manifest has been removed or replaced since it was read first.
    """
    found = source.get(MANIFEST)
    problem = manifest_problem(found, manifest)
    if found is None or problem:
        remedy = "look again with `enginery show`; if nobody has published it again, do not use this build"
        raise RegistryError(problem or "is not there", subject=source.where(MANIFEST), remedy=remedy)
    return found.data


def manifest_problem(found: Content | None, manifest: Manifest) -> str | None:
    """What is wrong with the object of a manifest; None when `found` is that manifest.

    The object's metadata has the digest that its writer gave. It is compared too, so any change of the bytes is found.
    """
    if found is None:
        return "is not there any more"
    digest = bytes_digest(found.data)
    if found.sha256 not in {None, digest}:
        return f"holds other bytes than were written: sha256 is {digest}, not {found.sha256}"
    try:
        same = found.data == manifest.to_json() or read_manifest(found.data) == manifest
    except RegistryError as error:
        return error.problem
    return None if same else "was replaced since it was looked up"


def _read_each(read: Callable[[T], R | None], names: Iterable[T]) -> tuple[list[R], list[RegistryError]]:
    """Read many objects at once; returns the objects and the errors. Objects removed meanwhile are left out."""

    def attempt(name: T) -> R | RegistryError | None:
        try:
            return read(name)
        except RegistryError as error:
            if error.transient:
                raise
            return error

    results = side_by_side(attempt, names, threads=READS_AT_ONCE)
    errors = [result for result in results if isinstance(result, RegistryError)]
    return [result for result in results if result is not None and not isinstance(result, RegistryError)], errors


def _read_cached(prefix: Prefix, listed: ObjectInfo) -> bytes | None:
    """The bytes of a listed object, from this machine if they were read before; None when the object is gone."""
    kept = _local_copy(prefix, listed)
    with suppress(OSError):  # there is no copy, or it cannot be read
        data = kept.read_bytes()
        if len(data) == listed.size:
            return data
    found = prefix.get(listed.path)
    if found is None:
        return None
    if found.etag == listed.etag:
        with suppress(StoreError):  # without a copy, the next reading only takes longer
            write_atomic(kept, found.data)
    return found.data


def _local_copy(prefix: Prefix, listed: ObjectInfo) -> Path:
    name = json_digest([endpoint(), prefix.where(listed.path), listed.etag])
    return home() / "manifests" / f"{name}.json"


def _joined(names: list[tuple[str, str]]) -> str:
    return first_of([f"{model}/{build_id}" for model, build_id in names], SHOWN)
