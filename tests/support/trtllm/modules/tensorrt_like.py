"""The parts of the module `tensorrt` that tools for timing caches use. It is not TensorRT."""

from pathlib import Path
from types import ModuleType
from typing import ClassVar

from tests.support.trtllm import home
from tests.support.trtllm.files.timing_cache import TimingCache, parse
from tests.support.trtllm.home import Home


class Logger:
    """Takes a severity and logs nothing."""

    VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR = 4, 3, 2, 1, 0

    def __init__(self, min_severity: int = WARNING) -> None:
        self.min_severity = min_severity


class Cache:
    def __init__(self, own: TimingCache) -> None:
        self.own = own

    def combine(self, other: "Cache", ignore_mismatch: bool) -> bool:  # noqa: ARG002, FBT001  as the real one
        """Add the layers of another cache. A cache of another TensorRT is refused."""
        if other.own.tensorrt != self.own.tensorrt:
            home.log("Timing caches of different TensorRT versions cannot be combined", "E", "TRT")
            return False
        self.own = TimingCache(self.own.tensorrt, self.own.timed | other.own.timed)
        return True

    def serialize(self) -> bytes:
        return self.own.serialized()


class BuilderConfig:
    def __init__(self, tensorrt: str) -> None:
        self.tensorrt = tensorrt

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache | None:
        """A cache from its bytes; an empty cache from empty bytes; None when the bytes are no cache."""
        if not serialized_timing_cache:
            return Cache(TimingCache(self.tensorrt))
        found = parse(bytes(serialized_timing_cache))
        return None if found is None else Cache(found)


class Builder:
    """A stand-in for `IBuilder`. It cannot be made without a GPU."""

    own: ClassVar[Home]

    def __init__(self, _logger: Logger) -> None:
        if not self.own.visible_gpus():
            home.log("CUDA initialization failure with error: 100", "E", "TRT")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self.own.tensorrt)


def install(module: ModuleType, directory: str) -> None:
    Builder.own = Home(Path(directory))
    vars(module).update(Logger=Logger, Builder=Builder, ITimingCache=Cache, __version__=Builder.own.tensorrt)
