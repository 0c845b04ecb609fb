import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.backends.gates.distribution import divergences, judge_distribution, mean_of, percentile_of, wilson
from enginery.backends.gates.limits import LIMITS, limits_for
from enginery.builds import Distribution, GateResult, Measure, Reference, Verdict
from enginery.spec import Accepted, DistributionGate, Mode, Precision
from tests.support.references import answer, log_softmax, text, write_reference

VOCABULARY = 100
ROWS = 40
SEQUENCES = tuple(text(f"english-{number}", range(5, 6 + ROWS)) for number in range(20))
Floats = npt.NDArray[np.float32]


def reference_logits(rows: int = ROWS * len(SEQUENCES), sharpness: float = 3.0) -> Floats:
    """Logits that give the tokens of the sequences a high probability."""
    logits = np.random.default_rng(1).normal(size=(rows, VOCABULARY)).astype(np.float32) * sharpness
    following = np.tile(np.arange(6, 6 + ROWS), len(SEQUENCES))[:rows]
    logits[np.arange(rows), following] += 8
    return logits


def measured(reference: Reference, logits: Floats, **more: Any) -> Distribution:
    """What an engine with these logits would measure."""
    logprobs = log_softmax(logits)
    following = np.array([token for sequence in reference.sequences for token in sequence.answer_ids])
    found = Distribution(
        top_logprobs=np.take_along_axis(logprobs, reference.logprobs.top_ids.astype(np.int64), axis=1),
        next_logprobs=logprobs[np.arange(len(logits)), following],
        argmax=logprobs.argmax(axis=1).astype(np.int32),
        nonfinite=np.zeros(len(logits), np.int32),
        measured=np.ones(len(logits), np.bool_),
    )
    return replace(found, **more)


def judged(
    reference: Reference | None, found: Distribution | None, precision: Precision = Precision.INT8, **more: Any
) -> GateResult:
    options = more.pop("options", DistributionGate())
    return judge_distribution(reference, found, precision, options, Mode.BLOCK, **more)


def named(result: GateResult, name: str) -> Measure:
    return next(measure for measure in result.measures if measure.name == name)


def noise(size: float, rows: int = ROWS * len(SEQUENCES)) -> Floats:
    return np.random.default_rng(2).normal(size=(rows, VOCABULARY)).astype(np.float32) * size


def test_the_divergence_of_a_known_distribution_is_exact() -> None:
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.25, 0.5]])
    wanted = (p * np.log(p / q)).sum()
    found = divergences(np.log(p).astype(np.float32), np.log(q).astype(np.float32))
    assert found[0] == pytest.approx(wanted, abs=1e-6)


def test_tokens_that_are_not_named_count_as_one() -> None:
    p, q = np.array([[0.5, 0.2]]), np.array([[0.4, 0.1]])
    wanted = 0.5 * math.log(0.5 / 0.4) + 0.2 * math.log(0.2 / 0.1) + 0.3 * math.log(0.3 / 0.5)
    assert divergences(np.log(p).astype(np.float32), np.log(q).astype(np.float32))[0] == pytest.approx(wanted, abs=1e-6)


def test_a_token_that_the_engine_does_not_name_counts_with_the_rest() -> None:
    p, q = np.array([[0.5, 0.2]]), np.array([[0.4, np.nan]])
    wanted = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    found = divergences(np.log(p).astype(np.float32), np.log(q).astype(np.float32))
    assert found[0] == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(divergences(np.log(p).astype(np.float32), np.full((1, 2), np.nan, np.float32))[0])


def test_the_same_predictions_pass_at_every_precision(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    for precision in Precision:
        result = judged(reference, measured(reference, logits), precision)
        assert result.verdict is Verdict.PASS, result.told
        assert named(result, "mean_kl").value == pytest.approx(0, abs=1e-6)
        assert named(result, "top1_agreement").value == 1.0
        assert named(result, "perplexity_ratio").value == pytest.approx(1.0)


def test_noise_that_four_bits_may_have_fails_with_eight(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, logits + noise(0.6))
    assert judged(reference, found, Precision.INT4).verdict is Verdict.PASS
    result = judged(reference, found, Precision.INT8)
    assert result.verdict is Verdict.FAIL
    assert "mean KL divergence" in result.reason
    assert "at most 0.02" in result.reason
    assert result.remedy
    assert result.stops


def test_an_accepted_verdict_says_who_and_why(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    options = DistributionGate(accept=Accepted(by="Ada", why="an experiment of ours"))
    result = judged(reference, measured(reference, logits + noise(3)), options=options)
    assert result.verdict is Verdict.FAIL
    assert result.forced is not None
    assert result.forced.by == "Ada"
    assert not result.stops


def test_a_limit_of_the_spec_takes_the_place_of_the_default() -> None:
    limits = limits_for(Precision.INT4, DistributionGate(mean_kl=0.1))
    assert limits == LIMITS[Precision.INT4]._replace(mean_kl=0.1)


def test_a_limit_within_the_interval_is_inconclusive(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, logits + noise(0.6))
    value = named(judged(reference, found), "mean_kl").value
    assert value
    result = judged(reference, found, Precision.INT4, options=DistributionGate(mean_kl=value))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.stops
    assert "more tokens than 800 are needed" in result.reason


def test_few_tokens_are_inconclusive_and_the_needed_number_is_told(tmp_path: Path) -> None:
    logits = reference_logits(ROWS)
    reference = write_reference(tmp_path, SEQUENCES[:1], logits)
    result = judged(reference, measured(reference, logits))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "40 tokens are too few to tell; 256 are needed" in named(result, "mean_kl").told
    assert "368 are needed" in named(result, "p99_kl").told


def test_few_tokens_that_all_agree_prove_no_high_agreement(tmp_path: Path) -> None:
    rows = ROWS * 8
    logits = reference_logits(rows)
    reference = write_reference(tmp_path, SEQUENCES[:8], logits)
    result = judged(reference, measured(reference, logits), Precision.FLOAT32)
    assert named(result, "top1_agreement").verdict is Verdict.INCONCLUSIVE


def test_one_logit_that_is_no_number_fails(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, logits)
    found.nonfinite[7] = 1
    found.top_logprobs[7] = np.nan
    result = judged(reference, found)
    assert result.verdict is Verdict.FAIL
    assert result.reason == "1 of 800 predictions have logits that are NaN or infinite"


def test_an_engine_that_gives_only_nan_fails(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, np.full_like(logits, np.nan), nonfinite=np.full(len(logits), 100, np.int32))
    assert judged(reference, found).verdict is Verdict.FAIL


def test_a_token_that_the_engine_finds_impossible_fails_with_a_number(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, logits)
    found.top_logprobs[::2, 0] = -np.inf
    found.next_logprobs[::2] = -np.inf
    result = judged(reference, found)
    assert result.verdict is Verdict.FAIL
    assert "Infinity" not in result.model_dump_json()


def test_a_broken_engine_is_near_uniform_and_does_not_beat_chance(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    result = judged(reference, measured(reference, np.zeros_like(logits)))
    assert named(result, "chance").verdict is Verdict.FAIL
    assert "perplexity 100.0 on the texts" in named(result, "chance").told


def unknown(tmp_path: Path) -> tuple[Reference, Floats]:
    """A reference that does not know the texts."""
    logits = np.random.default_rng(3).normal(size=(ROWS * len(SEQUENCES), VOCABULARY)).astype(np.float32) * 4
    return write_reference(tmp_path, SEQUENCES, logits), logits


def test_texts_that_the_original_weights_do_not_know_fail_without_an_expectation(tmp_path: Path) -> None:
    reference, logits = unknown(tmp_path)
    result = judged(reference, measured(reference, logits))
    assert result.verdict is Verdict.FAIL
    assert "no better than chance" in result.reason
    assert "a tokenizer of another model" in result.reason
    assert "of 100 tokens" in result.reason


def test_such_texts_pass_when_an_answer_is_as_expected(tmp_path: Path) -> None:
    reference, logits = unknown(tmp_path)
    result = judged(reference, measured(reference, logits), met=True)
    assert result.verdict is Verdict.PASS, result.told
    assert all(measure.name != "perplexity_ratio" for measure in result.measures)


def test_such_texts_still_tell_a_broken_engine_from_a_good_one(tmp_path: Path) -> None:
    reference, logits = unknown(tmp_path)
    assert judged(reference, measured(reference, logits + noise(2)), met=True).verdict is Verdict.FAIL


def test_without_a_reference_the_gate_is_inconclusive_and_says_why() -> None:
    result = judged(None, None, why="the model is too large")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "the model is too large" in result.reason


def test_without_predictions_the_gate_is_inconclusive(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    found = measured(reference, logits, measured=np.zeros(len(logits), np.bool_))
    assert judged(reference, found).verdict is Verdict.INCONCLUSIVE


def only_tokens(reference: Reference, logits: Floats) -> Distribution:
    """What a runtime measures that only says which token it makes."""
    found = measured(reference, logits)
    return replace(
        found,
        top_logprobs=np.full_like(found.top_logprobs, np.nan),
        next_logprobs=np.full_like(found.next_logprobs, np.nan),
    )


def test_a_runtime_that_says_only_tokens_is_judged_by_them(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    assert judged(reference, only_tokens(reference, logits), why="no logits").verdict is Verdict.PASS
    bad = judged(reference, only_tokens(reference, logits[::-1]))
    assert bad.verdict is Verdict.FAIL
    assert "agreement on the most likely token" in bad.reason


def test_a_limit_that_such_a_runtime_cannot_measure_is_inconclusive(tmp_path: Path) -> None:
    logits = reference_logits()
    reference = write_reference(tmp_path, SEQUENCES, logits)
    options = DistributionGate(mean_kl=0.1)
    result = judged(reference, only_tokens(reference, logits), why="no logits", options=options)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "KL divergence was not measured: no logits" in result.reason


def test_answers_alone_are_compared_when_there_are_no_texts(tmp_path: Path) -> None:
    sequences = [answer(f"prompt {number}", answer_ids=range(6, 6 + ROWS)) for number in range(20)]
    logits = reference_logits()
    reference = write_reference(tmp_path, sequences, logits)
    assert judged(reference, measured(reference, logits), met=True).verdict is Verdict.PASS
    assert judged(reference, measured(reference, logits)).verdict is Verdict.INCONCLUSIVE


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    generator, blocks = np.random.default_rng(5), np.repeat(np.arange(40), 20)
    held = {"mean": 0, "p99": 0}
    for _ in range(40):
        values = generator.exponential(size=800)
        mean, p99 = mean_of(blocks, values), percentile_of(blocks, values)
        assert mean
        assert p99
        held["mean"] += mean.low <= 1.0 <= mean.high
        held["p99"] += p99.low <= -math.log(0.01) <= p99.high
    assert held["mean"] >= 34
    assert held["p99"] >= 32


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(0.9, 100)
    assert low == pytest.approx(0.8256, abs=1e-3)
    assert high == pytest.approx(0.9448, abs=1e-3)
