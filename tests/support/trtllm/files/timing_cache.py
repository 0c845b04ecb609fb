"""The stand-in's timing cache: the TensorRT version that made it, and the layers that were timed."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.trtllm import home

MAGIC = b"timing cache of a stand-in, not of TensorRT\n"


@dataclass(frozen=True)
class TimingCache:
    """The timed layers and the TensorRT version."""

    tensorrt: str
    timed: frozenset[str] = frozenset()

    def serialized(self) -> bytes:
        return MAGIC + json.dumps({"tensorrt": self.tensorrt, "timed": sorted(self.timed)}).encode()

    def write(self, path: Path) -> None:
        path.write_bytes(self.serialized())


def read(path: Path) -> TimingCache | None:
    """Read a cache file; None for any other file."""
    return parse(path.read_bytes())


def parse(content: bytes) -> TimingCache | None:
    """A cache from its bytes; None from any other bytes."""
    if not content.startswith(MAGIC):
        return None
    found = json.loads(content[len(MAGIC) :])
    return TimingCache(found["tensorrt"], frozenset(found["timed"]))


def load(given: str | None, tensorrt: str) -> TimingCache:
    """The cache of a build: the given one, or an empty one, for which the log has the real builder's reason."""
    fresh = TimingCache(tensorrt)
    if given is None:
        return fresh
    if not Path(given).exists():
        home.log("Invalid timing cache, using freshly created one", "W")
        return fresh
    found = read(Path(given))
    if found is None:
        home.log("Error Code 4: API Usage Error (Cannot deserialize the timing cache.)", "E", "TRT")
        return fresh
    if found.tensorrt != tensorrt:
        home.log("Timing cache was generated with a different TensorRT version. Ignoring it.", "W", "TRT")
        return fresh
    return found
