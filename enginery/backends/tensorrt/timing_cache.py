"""TensorRT's timing caches: what was measured on one GPU by one TensorRT, kept for the next build there.

A cache is kept together with what describes it, in one file, so that both are always of the same build. It is looked at
before use; what is wrong with it costs its timings and never a build.
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
"""So often a cache is merged anew because another build has just replaced it."""
REMEMBERED = 200
"""So many builds' times are remembered with a cache."""

Merge = Callable[[bytes, bytes], bytes | None]
"""Puts two caches together; None when that does not work."""
Kept = Literal["saved", "unchanged", "not saved"]


class Description(BaseModel):
    """What a cache is of; the line before its bytes.

    Attributes:
        gpu: the GPU that was measured on.
        tensorrt: the TensorRT that measured.
        sha256: digest of the cache.
        seconds_without: what a build of some shape took without a cache: digest of the shape -> seconds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gpu: str
    tensorrt: str
    sha256: str
    seconds_without: Mapping[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """What was found on the shelf.

    Attributes:
        cache: TensorRT's bytes; None where there are none that can be used.
        tag: names what lies there, also where it cannot be used, to be replaced.
        seconds_without: see `Description`.
    """

    cache: bytes | None = None
    tag: str | None = None
    seconds_without: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> "Fetched":
        """The same, after TensorRT would not have it: to be replaced, not to be merged."""
        return replace(self, cache=None)


@dataclass(frozen=True)
class Timed:
    """A build that has ended.

    Attributes:
        shape: digest of all that decides how long it takes, apart from the cache.
        seconds: how long it took.
        with_cache: whether it began with timings.
    """

    shape: str
    seconds: float
    with_cache: bool


@dataclass(frozen=True)
class TimingCaches:
    """The cache for one GPU and one TensorRT.

    Attributes:
        shelf: where it is kept.
        gpu: the GPU's name.
        tensorrt: TensorRT's version.
        log: told what is done, and what is wrong with a cache.
    """

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
        wrong = self._wrong(described, cache)
        if described is None or wrong:
            self.log(f"timing cache {self.name} is discarded: {wrong}")
            return Fetched(tag=kept.tag)
        return Fetched(cache or None, kept.tag, described.seconds_without)

    def _wrong(self, described: Description | None, cache: bytes) -> str:
        if described is None:
            return "it does not begin with its description"
        if described.tensorrt != self.tensorrt:
            return f"it was made by TensorRT {described.tensorrt}, this is {self.tensorrt}"
        if described.gpu != self.gpu:
            return f"it was measured on {described.gpu}, this is {self.gpu}"
        if hashlib.sha256(cache).hexdigest() != described.sha256:
            return "its bytes are not those that were kept; it was cut short or changed"
        return ""

    def keep(self, made: bytes, used: Fetched, timed: Timed, merge: Merge) -> Kept:
        """Keep what a build has measured, together with what others have kept meanwhile.

        Args:
            made: the cache that the build wrote; empty where it wrote none.
            used: what the build began with; without a cache when it was told none, or refused what it was given.
            timed: how long it took.
            merge: puts two caches together.
        """
        try:
            for _ in range(ATTEMPTS):
                there = self.fetch()
                data = self._packed(_better(made, used, there, merge), there, timed)
                if data is None:
                    return "unchanged"
                if self.shelf.put(self.name, data, after=there.tag):
                    self.log(f"timing cache {self.name} kept: {human_bytes(len(data))}")
                    return "saved"
        except EngineryError as error:
            self.log(f"timing cache not kept: {error}")
            return "not saved"
        self.log(f"timing cache not kept: other builds replaced {self.name} {ATTEMPTS} times meanwhile")
        return "not saved"

    def _packed(self, cache: bytes | None, there: Fetched, timed: Timed) -> bytes | None:
        """What is to be written; None where it is what is there."""
        if cache is None:
            return None
        seconds = dict(there.seconds_without)
        if not timed.with_cache:
            seconds.pop(timed.shape, None)
            seconds[timed.shape] = timed.seconds
        if cache == (there.cache or b"") and seconds == dict(there.seconds_without):
            return None
        return packed(self.gpu, self.tensorrt, cache, dict(list(seconds.items())[-REMEMBERED:]))


def _better(made: bytes, used: Fetched, there: Fetched, merge: Merge) -> bytes | None:
    """The cache to keep, of what a build made and what is there now; None to leave what is there as it is."""
    nobody_else = used.tag == there.tag
    if nobody_else and used.cache is None and used.tag is not None:
        return made  # what is there could not be used, and is discarded even for nothing
    if not made:
        return None
    if there.cache is None or made == there.cache:
        return made
    if nobody_else and len(made) >= len(there.cache):
        return made  # TensorRT adds to the cache it is given
    return merge(made, there.cache) or (None if nobody_else else made)


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
