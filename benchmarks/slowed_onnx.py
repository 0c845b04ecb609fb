"""The driver that measures engines of ONNX Runtime, with an engine that is made slower on purpose.

After each call of the library it works on for a share of the time that the call took: `ENGINERY_BENCH_SLOWER`, such as
0.1. It shows whether the gate on speed sees that.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).parent.parent / "enginery" / "toolchains" / "drivers"
sys.path.insert(0, str(DRIVERS))

import bench_onnx  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
import onnxruntime_genai as genai  # type: ignore[import-not-found,unused-ignore]  # noqa: E402

SHARE = float(os.environ["ENGINERY_BENCH_SLOWER"])


def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but slower by a share of its own time."""

    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        ended = time.perf_counter()
        while time.perf_counter() < ended + SHARE * (ended - started):
            pass
        return result

    return call


class SlowGenerator:
    """`onnxruntime_genai.Generator`, but slower."""

    def __init__(self, *arguments: Any) -> None:
        generator = slowed(genai.Generator)(*arguments)
        self.append_tokens = slowed(generator.append_tokens)
        self.generate_next_token = slowed(generator.generate_next_token)
        self.get_next_tokens = slowed(generator.get_next_tokens)


class SlowLibrary:
    """`onnxruntime_genai`, but for its generator."""

    Generator = SlowGenerator

    def __getattr__(self, name: str) -> Any:
        return getattr(genai, name)


if __name__ == "__main__":
    bench_onnx.genai = SlowLibrary()
    bench_onnx.main()
