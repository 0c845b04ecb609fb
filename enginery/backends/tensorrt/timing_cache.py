"""TensorRT's timing caches: measurements of one TensorRT on one GPU, kept for the next build there.

A cache and its description are kept in one file, so that they always belong together. A cache is checked before use; a
bad one costs its timings and never a build.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginery.core.errors import EngineryError
from enginery.core.progress import Log
from enginery.core.text import human_bytes
from enginery.store import Shelf

ATTEMPTS = 5
"""How often to merge a cache again because another build has replaced it meanwhile."""

REMEMBERED = 200
"""How many builds' times are kept with a cache."""

Merge = Callable[[bytes, bytes], bytes | None]
"""Merges two caches; None when that fails."""
Kept = Literal["saved", "unchanged", "not saved"]


class Description(BaseModel):
    """The description of a cache: the line before its bytes.

    Attributes:
        seconds_without: how long builds took without a cache: digest of the engine's shape -> seconds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gpu: str
    tensorrt: str
    sha256: str
    seconds_without: Mapping[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """The cache on the shelf.

    Attributes:
        cache: TensorRT's bytes; None where there is no usable cache.
        tag: identifies the stored version, usable or not, for a replacement; None where there is none.
        seconds_without: see `Description`.
    """

    cache: bytes | None = None
    tag: str | None = None
    seconds_without: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> "Fetched":
        """The same after TensorRT refused the cache: it is to be replaced, not merged."""
        return replace(self, cache=None)


@dataclass(frozen=True)
class TimingCaches:
    """The cache for one GPU and one TensorRT. What is done, and what is wrong with a cache, is logged."""

    shelf: Shelf
    gpu: str
    tensorrt: str
    log: Log

    @property
    def name(self) -> str:
        """Its name on the shelf."""
        return f"timing-caches/{self.gpu}/{self.tensorrt}"

    def fetch(self) -> Fetched:
        """The cache, checked; nothing where there is none, it is damaged, or the shelf cannot be read."""
        try:
            kept = self.shelf.get(self.name)
        except EngineryError as error:
            self.log(f"timing cache not read: {error}")
            return Fetched()
        if kept is None:
            return Fetched()
        described, cache = unpacked(kept.data)
        problem = self._problem(described, cache)
        if described is None or problem:
            self.log(f"timing cache {self.name} is discarded: {problem}")
            return Fetched(tag=kept.tag)
        return Fetched(cache or None, kept.tag, described.seconds_without)

    def _problem(self, described: Description | None, cache: bytes) -> str:
        if described is None:
            return "it does not begin with its description"
        if described.tensorrt != self.tensorrt:
            return f"it was made by TensorRT {described.tensorrt}, this is {self.tensorrt}"
        if described.gpu != self.gpu:
            return f"it was measured on {described.gpu}, this is {self.gpu}"
        if hashlib.sha256(cache).hexdigest() != described.sha256:
            return "its bytes are not those that were kept; it was cut short or changed"
        return ""

    def keep(self, made: bytes, used: Fetched, shape: str, seconds: float, merge: Merge) -> Kept:
        """Keep what a build has measured, merged with what other builds have kept meanwhile.

        Args:
            made: the cache that the build wrote; empty where it wrote none.
            used: what the build began with; without a cache where it had none, or TensorRT refused it.
            shape: digest of everything that decides how long it takes, apart from the cache.
            seconds: how long it took.
            merge: merges two caches.
        """
        try:
            for _ in range(ATTEMPTS):
                stored = self.fetch()
                times = {} if used.cache is not None else {shape: seconds}
                data = self._packed(_better(made, used, stored, merge), stored, times)
                if data is None:
                    return "unchanged"
                if self.shelf.put(self.name, data, after=stored.tag):
                    self.log(f"timing cache {self.name} kept: {human_bytes(len(data))}")
                    return "saved"
        except EngineryError as error:
            self.log(f"timing cache not kept: {error}")
            return "not saved"
        self.log(f"timing cache not kept: other builds replaced {self.name} {ATTEMPTS} times meanwhile")
        return "not saved"

    def _packed(self, cache: bytes | None, stored: Fetched, times: Mapping[str, float]) -> bytes | None:
        """The bytes to store; None where they are stored already."""
        if cache is None:
            return None
        older = {shape: known for shape, known in stored.seconds_without.items() if shape not in times}
        seconds = {**older, **times}
        if cache == (stored.cache or b"") and seconds == dict(stored.seconds_without):
            return None
        return packed(self.gpu, self.tensorrt, cache, dict(list(seconds.items())[-REMEMBERED:]))


def packed(gpu: str, tensorrt: str, cache: bytes, seconds_without: Mapping[str, float]) -> bytes:
    """A cache with its description before it."""
    digest = hashlib.sha256(cache).hexdigest()
    described = Description(gpu=gpu, tensorrt=tensorrt, sha256=digest, seconds_without=seconds_without)
    return described.model_dump_json().encode() + b"\n" + cache


def unpacked(data: bytes) -> tuple[Description | None, bytes]:
    """The description, None where there is none, and the cache."""
    line, _, cache = data.partition(b"\n")
    try:
        return Description.model_validate_json(line), cache
    except ValidationError:
        return None, cache


def _better(made: bytes, used: Fetched, stored: Fetched, merge: Merge) -> bytes | None:
    """The cache to store, from the one that a build made and the stored one; None to leave that as it is."""
    unchanged = used.tag == stored.tag
    if unchanged and used.cache is None and used.tag is not None:
        return made  # the stored cache is unusable: discard it, even without another one
    if not made:
        return None
    if stored.cache is None or made == stored.cache:
        return made
    if unchanged and len(made) >= len(stored.cache):
        return made  # TensorRT adds to the cache it is given
    return merge(made, stored.cache) or (None if unchanged else made)
