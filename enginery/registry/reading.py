"""Reading a registry: published builds, found by name, by channel or by listing, and their manifests.

A build without a manifest does not exist. Manifests that were read before are kept on this machine: what has one ETag
does not change.
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

READERS = 16
"""Requests at once."""
SHOWN = 5
"""Builds that an error names."""
LIST_BUILDS = "see what is published with `enginery list`"

T = TypeVar("T")
R = TypeVar("R")


class PublishedBuild(Frozen):
    """The main facts of a published build, one line of a listing; `size` is in bytes."""

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
    """The builds under an address such as `s3://engines/prod`, to be read only.

    Methods raise RegistryError when the registry cannot be read, or when what they return is not valid there.
    """

    def __init__(self, address: str) -> None:
        self.prefix = Prefix(Address.parse(address), RegistryError)

    @property
    def address(self) -> str:
        """The registry's address."""
        return str(self.prefix.address)

    def build_prefix(self, model: str, build_id: str) -> Prefix:
        """The prefix under which the objects of one build lie."""
        address = self.prefix.address
        return Prefix(Address(address.bucket, address.key(build_path(model, build_id))), RegistryError)

    def builds(self, model: str | None = None) -> list[PublishedBuild]:
        """Every published build, or those of one model, newest last; an error when one manifest cannot be read."""
        builds, unreadable = self.listing(model)
        if unreadable:
            raise unreadable[0]
        return builds

    def listing(self, model: str | None = None) -> tuple[list[PublishedBuild], list[RegistryError]]:
        """Every published build that can be read, or those of one model, and why the others cannot."""
        manifests, unreadable = self.manifests(model)
        return [PublishedBuild.model_validate(manifest, from_attributes=True) for manifest in manifests], unreadable

    def manifests(self, model: str | None = None) -> tuple[list[Manifest], list[RegistryError]]:
        """The manifests of all builds or of one model's, oldest first, and the errors of those that cannot be read.

        Manifests that were read before come from this machine, so a second call costs little more than a listing.
        """
        listed = [info for info in self._listed(model) if build_of(info.path)]
        found, unreadable = _read_each(self._read_listed, listed)
        return sorted(found, key=lambda manifest: manifest.created), unreadable

    def exists(self, model: str, build_id: str) -> bool:
        """Whether the build is published."""
        return self.prefix.head(manifest_path(model, build_id)) is not None

    def manifest(self, model: str, build_id: str) -> Manifest:
        """The manifest of a build; an error when there is none."""
        return self.parse(model, build_id, self.manifest_json(model, build_id))

    def read(self, model: str, build_id: str) -> Manifest | None:
        """The manifest of a build, or None when it is not published."""
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        return None if data is None else self.parse(model, build_id, data)

    def manifest_json(self, model: str, build_id: str) -> bytes:
        """The exact bytes of a manifest, which a signature covers; `parse` reads them. An error when there is none."""
        data = self.prefix.get_bytes(manifest_path(model, build_id))
        if data is None:
            raise RegistryError(f"no build {model}/{build_id}", subject=self.address, remedy=LIST_BUILDS)
        return data

    def parse(self, model: str, build_id: str, data: bytes) -> Manifest:
        """The manifest in these bytes, which were read from the path of this build and must describe it."""
        path = manifest_path(model, build_id)
        manifest = read_manifest(data, subject=self.prefix.where(path))
        if (manifest.model, manifest.build_id) != (model, build_id):
            problem = f"describes another build: {manifest.model}/{manifest.build_id}"
            raise RegistryError(problem, subject=self.prefix.where(path), remedy="publish the build again")
        return manifest

    def find(self, reference: str) -> Manifest:
        """The build that `BUILD`, `MODEL/BUILD` (or the beginning of either) or `MODEL@CHANNEL/TARGET` names.

        `MODEL/BUILD` in full and `MODEL@CHANNEL/TARGET` are found without listing the bucket.

        Raises:
            RegistryError: when there is none, or more than one; it names similar builds.
        """
        if "@" in reference:
            return self._find_by_channel(reference)
        model, slash, build_id = reference.rpartition("/")
        if model and build_id and (named := self.read(model, build_id)):
            return named  # without a listing, which not every user is allowed
        names = self._names(model if slash else None)
        exact = [name for name in names if name[1] == build_id]
        found = exact or [name for name in names if build_id and name[1].startswith(build_id)]
        if len(found) == 1:
            return self.manifest(*found[0])
        if found:
            remedy = f"say which one: {_joined(found)}"
            raise RegistryError(f"{reference!r} could be {len(found)} builds", subject=self.address, remedy=remedy)
        raise RegistryError(f"no build {reference!r}", subject=self.address, remedy=self._near(reference))

    def channel(self, model: str, channel: str, target: str) -> ChannelPointer | None:
        """The pointer of a channel for a target; None when there is none."""
        return read_channel(self.prefix, model, channel, target)

    def pointers(self, model: str, channel: str | None = None) -> tuple[list[ChannelPointer], list[RegistryError]]:
        """The pointers of all channels of a model or of one, and the errors of those that cannot be read."""
        listed = (pointer_of(info.path) for info in self.prefix.list(channels_path(model, channel)))
        return _read_each(lambda names: self.channel(model, *names), [names for names in listed if names])

    def channels(self, model: str) -> list[ChannelPointer]:
        """The pointer of each channel of a model, for each target; an error when one cannot be read."""
        found, unreadable = self.pointers(model)
        if unreadable:
            raise unreadable[0]
        return found

    def _listed(self, model: str | None) -> Iterator[ObjectInfo]:
        return self.prefix.list(f"{MODELS}/{model}" if model else MODELS)

    def _read_listed(self, info: ObjectInfo) -> Manifest | None:
        data, names = _read_or_kept(self.prefix, info), build_of(info.path)
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
            return f"did you mean {_joined(list(dict.fromkeys(near)))}?"
        return f"published are {_joined(list(names.values()))}" if names else "publish one first: nothing is there yet"


def unchanged_manifest_json(source: Prefix, manifest: Manifest) -> bytes:
    """Read the bytes of a manifest once more, from the build's prefix.

    Raises:
        RegistryError: when it has been removed or replaced since.
    """
    found = source.get(MANIFEST)
    problem = manifest_problem(found, manifest)
    if found is None or problem:
        remedy = "look again with `enginery show`; if nobody has published it anew, do not use this build"
        raise RegistryError(problem or "is not there", subject=source.where(MANIFEST), remedy=remedy)
    return found.data


def manifest_problem(found: Content | None, manifest: Manifest) -> str | None:
    """What is wrong with the object that should be `manifest`; None when nothing is.

    The digest that its writer noted in the object's metadata is compared too, so any change of the bytes is noticed.
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
    """Read many objects at once: what could be read, and the errors that stay; removed objects are in neither."""

    def attempt(name: T) -> R | RegistryError | None:
        try:
            return read(name)
        except RegistryError as error:
            if error.transient:
                raise
            return error

    results = side_by_side(attempt, names, threads=READERS)
    errors = [result for result in results if isinstance(result, RegistryError)]
    return [result for result in results if result is not None and not isinstance(result, RegistryError)], errors


def _read_or_kept(prefix: Prefix, listed: ObjectInfo) -> bytes | None:
    """The bytes of a listed object, from this machine if they were read before; None when the object is gone."""
    kept = _kept_copy(prefix, listed)
    with suppress(OSError):  # there is no copy, or it cannot be read
        data = kept.read_bytes()
        if len(data) == listed.size:
            return data
    found = prefix.get(listed.path)
    if found is None:
        return None
    if found.etag == listed.etag:
        with suppress(StoreError):  # without a copy, the next reading takes longer, nothing else
            write_atomic(kept, found.data)
    return found.data


def _kept_copy(prefix: Prefix, listed: ObjectInfo) -> Path:
    name = json_digest([endpoint(), prefix.where(listed.path), listed.etag])
    return home() / "manifests" / f"{name}.json"


def _joined(names: list[tuple[str, str]]) -> str:
    return first_of([f"{model}/{build_id}" for model, build_id in names], SHOWN)
