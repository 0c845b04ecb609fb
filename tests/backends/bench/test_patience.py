"""How long a measurement of speed may take: within a build, a small part of what the build took."""

import pytest

from enginery.backends.bench.step import FEWEST_SECONDS, LONGEST_SECONDS, PATIENCE_SECONDS, Patience, patience_of


def test_a_measurement_by_hand_takes_what_it_needs() -> None:
    assert patience_of(0) == Patience(PATIENCE_SECONDS, LONGEST_SECONDS)


@pytest.mark.parametrize(
    ("making", "seconds", "quiet", "over"),
    [
        (100, 14, True, False),
        (100, 16, True, True),
        (100, 16, False, False),
        (100, 31, False, True),
        (1, FEWEST_SECONDS - 0.1, True, False),
        (1, FEWEST_SECONDS + 0.1, True, True),
        (10_000, PATIENCE_SECONDS + 1, True, True),
        (10_000, PATIENCE_SECONDS + 1, False, False),
        (10_000, LONGEST_SECONDS + 1, False, True),
    ],
)
def test_within_a_build_a_measurement_takes_a_part_of_what_the_build_took(
    making: float, seconds: float, quiet: object, over: object
) -> None:
    assert patience_of(making).is_over(seconds, quiet=bool(quiet)) is over


def test_starts_are_as_short_as_the_whole_measurement() -> None:
    assert patience_of(5).each < 0.5
    assert patience_of(10_000).each == Patience().each
