"""What becomes of the figures of a driver: disturbed repeats and starts do not count."""

import pytest

from enginery.backends.bench.figures import (
    DriverLoad,
    DriverSettings,
    Repeat,
    Start,
    are_precise,
    load_speeds,
    quiet_starts,
)
from enginery.builds.speed import Series, interval, t_quantile


def a_repeat(gap: float = 0.06, machine: float = 3.0) -> Repeat:
    return Repeat(
        first_ms=50 * gap,
        gap_ms=gap,
        tokens_per_second=9000.0,
        prefill_tokens_per_second=40000.0,
        machine_ms=machine,
        slowest_machine_ms=machine,
        switches_per_second=0.0,
    )


def a_start(gap: float = 0.06, machine: float = 3.0, *, quiet: int = 12, repeats: int = 20) -> Start:
    """A start with so many repeats, of which so many were quiet. The others were three times slower."""
    good = (a_repeat(gap, machine),) * quiet
    load = DriverLoad(
        concurrency=1,
        warm_ups=4,
        stable=True,
        repeats=repeats,
        quiet=good,
        all=(*good, *(a_repeat(3 * gap, machine),) * (repeats - quiet)),
        gap_p99_ms=2 * gap,
    )
    return Start(
        settings=DriverSettings(prompt_tokens=128, output_tokens=64),
        loads=(load,),
        runtime="onnxruntime-genai",
        release="0.18.0",
        load_seconds=0.04,
        peak_host_bytes=1,
        peak_gpu_bytes=None,
        watts=None,
        gpus=(),
        driver="",
        notes=(),
    )


def test_disturbed_repeats_are_counted_and_left_out() -> None:
    starts = [a_start(0.06), a_start(0.061)]
    (load,) = load_speeds(starts, quiet_starts(starts))
    assert load.gap_ms.starts == (0.06, 0.061)
    assert (load.repeats, load.disturbed) == (40, 16)


def test_a_start_with_few_quiet_repeats_does_not_count() -> None:
    starts = [a_start(), a_start(quiet=4), a_start()]
    assert quiet_starts(starts) == [starts[0], starts[2]]


def test_a_start_of_few_repeats_counts_if_all_were_quiet() -> None:
    starts = [a_start(quiet=2, repeats=2), a_start(quiet=1, repeats=2)]
    assert quiet_starts(starts) == starts[:1]


def test_a_start_on_a_machine_that_was_slower_all_the_time_does_not_count() -> None:
    starts = [a_start(machine=3.0), a_start(machine=3.4), a_start(0.09, machine=4.4)]
    assert quiet_starts(starts) == starts[:2]


def test_a_start_without_any_quiet_repeat_is_shown_with_all_of_them() -> None:
    starts = [a_start(quiet=0), a_start(quiet=0)]
    (load,) = load_speeds(starts, starts)
    assert quiet_starts(starts) == []
    assert load.gap_ms.median == pytest.approx(0.18)
    assert load.disturbed == 0


def test_starts_are_precise_if_they_differ_no_more_than_the_machines_clock() -> None:
    assert are_precise([a_start(0.06 * clock, machine=3.0 * clock) for clock in (1.0, 1.05, 1.1, 0.97, 1.02)])
    assert not are_precise([a_start(0.06 * factor) for factor in (1.0, 1.05, 1.1, 0.97, 1.02)])
    assert not are_precise([a_start()])


def test_an_interval_is_students() -> None:
    low, high = interval([9.0, 10.0, 11.0])
    assert low == pytest.approx(10 - 4.303 / 3**0.5, abs=0.01)
    assert high == pytest.approx(10 + 4.303 / 3**0.5, abs=0.01)
    assert interval([9.0]) == (None, None)
    assert t_quantile(15) > t_quantile(16) > 1.96


def test_a_series_has_the_median_of_its_starts_and_four_digits() -> None:
    assert Series.of([0.0612345, 0.0598765, 0.0601234]).model_dump(exclude={"low", "high"}) == {
        "median": 0.06012,
        "starts": (0.06123, 0.05988, 0.06012),
    }
