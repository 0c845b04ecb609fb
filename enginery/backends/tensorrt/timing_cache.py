"""TensorRT's timing caches: kernel timings of one TensorRT version on one GPU, kept for the next build.

A cache and its description are in one file, so they always belong together. A cache is checked before it is used. A bad
cache is discarded, and the build goes on without it.
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
"""How often to try to merge a cache. Another try is needed if another build has replaced the stored one meanwhile."""

REMEMBERED = 200
"""How many builds' durations are kept with a cache."""

Merge = Callable[[bytes, bytes], bytes | None]
"""Merges two caches; None when that fails."""
Kept = Literal["saved", "unchanged", "not saved"]


class Description(BaseModel):
    """The description of a cache: the line before its bytes.

    Attributes:
        seconds_without: digest of an engine's shape -> seconds that its build took without a cache.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gpu: str
    tensorrt: str
    sha256: str
    seconds_without: Mapping[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """The cache as read from the store's shelf.

    Attributes:
        cache: TensorRT's bytes; None if there is no usable cache.
        tag: identifies the stored file, usable or not, when it is replaced; None if nothing is stored.
        seconds_without: digest of an engine's shape -> seconds that its build took without a cache.
    """

    cache: bytes | None = None
    tag: str | None = None
    seconds_without: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> "Fetched":
        """The same without the cache, because TensorRT refused it. The stored cache is then replaced, not merged."""
        return replace(self, cache=None)


@dataclass(frozen=True)
class TimingCaches:
    """The stored cache for one GPU and one TensorRT version. Its methods log problems and raise no errors."""

    shelf: Shelf
    gpu: str
    tensorrt: str
    log: Log

    @property
    def name(self) -> str:
        """The cache's name on the shelf."""
        return f"timing-caches/{self.gpu}/{self.tensorrt}"

    def fetch(self) -> Fetched:
        """The cache, checked. Without bytes if there is none, it is damaged, or the shelf cannot be read."""
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
            return "its digest is another one: the file was cut short or changed"
        return ""

    def keep(self, made: bytes, used: Fetched, shape: str, seconds: float, merge: Merge) -> Kept:
        """Store what a build has measured, merged with what other builds have stored meanwhile.

        Args:
            made: the cache that the build wrote; empty if it wrote none.
            used: the cache that the build began with; without bytes if there was none, or TensorRT refused it.
            shape: digest of everything except the cache that decides how long the build takes.
            seconds: how long the build took.
            merge: merges two caches.
        """
        try:
            for _ in range(ATTEMPTS):
                stored = self.fetch()
                times = {} if used.cache is not None else {shape: seconds}
                data = self._packed(_cache_to_store(made, used, stored, merge), stored, times)
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
        """The bytes to store; None if the same content is stored already."""
        if cache is None:
            return None
        older = {shape: known for shape, known in stored.seconds_without.items() if shape not in times}
        seconds = {**older, **times}
        if cache == (stored.cache or b"") and seconds == dict(stored.seconds_without):
            return None
        return packed(self.gpu, self.tensorrt, cache, dict(list(seconds.items())[-REMEMBERED:]))


def packed(gpu: str, tensorrt: str, cache: bytes, seconds_without: Mapping[str, float]) -> bytes:
    """The bytes to store: the description as the first line, then the cache."""
    digest = hashlib.sha256(cache).hexdigest()
    described = Description(gpu=gpu, tensorrt=tensorrt, sha256=digest, seconds_without=seconds_without)
    return described.model_dump_json().encode() + b"\n" + cache


def unpacked(data: bytes) -> tuple[Description | None, bytes]:
    """The description and the cache in stored bytes. The description is None if it cannot be read."""
    line, _, cache = data.partition(b"\n")
    try:
        return Description.model_validate_json(line), cache
    except ValidationError:
        return None, cache


def _cache_to_store(made: bytes, used: Fetched, stored: Fetched, merge: Merge) -> bytes | None:
    """The cache to store: the one that a build made, maybe merged with the stored one; None to change nothing."""
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
