"""Makes a report of what a driver measured in its starts: quiet repeats only, with intervals over the starts."""

import statistics
from collections.abc import Sequence

from enginery.builds import LoadSpeed, Series, interval
from enginery.core.model import Frozen

FEWEST_QUIET = 5
"""A start with fewer quiet repeats does not count."""
PRECISE = 0.012
"""The difference of two builds is then known to within 1.7%."""
SLOWER_START = 1.25
"""A start does not count if the machine was slower by more than this factor than in the fastest start. The clock rate
of a CPU that works on nothing else changes by some 15%; another program on the same core takes 40% and more."""


class Repeat(Frozen):
    """One repeat, as a driver writes it; see `LoadSpeed`.

    Attributes:
        slowest_machine_ms: the longer time of the fixed work, before and after the repeat.
        switches_per_second: how often the kernel took the CPU away from the process.
    """

    first_ms: float
    gap_ms: float
    tokens_per_second: float
    prefill_tokens_per_second: float
    machine_ms: float
    slowest_machine_ms: float
    switches_per_second: float


class DriverLoad(Frozen):
    """One concurrency in one start.

    Attributes:
        quiet: the repeats during which the machine itself was not slower.
        all: all repeats.
    """

    concurrency: int
    warm_ups: int
    stable: bool
    repeats: int
    quiet: tuple[Repeat, ...]
    all: tuple[Repeat, ...]
    gap_p99_ms: float | None


class DriverSettings(Frozen):
    """How many tokens were measured. A model with a short context gets fewer than asked."""

    prompt_tokens: int
    output_tokens: int


class Start(Frozen):
    """Everything that a driver measured in one start; see `SpeedReport`."""

    settings: DriverSettings
    loads: tuple[DriverLoad, ...]
    runtime: str
    release: str
    load_seconds: float
    peak_host_bytes: int
    peak_gpu_bytes: int | None
    watts: float | None
    gpus: tuple[str, ...]
    driver: str
    notes: tuple[str, ...]

    @property
    def machine_ms(self) -> float:
        """The median time of the machine's fixed work."""
        return statistics.median(one.machine_ms for load in self.loads for one in load.quiet or load.all)

    @property
    def is_quiet(self) -> bool:
        """Whether each concurrency has enough quiet repeats; of few repeats, all."""
        return all(len(load.quiet) >= min(FEWEST_QUIET, load.repeats) for load in self.loads)


def quiet_starts(starts: Sequence[Start]) -> list[Start]:
    """The starts in which nothing else slowed down the machine."""
    quiet = [one for one in starts if one.is_quiet]
    fastest = min((one.machine_ms for one in quiet), default=0.0)
    return [one for one in quiet if one.machine_ms <= SLOWER_START * fastest]


def are_precise(starts: Sequence[Start]) -> bool:
    """Whether half the interval of each time is at most `PRECISE` of it, at the machine's own speed in each start."""
    for load in load_speeds(starts, starts):
        for series in (load.first_ms, load.gap_ms):
            pairs = zip(series.starts, load.machine_ms.starts, strict=True)
            low, high = interval([time / machine for time, machine in pairs])
            if low is None or high is None or high - low > PRECISE * (high + low):
                return False
    return True


def load_speeds(starts: Sequence[Start], counted: Sequence[Start]) -> tuple[LoadSpeed, ...]:
    """The figures of each concurrency. `counted` are the quiet starts, or all of them if too few are."""
    places = range(len(starts[0].loads))
    return tuple(
        _load_speed([one.loads[place] for one in starts], [one.loads[place] for one in counted]) for place in places
    )


def _load_speed(loads: Sequence[DriverLoad], counted: Sequence[DriverLoad]) -> LoadSpeed:
    kept = [one.quiet or one.all for one in counted]
    p99 = [one.gap_p99_ms for one in counted if one.gap_p99_ms is not None]
    repeats = sum(one.repeats for one in loads)
    return LoadSpeed(
        concurrency=loads[0].concurrency,
        warm_ups=max(one.warm_ups for one in loads),
        stable=all(one.stable for one in loads),
        repeats=repeats,
        disturbed=repeats - sum(map(len, kept)),
        gap_p99_ms=statistics.median(p99) if p99 else None,
        **{name: _series(kept, name) for name in Repeat.model_fields if name in LoadSpeed.model_fields},
    )


def _series(kept: Sequence[Sequence[Repeat]], name: str) -> Series:
    return Series.of([statistics.median(getattr(one, name) for one in repeats) for repeats in kept])
