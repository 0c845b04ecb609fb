"""How long a measurement goes on: as long as it needs by hand, and a small part of the build within one."""

import pytest

from enginery.backends.bench.step import patience_of


@pytest.mark.parametrize(
    ("making", "after_two", "quiet", "over"),
    [
        (None, 59, True, False),
        (None, 61, True, True),
        (None, 61, False, False),
        (0, 3, True, False),
        (0, 5, True, True),
        (0, 5, False, False),
        (0, 9, False, True),
        (100, 14, True, False),
        (100, 16, True, True),
        (100, 16, False, False),
        (100, 31, False, True),
    ],
)
def test_further_starts_take_a_small_part_of_the_build(
    making: float | None, after_two: float, *, quiet: bool, over: bool
) -> None:
    assert patience_of(making).is_over(after_two, after_two, quiet=quiet) is over


def test_a_model_that_loads_for_minutes_is_started_twice_however_long_the_build_was() -> None:
    assert patience_of(10_000).is_over(61, 0, quiet=True)
    assert not patience_of(10_000).is_over(61, 0, quiet=False)
