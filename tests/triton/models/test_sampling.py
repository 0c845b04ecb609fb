"""Tests of how the next token is chosen."""

import numpy as np
import numpy.typing as npt
import pytest

from enginery.triton.models.sampling import Sampler, Sampling, log_probability

END = 7


def logits(*values: float) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def choose(sampling: Sampling, values: npt.NDArray[np.float32], answer: tuple[int, ...] = ()) -> int:
    return Sampler(sampling, [END]).choose(values, [1], answer)


def drawn(sampling: Sampling, values: npt.NDArray[np.float32], times: int = 400) -> set[int]:
    sampler = Sampler(sampling, [END])
    return {sampler.choose(values, [1], ()) for _ in range(times)}


@pytest.mark.parametrize(
    ("sampling", "greedy"),
    [
        (Sampling(), True),
        (Sampling(top_k=0, top_p=0.0), True),
        (Sampling(top_k=1, temperature=2.0, top_p=0.9), True),
        (Sampling(temperature=0.0, top_k=50), True),
        (Sampling(temperature=1.0), False),
        (Sampling(top_k=2), False),
        (Sampling(top_p=0.5), False),
    ],
)
def test_greedy_unless_sampling_is_asked_for(sampling: Sampling, *, greedy: bool) -> None:
    assert sampling.greedy is greedy


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert choose(Sampling(), logits(1, 3, 3, 2)) == 1


def test_the_models_logits_are_left_as_they_are() -> None:
    values = logits(1, 3, 3, 2, 0, 0, 0, 0)
    before = values.copy()
    choose(Sampling(repetition_penalty=2.0, bad_words=[[1]], min_tokens=3), values)
    assert (values == before).all()


def test_equal_seeds_draw_equal_tokens() -> None:
    values = logits(*range(50))
    one, two, other = (Sampler(Sampling(temperature=100.0, seed=seed), [END]) for seed in (5, 5, 6))
    draws = [[sampler.choose(values, [1], ()) for _ in range(20)] for sampler in (one, two, other)]
    assert draws[0] == draws[1] != draws[2]


def test_draws_follow_the_models_probabilities() -> None:
    values = logits(np.log(0.7), np.log(0.2), np.log(0.1))
    sampler = Sampler(Sampling(temperature=1.0, seed=1), [END])
    counts = np.bincount([sampler.choose(values, [1], ()) for _ in range(20_000)], minlength=3) / 20_000
    assert counts == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_temperature_sharpens_and_flattens() -> None:
    values = logits(np.log(0.7), np.log(0.2), np.log(0.1))
    cold = Sampler(Sampling(temperature=0.1, seed=1), [END])
    assert {cold.choose(values, [1], ()) for _ in range(500)} == {0}
    hot = Sampler(Sampling(temperature=1000.0, seed=1), [END])
    counts = np.bincount([hot.choose(values, [1], ()) for _ in range(20_000)], minlength=3) / 20_000
    assert counts == pytest.approx([1 / 3] * 3, abs=0.02)


def test_top_k_draws_from_the_k_likeliest() -> None:
    assert drawn(Sampling(top_k=2, temperature=1000.0, seed=3), logits(1, 9, 2, 8, 3)) == {1, 3}
    assert drawn(Sampling(top_k=99, temperature=1000.0, seed=3), logits(1, 2, 3)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0001, {0}), (0.69, {0}), (0.71, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2})]
)
def test_top_p_draws_from_the_smallest_set_that_is_likely_enough(top_p: float, kept: set[int]) -> None:
    values = logits(np.log(0.7), np.log(0.2), np.log(0.1))
    assert drawn(Sampling(top_p=top_p, seed=3), values, 2000) == kept


def test_top_p_applies_to_what_top_k_leaves() -> None:
    values = logits(np.log(0.4), np.log(0.3), np.log(0.2), np.log(0.1))
    assert drawn(Sampling(top_k=2, top_p=0.55, seed=3), values, 2000) == {0}
    assert drawn(Sampling(top_k=2, top_p=0.6, seed=3), values, 2000) == {0, 1}


@pytest.mark.parametrize(
    "sampling",
    [Sampling(repetition_penalty=2.0), Sampling(presence_penalty=1.5), Sampling(frequency_penalty=0.8)],
)
def test_penalties_make_what_was_there_less_likely(sampling: Sampling) -> None:
    values = logits(0, 2.0, 1.5)
    assert choose(sampling, values, answer=(1,)) == 2


def test_a_repetition_penalty_lowers_negative_logits_too() -> None:
    assert choose(Sampling(repetition_penalty=3.0), logits(-9, -1.0, -2.0)) == 2


def test_frequency_counts_and_presence_does_not() -> None:
    values = logits(0, 4.0, 1.5)
    assert choose(Sampling(frequency_penalty=1.0), values, answer=(1, 1)) == 2
    assert choose(Sampling(presence_penalty=1.0), values, answer=(1, 1)) == 1


def test_the_answer_does_not_end_before_its_least_length() -> None:
    values = logits(0, 1, 0, 0, 0, 0, 0, 9)
    assert choose(Sampling(min_tokens=2), values, answer=(1,)) == 1
    assert choose(Sampling(min_tokens=2), values, answer=(1, 1)) == END


def test_an_end_token_outside_the_vocabulary_is_no_harm() -> None:
    assert Sampler(Sampling(min_tokens=5), [99, -1]).choose(logits(0, 1, 2), [1], ()) == 2


@pytest.mark.parametrize(
    ("bad", "answer", "chosen"),
    [
        ([[3]], (), 2),
        ([[5, 3]], (5,), 2),
        ([[5, 3]], (4,), 3),
        ([[4, 5, 3]], (4, 5), 2),
        ([[4, 5, 3]], (5,), 3),
        ([[1, 5, 3]], (5,), 2),  # the sequence begins in the prompt
        ([[3], [2]], (), 1),
    ],
)
def test_the_last_token_of_a_bad_word_is_never_chosen(
    bad: list[list[int]], answer: tuple[int, ...], chosen: int
) -> None:
    assert choose(Sampling(bad_words=bad), logits(0, 1, 2, 3, 0, 0), answer) == chosen


def test_a_bad_word_is_not_drawn_either() -> None:
    assert drawn(Sampling(temperature=1000.0, seed=2, bad_words=[[0]]), logits(5, 1, 1)) == {1, 2}


def test_log_probabilities_of_all_tokens_sum_to_one() -> None:
    values = logits(1000.0, 999.0, 0.0)
    total = sum(np.exp(log_probability(values, token)) for token in range(3))
    assert total == pytest.approx(1.0)
    assert log_probability(values, 0) == pytest.approx(-np.log(1 + np.exp(-1)))
