"""The gate on speed: what is slower fails, what is the same passes, and what cannot be compared is inconclusive."""

import pytest

from enginery.builds import GateResult, SpeedReport, Verdict
from enginery.builds.verdicts.speed import judge_speed, slower_percent
from enginery.spec import Mode, SpeedGate
from tests.support.speeds import CPU, GPU, SETTINGS, a_speed, noise_of

TIMES = range(20)


def judged(now: SpeedReport, before: SpeedReport | None, **options: object) -> GateResult:
    return judge_speed(now, before, SpeedGate.model_validate(options), Mode.BLOCK)


def test_without_a_build_to_compare_with_the_figures_are_only_recorded() -> None:
    result = judged(a_speed(), None)
    assert result.verdict is Verdict.PASS
    assert not result.stops
    assert result.reason == "nothing to compare with yet"
    assert {measure.name: measure.unit for measure in result.measures} == {
        "first_ms_1": "ms",
        "gap_ms_1": "ms",
        "tokens_per_second_1": "tokens/s",
    }
    assert all(measure.limit is None for measure in result.measures)


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_same_engine_passes_twenty_times_of_twenty(machine: object) -> None:
    pairs = [(a_speed(noise=noise_of(2 * n)), a_speed(noise=noise_of(2 * n + 1))) for n in TIMES]
    pairs = [tuple(one.model_copy(update={"machine": machine}) for one in pair) for pair in pairs]  # type: ignore[misc]
    assert [judged(now, before).verdict for now, before in pairs] == [Verdict.PASS] * 20


def test_an_engine_that_is_slower_by_ten_percent_fails_twenty_times_of_twenty() -> None:
    pairs = [(a_speed(1.10, noise=noise_of(2 * n)), a_speed(noise=noise_of(2 * n + 1))) for n in TIMES]
    assert [judged(now, before).verdict for now, before in pairs] == [Verdict.FAIL] * 20


def test_a_faster_engine_passes() -> None:
    assert judged(a_speed(0.5), a_speed()).verdict is Verdict.PASS


def test_a_slower_clock_of_the_same_cpu_is_no_slower_engine() -> None:
    assert judged(a_speed(clock=1.12), a_speed()).verdict is Verdict.PASS


def test_a_faster_clock_does_not_hide_a_slower_engine() -> None:
    assert judged(a_speed(1.10, clock=0.9), a_speed()).verdict is Verdict.FAIL


def test_on_a_gpu_the_clock_of_the_cpu_excuses_nothing() -> None:
    now, before = a_speed(clock=1.12, machine=GPU), a_speed(machine=GPU)
    assert judged(now, before).verdict is Verdict.FAIL


def test_a_slowdown_with_many_sequences_alone_is_found() -> None:
    before = a_speed(concurrency=(1, 8))
    fast, slow = a_speed().loads[0], a_speed(1.2, concurrency=(8,)).loads[0]
    result = judged(before.model_copy(update={"loads": (fast, slow)}), before)
    assert result.verdict is Verdict.FAIL
    assert "with 8 at once" in result.reason
    assert "with 1 at once" not in result.reason


def test_the_reason_has_both_times_the_change_its_interval_and_the_limit() -> None:
    result = judged(a_speed(1.10), a_speed())
    assert "inter-token latency with 1 at once: 0.06644 ms, before 0.0604 ms, +10.0% (+" in result.reason
    assert "at most +5%" in result.reason
    assert "validation.gates.speed.accept" in result.remedy
    assert result.stops


def test_noise_that_is_too_large_for_a_decision_is_inconclusive() -> None:
    result = judged(a_speed(1.03, noise=noise_of(1, 0.06)), a_speed(noise=noise_of(2, 0.06)))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "measure again" in result.remedy


def test_one_start_gives_no_interval_and_so_no_verdict() -> None:
    assert slower_percent([1.1], [1.0, 1.0]) == (10.0, None, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machine": GPU}, "GPU NVIDIA H200, not none; driver 570.86.15, not none"),
        ({"machine": CPU.model_copy(update={"cpu": "AMD EPYC"})}, "CPU AMD EPYC, not Intel(R) Xeon(R) Processor"),
        ({"machine": CPU.model_copy(update={"cores": 64})}, "CPUs 64, not 2"),
        ({"settings": SETTINGS.model_copy(update={"prompt_tokens": 512})}, "prompt tokens 512, not 128"),
        ({"settings": SETTINGS.model_copy(update={"threads": 8})}, "threads 8, not 1"),
        ({"settings": SETTINGS.model_copy(update={"world_size": 2})}, "world size 2, not 1"),
    ],
)
def test_figures_of_other_machines_and_settings_are_not_compared(change: dict[str, object], told: str) -> None:
    result = judged(a_speed(**change), a_speed())  # type: ignore[arg-type]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == f"measured differently from the channel's build: {told}"


def test_another_host_of_the_same_kind_and_another_release_are_compared() -> None:
    machine = CPU.model_copy(update={"host": "builder-2", "load": 1.5})
    now = a_speed(machine=machine, settings=SETTINGS.model_copy(update={"release": "0.19.0"}))
    assert judged(now, a_speed()).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"disturbed": True}, "other programs slowed down the machine while this build was measured"),
        ({"neighbours": ("build b",)}, "this build was measured beside build b"),
        ({"clock": 1.4}, "the machine itself was slower by 40% than when the channel's build was measured"),
    ],
)
def test_a_disturbed_measurement_decides_nothing(change: dict[str, object], told: str) -> None:
    result = judged(a_speed(2.0, **change), a_speed())  # type: ignore[arg-type]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert told in result.reason


def test_a_build_measured_with_other_numbers_of_sequences_alone_is_not_compared() -> None:
    assert judged(a_speed(concurrency=(4,)), a_speed()).verdict is Verdict.INCONCLUSIVE


def test_the_limit_is_that_of_the_spec() -> None:
    assert judged(a_speed(1.10), a_speed(), slower_percent=20.0).verdict is Verdict.PASS
    assert judged(a_speed(1.10), a_speed(), slower_percent=0.0).verdict is Verdict.FAIL
