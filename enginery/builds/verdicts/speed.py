"""The gate on speed: whether the engine is slower than the build on the channel.

Times are compared as ratios, with their 95% intervals: Student's t on the logarithms of the starts' medians. On a CPU
each time is first divided by the time of a fixed piece of work beside it, because the clock rate of a CPU changes by
some 10% from one minute to the next. A measurement that other programs have disturbed decides nothing.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from functools import partial

from enginery.builds.gates import GateResult, Measure, Verdict, worst
from enginery.builds.speed import LoadSpeed, Series, SpeedReport, speed_differences, t_quantile
from enginery.builds.verdicts.judging import gate_result
from enginery.spec import GateName, Mode, SpeedGate

TIMES = {"first_ms": "time to first token", "gap_ms": "inter-token latency"}
"""What is compared. Tokens per second follow from these two, and a percentile is too noisy."""
MACHINE_DIFFERS = 1.20
"""Two measurements are not comparable if the machine's fixed work took so much longer in one of them. Clock rates
change by less than this, and another program on the same core by more."""
FEWEST_STARTS = 2
MEASURE_AGAIN = "measure again on a quiet machine: remove the bench step from the store, or use enginery bench"


def judge_speed(now: SpeedReport, before: SpeedReport | None, options: SpeedGate, mode: Mode) -> GateResult:
    """The gate's result.

    Args:
        now: the build's speed.
        before: the speed of the build on the channel; None if there is no such build, or it was not measured.
        options: the spec's `validation.gates.speed`.
        mode: what follows from a verdict other than pass.
    """
    recorded = tuple(measure for load in now.loads for measure in _recorded(load))
    if before is None:
        reason = "nothing to compare with yet"
        return gate_result(GateName.SPEED, mode, options.accept, recorded, reason=reason)
    undecided = partial(gate_result, GateName.SPEED, mode, options.accept, recorded, verdict=Verdict.INCONCLUSIVE)
    if different := "; ".join(speed_differences(now, before)):
        return undecided(reason=f"measured differently from the channel's build: {different}")
    if noisy := "; ".join(disturbances(now, before)):
        return undecided(MEASURE_AGAIN, reason=noisy)
    compared = tuple(_compared(now, before, options.slower_percent))
    if not compared:
        return undecided(reason="the channel's build was measured with none of these numbers of sequences")
    remedy = _remedy(worst(measure.verdict for measure in compared))
    return gate_result(GateName.SPEED, mode, options.accept, (*compared, *recorded), remedy)


def disturbances(now: SpeedReport, before: SpeedReport) -> Iterator[str]:
    """Why the two measurements are not good enough to decide anything."""
    for name, report in (("this build", now), ("the channel's build", before)):
        if report.disturbed:
            yield f"other programs slowed down the machine while {name} was measured"
        if report.neighbours:
            yield f"{name} was measured beside {', '.join(report.neighbours)}"
    factor = _machine(now) / _machine(before)
    if max(factor, 1 / factor) > MACHINE_DIFFERS:
        which = "slower" if factor > 1 else "faster"
        yield f"the machine itself was {which} by {abs(factor - 1):.0%} than when the channel's build was measured"


def _machine(report: SpeedReport) -> float:
    return statistics.median(load.machine_ms.median for load in report.loads)


def _remedy(verdict: Verdict) -> str:
    if verdict is Verdict.PASS:
        return ""
    if verdict is Verdict.INCONCLUSIVE:
        return MEASURE_AGAIN
    return "find out what made it slower, or accept it with validation.gates.speed.accept"


def _compared(now: SpeedReport, before: SpeedReport, limit: float) -> Iterator[Measure]:
    """By how many percent each time is longer than that of the channel's build."""
    on_cpu = not now.machine.gpus
    for load in now.loads:
        old = before.load(load.concurrency)
        for name, words in TIMES.items() if old else ():
            assert old is not None  # noqa: S101  said in the line above
            slower = slower_percent(_starts(load, name, on_cpu=on_cpu), _starts(old, name, on_cpu=on_cpu))
            what = f"{words} with {load.concurrency} at once: {getattr(load, name).median:g} ms, before"
            yield _judged(
                f"{name}_{load.concurrency}_percent", f"{what} {getattr(old, name).median:g} ms", slower, limit
            )


def _starts(load: LoadSpeed, name: str, *, on_cpu: bool) -> list[float]:
    """The times of the starts; on a CPU relative to the machine's own speed in each start."""
    times: Series = getattr(load, name)
    machine = load.machine_ms.starts if on_cpu else (1.0,) * len(times.starts)
    return [time / own for time, own in zip(times.starts, machine, strict=True)]


def slower_percent(now: Sequence[float], before: Sequence[float]) -> tuple[float, float | None, float | None]:
    """By how many percent the first times are longer, with the 95% interval if there are enough starts for one."""
    new, old = [math.log(value) for value in now], [math.log(value) for value in before]
    middle = statistics.mean(new) - statistics.mean(old)
    if min(len(new), len(old)) < FEWEST_STARTS:
        return _percent(middle), None, None
    freedom = len(new) + len(old) - 2
    squares = sum((value - statistics.mean(values)) ** 2 for values in (new, old) for value in values)
    half = t_quantile(freedom) * math.sqrt(squares / freedom * (1 / len(new) + 1 / len(old)))
    return _percent(middle), _percent(middle - half), _percent(middle + half)


def _percent(logarithm: float) -> float:
    return round(100 * math.expm1(logarithm), 2)


def _judged(name: str, what: str, slower: tuple[float, float | None, float | None], limit: float) -> Measure:
    value, low, high = slower
    if low is None or high is None:
        verdict, between = Verdict.INCONCLUSIVE, "too few starts for an interval"
    else:
        verdict = Verdict.PASS if high <= limit else Verdict.FAIL if low > limit else Verdict.INCONCLUSIVE
        between = f"{low:+.1f}% to {high:+.1f}%"
    told = f"{what}, {value:+.1f}% ({between}), at most {limit:+g}%"
    return Measure(name=name, value=value, unit="%", low=low, high=high, limit=limit, verdict=verdict, told=told)


def _recorded(load: LoadSpeed) -> Iterator[Measure]:
    """The figures themselves, without limits."""
    at = f"with {load.concurrency} at once"
    units = {"first_ms": "ms", "gap_ms": "ms", "tokens_per_second": "tokens/s"}
    for name, unit in units.items():
        series: Series = getattr(load, name)
        yield Measure(
            name=f"{name}_{load.concurrency}",
            value=series.median,
            unit=unit,
            low=series.low,
            high=series.high,
            at_least=name == "tokens_per_second",
            verdict=Verdict.PASS,
            told=f"{TIMES.get(name, 'speed')} {at}: {series.median:g} {unit}",
        )
