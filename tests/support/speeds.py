"""Reports of speed that were recorded, and changed ones made of them."""

import random
from collections.abc import Callable, Sequence

from enginery.builds import LoadSpeed, Machine, Series, SpeedReport, SpeedSettings

RECORDED = {
    "first_ms": (2.913, 2.951, 2.895, 2.938, 2.927),
    "gap_ms": (0.0601, 0.0607, 0.0596, 0.0604, 0.0606),
    "machine_ms": (3.052, 3.101, 3.041, 3.087, 3.094),
}
"""The medians of five starts of the example model's int4 engine on two cores of an Intel Xeon at 2.1 GHz."""
CPU = Machine(host="builder-1", cpu="Intel(R) Xeon(R) Processor", cores=2, memory_bytes=24 << 30, load=0.4)
GPU = CPU.model_copy(update={"gpus": ("NVIDIA H200",), "driver": "570.86.15"})
SETTINGS = SpeedSettings(prompt_tokens=128, output_tokens=64, runtime="onnxruntime-genai", release="0.18.0", threads=1)


def a_speed(
    times: float = 1.0,
    *,
    machine: Machine = CPU,
    concurrency: Sequence[int] = (1,),
    noise: Callable[[], float] = lambda: 1.0,
    clock: float = 1.0,
    **more: object,
) -> SpeedReport:
    """A report of an engine whose times are `times` those of the recorded one.

    Args:
        times: the factor.
        machine: where it was measured.
        concurrency: for which numbers of sequences.
        noise: gives a factor for each figure of each start.
        clock: how much slower the machine itself is.
        more: other fields of the report.
    """
    loads = tuple(_a_load(number, times, noise, clock) for number in concurrency)
    report = SpeedReport(machine=machine, settings=SETTINGS, loads=loads, load_seconds=0.04, peak_host_bytes=87 << 20)
    return report.model_copy(update=more)


def _a_load(concurrency: int, times: float, noise: Callable[[], float], clock: float) -> LoadSpeed:
    first, gap = ([value * times * clock * noise() for value in RECORDED[name]] for name in ("first_ms", "gap_ms"))
    speeds = [64_000 * concurrency / (one + 63 * other) for one, other in zip(first, gap, strict=True)]
    return LoadSpeed(
        concurrency=concurrency,
        warm_ups=4,
        stable=True,
        repeats=60,
        disturbed=3,
        first_ms=Series.of(first),
        gap_ms=Series.of(gap),
        gap_p99_ms=0.11,
        tokens_per_second=Series.of(speeds),
        prefill_tokens_per_second=Series.of([128_000 * concurrency / one for one in first]),
        machine_ms=Series.of([value * clock for value in RECORDED["machine_ms"]]),
    )


def noise_of(seed: int, deviation: float = 0.012) -> Callable[[], float]:
    """Noise as it was measured: starts of the same engine differ by 1.2%."""
    generator = random.Random(seed)
    return lambda: generator.gauss(1.0, deviation)
