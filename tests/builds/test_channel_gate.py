"""A build is compared with the one that its channel points to, by the figures in their manifests."""

from typing import Any

import pytest

from enginery.builds.gates import GateReport, GateResult, Measure, Verdict
from enginery.builds.manifest import Manifest
from enginery.builds.verdicts.channel import judge_channel
from enginery.spec.validation import Accepted, ChannelGate, Mode
from enginery.store.steps import Call, FileRecord, Stage, StepRecord
from tests.support.plans.watched import a_manifest
from tests.support.registry.gates import a_measure, a_result
from tests.support.speeds import GPU, a_speed
from tests.support.store.records import a_record

OTHER = "cpu-int4-222222222222"
H100 = "H100-SXM5-80GB"


def with_measures(gate: str, *measures: Measure, build_id: str = OTHER, gpu: str = H100) -> Manifest:
    return a_manifest(build_id, gates=GateReport(results=(a_result(gate, *measures),)), gpu=gpu)


def judged(before: Manifest | None, after: Manifest, mode: Mode = Mode.BLOCK, **options: Any) -> GateResult:
    return judge_channel(before, after, ChannelGate.model_validate(options), mode)


def verdict_of(gate: str, before: Measure, after: Measure, **options: Any) -> Verdict:
    return judged(with_measures(gate, before), with_measures(gate, after), **options).verdict


def kl(value: float, half: float | None = None) -> Measure:
    between: dict[str, Any] = {} if half is None else {"low": value - half, "high": value + half}
    return a_measure("mean_kl", value, **between)


def agreement(value: float) -> Measure:
    return a_measure("top1_agreement", value, unit="", limit=0.9, at_least=True)


def with_step(manifest: Manifest, *records: StepRecord) -> Manifest:
    return manifest.model_copy(update={"steps": (*manifest.steps, *records)})


def test_a_channel_without_a_build_has_nothing_to_compare_with() -> None:
    found = judged(None, a_manifest())
    assert found.verdict is Verdict.PASS
    assert "nothing to compare with" in found.told


def test_a_build_compared_with_itself_passes_however_wide_its_intervals_are() -> None:
    for measure in (kl(0.2, 0.1), agreement(0.95)):
        assert verdict_of("distribution", measure, measure) is Verdict.PASS


@pytest.mark.parametrize(("engine", "verdict"), [(10, Verdict.PASS), (1200, Verdict.PASS), (1201, Verdict.FAIL)])
def test_the_engine_may_grow_by_twenty_percent(engine: int, verdict: Verdict) -> None:
    found = judged(a_manifest(), a_manifest(OTHER, engine=engine))
    assert found.verdict is verdict
    assert ("at most +20%" in found.reason) == (verdict is Verdict.FAIL)
    assert judged(a_manifest(), a_manifest(OTHER, engine=engine), larger_percent=21).verdict is Verdict.PASS


def test_what_was_right_may_not_be_wrong() -> None:
    found = judged(a_manifest(), a_manifest(OTHER, passed=False))
    assert found.verdict is Verdict.FAIL
    assert "'Hi' was right and is now wrong: 'there'" in found.reason
    assert found.stops
    assert "enginery diff" in found.remedy


def test_a_different_answer_that_is_as_expected_and_a_prompt_that_is_gone_pass() -> None:
    assert judged(a_manifest(), a_manifest(OTHER, answers={"Hi": "there, there"})).verdict is Verdict.PASS
    assert judged(a_manifest(), a_manifest(OTHER, answers={"Another": "answer"})).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (kl(0.2), kl(0.21), Verdict.PASS),
        (kl(0.2), kl(0.1), Verdict.PASS),
        (kl(0.2), kl(0.23), Verdict.FAIL),
        (kl(0.2, 0.01), kl(0.24, 0.01), Verdict.FAIL),
        (kl(0.2, 0.03), kl(0.24, 0.03), Verdict.INCONCLUSIVE),
        (kl(1e-9), kl(5e-9), Verdict.PASS),
        (agreement(0.95), agreement(0.941), Verdict.PASS),
        (agreement(0.95), agreement(0.93), Verdict.FAIL),
        (agreement(0.95), agreement(0.99), Verdict.PASS),
    ],
)
def test_the_distribution_may_be_a_little_farther_from_the_reference(
    before: Measure, after: Measure, verdict: Verdict
) -> None:
    assert verdict_of("distribution", before, after) is verdict


def test_the_tolerances_are_the_specs() -> None:
    assert verdict_of("distribution", kl(0.2), kl(0.23), farther_percent=20) is Verdict.PASS
    assert verdict_of("distribution", agreement(0.95), agreement(0.93), worse_share=0.05) is Verdict.PASS


@pytest.mark.parametrize(
    ("times", "verdict"),
    [(1.0, Verdict.PASS), (0.5, Verdict.PASS), (1.02, Verdict.PASS), (1.2, Verdict.FAIL)],
)
def test_a_build_may_be_a_little_slower(times: float, verdict: Verdict) -> None:
    found = judged(a_manifest(speed=a_speed(machine=GPU)), a_manifest(OTHER, speed=a_speed(times, machine=GPU)))
    assert found.verdict is verdict
    assert "speed.first_ms_1_percent" in {measure.name for measure in found.measures}
    assert judged(a_manifest(), a_manifest(OTHER, speed=a_speed(1.2)), slower_percent=50).verdict is Verdict.PASS


def test_times_of_another_machine_cannot_be_compared_and_say_so() -> None:
    found = judged(a_manifest(speed=a_speed(machine=GPU)), a_manifest(OTHER, speed=a_speed()))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "speed cannot be compared: " in found.reason
    assert "GPU" in found.reason
    assert found.stops


def test_a_build_of_which_no_speed_was_measured_is_compared_by_the_rest() -> None:
    found = judged(a_manifest(speed=None), a_manifest(OTHER))
    assert (found.verdict, len(found.measures)) == (Verdict.PASS, 2)


def test_a_gates_own_comparison_counts_in_place_of_its_figures() -> None:
    old, new = (with_measures("evaluation", a_measure("quiz", one, limit=0.5, at_least=True)) for one in (0.9, 0.6))
    unsure = GateResult(gate="evaluation", mode="warn", verdict=Verdict.INCONCLUSIVE, reason="quiz was not run")
    assert judged(old, new).verdict is Verdict.FAIL
    found = judge_channel(old, new, ChannelGate(), Mode.BLOCK, [unsure])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "quiz was not run" in found.reason
    for loss, verdict in ((-0.005, Verdict.PASS), (-0.03, Verdict.FAIL)):
        lower = a_result("evaluation", a_measure("quiz_change", loss, Verdict.FAIL, limit=-0.001, at_least=True))
        assert judge_channel(old, new, ChannelGate(), Mode.BLOCK, [lower]).verdict is verdict


def test_divergences_from_other_references_cannot_be_compared_and_the_rest_is() -> None:
    def referred(manifest: Manifest, texts: str, weights: str) -> Manifest:
        recipe = Call(function="reference", version=1, parameters={"texts": texts})
        download = a_record(Stage.DOWNLOAD).model_copy(
            update={"files": (FileRecord(path="model.safetensors", sha256=weights * 64, size=1),)}
        )
        steps = (download, *manifest.steps[1:], a_record(Stage.REFERENCE, recipe=recipe))
        return manifest.model_copy(update={"steps": steps})

    old, new = (with_measures("distribution", kl(0.2)) for _ in range(2))
    assert judged(referred(old, "a", "0"), referred(new, "a", "0")).verdict is Verdict.PASS
    texts = judged(referred(old, "a", "0"), referred(new, "b", "0"))
    assert texts.verdict is Verdict.INCONCLUSIVE
    assert "other texts or prompts" in texts.reason
    weights = judged(referred(old, "a", "0"), referred(new, "a", "1"))
    assert "the builds are of other weights" in weights.reason
    assert [one.name for one in weights.measures] == [
        "answers_now_wrong",
        "engine_bytes",
        "speed.first_ms_1_percent",
        "speed.gap_ms_1_percent",
        "distribution",
    ]


def test_scores_are_compared_if_the_evaluation_is_the_same() -> None:
    def score(value: float) -> Measure:
        return a_measure("gsm8k", value, unit="", limit=0.6, at_least=True, low=value - 0.01, high=value + 0.01)

    def evaluated(value: float, command: str) -> Manifest:
        recipe = Call(function="evaluate", version=1, parameters={"name": "gsm8k", "command": command})
        return with_step(with_measures("evaluation", score(value)), a_record(Stage.EVALUATE, recipe=recipe))

    assert judged(evaluated(0.7, "a"), evaluated(0.69, "a")).verdict is Verdict.PASS
    assert judged(evaluated(0.7, "a"), evaluated(0.6, "a")).verdict is Verdict.FAIL
    other = judged(evaluated(0.7, "a"), evaluated(0.6, "b"))
    assert other.verdict is Verdict.INCONCLUSIVE
    assert "gsm8k became another evaluation" in other.reason


def test_a_figure_that_is_not_known_any_more_is_inconclusive() -> None:
    for value in (None, float("inf"), float("nan")):
        lost = kl(0.2).model_copy(update={"value": value})
        assert verdict_of("distribution", kl(0.2), lost) is Verdict.INCONCLUSIVE
    assert verdict_of("distribution", kl(0.2).model_copy(update={"value": None}), kl(0.2)) is Verdict.PASS


def test_figures_that_are_only_recorded_are_not_compared() -> None:
    """One near tie changes how long an answer agrees with the reference, and no limit says that it matters."""
    recorded = a_measure("agreement", 0.9, unit="", limit=None, at_least=True)
    assert verdict_of("answers", recorded, recorded.model_copy(update={"value": 0.1})) is Verdict.PASS


def test_how_many_prompts_there_are_decides_nothing() -> None:
    expected = a_measure("expected", 1.0, unit="", limit=1.0, at_least=True)
    assert verdict_of("answers", expected, expected.model_copy(update={"value": 0.9})) is Verdict.PASS


def test_a_figure_that_should_be_high_and_is_no_share_may_change_by_percent() -> None:
    high = a_measure("margin", 5.0, unit="nats", limit=2.0, at_least=True)
    assert verdict_of("distribution", high, high.model_copy(update={"value": 4.6})) is Verdict.PASS
    assert verdict_of("distribution", high, high.model_copy(update={"value": 4.4})) is Verdict.FAIL


def test_a_build_that_is_older_than_the_gates_is_compared_by_size_and_answers() -> None:
    new = with_measures("distribution", kl(0.2))
    assert judged(a_manifest(gpu=H100), new).verdict is Verdict.PASS
    assert judged(a_manifest(gpu=H100, engine=10), new).verdict is Verdict.FAIL


def test_a_worse_build_can_be_accepted_with_a_name_and_a_reason() -> None:
    accept = Accepted(by="ada", why="the old one had a bug")
    found = judged(a_manifest(), a_manifest(OTHER, passed=False), accept=accept)
    assert found.verdict is Verdict.FAIL
    assert not found.stops
    assert "accepted by ada: the old one had a bug" in found.told
    assert judged(a_manifest(), a_manifest(OTHER), accept=accept).forced is None
