"""Whether the gate on speed tells a slower engine from the same one: `python -m benchmarks.speed_gate ENGINE`.

The same engine is measured twice, and once more while it is made slower by `--slower` percent (`slowed_onnx.py`). The
first pair must pass, and the slow one must fail. What counts is how often each verdict came, not how fast it is.
Run it on a machine with nothing else to do; what it says of a busy machine is `inconclusive`.
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from enginery import toolchains
from enginery.backends.bench import step
from enginery.builds import SpeedReport, judge_speed, read_speed
from enginery.spec import Mode, SpeedGate
from enginery.store import StepContext

SLOWED = Path(__file__).parent / "slowed_onnx.py"
OVERHEAD = 0.012
"""What the wrapper of the slow engine costs by itself, of an engine with 0.06 ms for a token."""


def measured(engine: Path, options: SpeedGate, *, slower: float = 0.0) -> SpeedReport:
    """Run the bench step, with the driver for slow engines if `slower` is set."""
    plain = step.DRIVERS[step.ONNXRUNTIME]
    parameters = dict(step.bench_call(options).parameters)
    os.environ["ENGINERY_BENCH_SLOWER"] = str(slower)
    try:
        if slower:
            step.DRIVERS[step.ONNXRUNTIME] = (SLOWED, *plain[1:])
            parameters["drivers_sha256"] = step.drivers_sha256(step.ONNXRUNTIME)
        with TemporaryDirectory() as scratch:
            output = Path(scratch) / "output"
            output.mkdir()
            context = StepContext(
                key="bench",
                parameters=parameters,
                inputs={"engine": engine, "weights": engine},
                output=output,
                chain=(),
                toolchain=toolchains.ensure("onnxruntime-0.18"),
                log=lambda _line: None,
            )
            step.bench_step(context)
            return read_speed(output)
    finally:
        step.DRIVERS[step.ONNXRUNTIME] = plain


def compared(name: str, now: SpeedReport, before: SpeedReport, options: SpeedGate) -> dict[str, Any]:
    """The gate's verdict and the changes that it found, in percent."""
    result = judge_speed(now, before, options, Mode.BLOCK)
    changes = {one.name: [one.value, one.low, one.high] for one in result.measures if one.limit is not None}
    return {"pair": name, "verdict": result.verdict.value, "percent": changes, "reason": result.reason}


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description="Whether the gate on speed tells a slower engine from the same one.")
    parser.add_argument("engine", type=Path, help="an engine of ONNX Runtime for the CPU")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--slower", type=float, default=10.0, help="percent")
    given = parser.parse_args()
    options = SpeedGate()
    rows, seconds = [], []
    for _ in range(given.pairs):
        started = time.monotonic()
        before, now = (measured(given.engine, options) for _ in range(2))
        seconds.append((time.monotonic() - started) / 2)
        slow = measured(given.engine, options, slower=given.slower / 100 - OVERHEAD)
        rows += [compared("same", now, before, options), compared("slower", slow, before, options)]
        print(json.dumps(rows[-2:]), flush=True)
    counts = {name: Counter(row["verdict"] for row in rows if row["pair"] == name) for name in ("same", "slower")}
    print(json.dumps({"counts": counts, "seconds_per_measurement": sorted(seconds)[len(seconds) // 2]}))


if __name__ == "__main__":
    main()
