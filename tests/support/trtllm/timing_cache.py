"""A timing cache as the stand-in writes it: which TensorRT made it and which layers were timed."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.trtllm import home

MAGIC = b"timing cache of a stand-in, not of TensorRT\n"


@dataclass(frozen=True)
class TimingCache:
    """What was timed, by which TensorRT."""

    tensorrt: str
    timed: frozenset[str] = frozenset()

    def serialized(self) -> bytes:
        return MAGIC + json.dumps({"tensorrt": self.tensorrt, "timed": sorted(self.timed)}).encode()

    def write(self, path: Path) -> None:
        path.write_bytes(self.serialized())


def read(path: Path) -> TimingCache | None:
    """A cache file; None for anything else."""
    return parse(path.read_bytes())


def parse(content: bytes) -> TimingCache | None:
    """A cache from its bytes; None from any others."""
    if not content.startswith(MAGIC):
        return None
    found = json.loads(content[len(MAGIC) :])
    return TimingCache(found["tensorrt"], frozenset(found["timed"]))


def load(given: str | None, tensorrt: str) -> TimingCache:
    """The cache a build begins with: the one that was given, or an empty one, with the real one's words on why."""
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
