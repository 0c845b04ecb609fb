"""Puts two of TensorRT's timing caches together.

Runs in the release's own environment, on the GPU that both were measured on, and needs nothing of Enginery's. Any
problem ends it with a traceback and a nonzero status, without an output file. See `ITimingCache.combine` in TensorRT's
reference: it takes only caches of its own version, and, unless told to ignore that, only those of the same device.
"""

import argparse
from pathlib import Path
from typing import Any

import tensorrt  # type: ignore[import-not-found,unused-ignore]  # of the toolchain


def combined(first: bytes, second: bytes) -> bytes:
    """The entries of both caches; where they disagree, the first one's.

    Raises:
        ValueError: when one of them is not of this TensorRT and this GPU.
    """
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.WARNING))
    config = builder.create_builder_config()
    into, other = read(config, first), read(config, second)
    if not into.combine(other, ignore_mismatch=False):
        raise ValueError("TensorRT refuses to combine the two caches")
    return bytes(into.serialize())


def read(config: Any, data: bytes) -> Any:
    """A cache from its bytes.

    Raises:
        ValueError: when TensorRT does not take them, or takes them for nothing.
    """
    cache = config.create_timing_cache(data)
    if cache is None:
        raise ValueError("TensorRT does not take this for a timing cache")
    return cache


def main() -> None:
    """Read both caches and write what they have together."""
    parser = argparse.ArgumentParser(description="Put two timing caches of TensorRT together.")
    parser.add_argument("--first", type=Path, required=True, help="its entries win where the two disagree")
    parser.add_argument("--second", type=Path, required=True, help="the other one")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    arguments.output.write_bytes(combined(arguments.first.read_bytes(), arguments.second.read_bytes()))


if __name__ == "__main__":
    main()
