"""Published builds, found by name, by channel or by listing. A build without a manifest does not exist."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from enginery.builds import MANIFEST, MODELS, Manifest, build_path, read_manifest
from enginery.core.digests import bytes_digest, json_digest
from enginery.core.errors import RegistryError, StoreError
from enginery.core.files import write_atomic
from enginery.core.home import home
from enginery.core.model import Frozen
from enginery.core.s3 import Address, Content, ObjectInfo, Prefix, endpoint
from enginery.core.threads import side_by_side
from enginery.registry.channels import ChannelPointer, Pointed, read_channel
from enginery.registry.layout import build_of, channels_path, manifest_path, pointer_of

# Published builds in one line each; and reading many things of a registry, of which one may not be sound.


READERS = 16

T = TypeVar("T")
R = TypeVar("R")


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


class Listing(NamedTuple):
    """Published builds, newest last, and what is wrong with those that cannot be read."""

    builds: list[PublishedBuild]
    unsound: list[RegistryError]


def read_each(read: Callable[[T], R | None], names: Iterable[T]) -> tuple[list[R], list[RegistryError]]:
    """What can be read, side by side, and what is wrong with the rest; what is gone meanwhile is neither.

    Raises:
        RegistryError: when the registry itself cannot be read just now.
    """

    def attempt(one: T) -> R | RegistryError | None:
        try:
            return read(one)
        except RegistryError as error:
            if error.transient:
                raise
            return error

    answers = side_by_side(attempt, names, threads=READERS)
    unsound = [answer for answer in answers if isinstance(answer, RegistryError)]
    return [answer for answer in answers if answer is not None and not isinstance(answer, RegistryError)], unsound


# Manifests that were read before, kept on this machine: what is under one etag does not change.


def read_listed(prefix: Prefix, listed: ObjectInfo) -> bytes | None:
    """The bytes of an object that a listing has shown, from here where they were read before; None when it is gone.

    Raises:
        EngineryError: of the prefix's class, when it cannot be read.
    """
    kept = _place(prefix, listed)
    with suppress(OSError):  # not there, or a home that cannot be used
        data = kept.read_bytes()
        if len(data) == listed.size:
            return data
    found = prefix.get(listed.path)
    if found is None:
        return None
    if found.etag == listed.etag:
        with suppress(StoreError):  # a home that cannot be written only costs time
            write_atomic(kept, found.data)
    return found.data


def _place(prefix: Prefix, listed: ObjectInfo) -> Path:
    name = json_digest([endpoint(), prefix.where(listed.path), listed.etag])
    return home() / "manifests" / f"{name}.json"


SHOWN = 5


class PublishedBuilds:
    """The builds under an address such as `s3://engines/prod`, for whoever only reads them."""

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


# A published build's manifest as its very bytes, which are what a signature covers and what a pull keeps.


def manifest_json(source: Prefix, manifest: Manifest) -> bytes:
    """The bytes of `manifest`, which was found before, at the build's prefix.

    Raises:
        RegistryError: when they are not there any more, or are others now.
    """
    found = source.get(MANIFEST)
    problem = manifest_problem(found, manifest)
    if found is None or problem:
        remedy = "look again with `enginery show`; if nobody has published it anew, do not use this build"
        raise RegistryError(problem or "is not there", subject=source.where(MANIFEST), remedy=remedy)
    return found.data


def manifest_problem(found: Content | None, manifest: Manifest) -> str | None:
    """What is wrong with the object that should be `manifest`; None when nothing is.

    What its writer noted of its digest is compared too: a change that leaves it readable is found out.
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
