"""Hypothesis tests on scores: how many samples are needed, and whether a score is too low.

It is the one-sided test of TensorRT-LLM's accuracy suite (tests/integration/defs/accuracy/accuracy_core.py). Both the
score and the reference are means of n samples with the standard deviation sigma, so their difference has the standard
error sqrt(2 sigma² / n). With the chance alpha a good build is refused, and with the chance beta a build that is worse
by theta is accepted. Scores are from 0 to 1 here, and from 0 to 100 there.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

NORMAL = NormalDist()
TWO_SIDED = 0.975
"""The quantile for a 95% confidence interval."""
LARGEST_EXACT = 1000
"""Up to this many items that differ, the exact binomial test is computed; beyond, its normal approximation."""


def quantile(chance: float) -> float:
    """The value that a standard normal variable exceeds with this chance."""
    return NORMAL.inv_cdf(1 - chance)


def standard_error(sigma: float, samples: int, others: int) -> float:
    """The standard error of the difference between two scores, each a mean of this number of samples."""
    return sigma * math.sqrt(1 / samples + 1 / others)


def samples_needed(theta: float, alpha: float, beta: float, sigma: float) -> int:
    """The number of samples that shows a loss of `theta` with these chances to be wrong."""
    return math.ceil(2 * (sigma * (quantile(alpha) + quantile(beta)) / theta) ** 2)


def share_interval(share: float, samples: int) -> tuple[float, float]:
    """The 95% confidence interval of a share of this number of samples (Wilson)."""
    z = NORMAL.inv_cdf(TWO_SIDED)
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + (z / (2 * samples)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def score_interval(score: float, samples: int, sigma: float) -> tuple[float, float]:
    """The 95% confidence interval of the mean of this number of samples."""
    half = NORMAL.inv_cdf(TWO_SIDED) * sigma / math.sqrt(samples)
    return max(0.0, score - half), min(1.0, score + half)


class Paired(NamedTuple):
    """The same items, scored for two builds.

    Attributes:
        items: how many.
        change: the mean difference, below zero if the second build is worse.
        sigma: the standard deviation of the difference of one item.
        worse: how many items have a lower score.
        better: how many have a higher one.
        chance: the chance of a loss as large as this, or larger, if no build is better than the other.
    """

    items: int
    change: float
    sigma: float
    worse: int
    better: int
    chance: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the change."""
        half = NORMAL.inv_cdf(TWO_SIDED) * self.sigma / math.sqrt(self.items)
        return self.change - half, self.change + half

    def items_needed(self, theta: float, alpha: float, beta: float) -> int:
        """The number of items that shows a loss of `theta` with these chances to be wrong."""
        return math.ceil((self.sigma * (quantile(alpha) + quantile(beta)) / theta) ** 2)


def paired(before: Sequence[float], after: Sequence[float]) -> Paired:
    """Compare the scores of the same items, in the same order; there must be at least one.

    Items that are either right or wrong are compared by McNemar's exact test, others by a paired z test. The standard
    deviation counts one more item that became better, and one that became worse. Otherwise a few items without any
    difference would seem to prove that there is none.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    change = fmean(differences)
    adjusted = [*differences, 1.0, -1.0]
    sigma = math.sqrt(fmean(one * one for one in adjusted) - fmean(adjusted) ** 2)
    worse, better = sum(one < 0 for one in differences), sum(one > 0 for one in differences)
    if {*before, *after} <= {0.0, 1.0}:
        chance = _sign_test(worse, worse + better)
    else:
        chance = NORMAL.cdf(change / (sigma / math.sqrt(len(differences))))
    return Paired(len(differences), change, sigma, worse, better, chance)


def _sign_test(worse: int, different: int) -> float:
    """The chance that a fair coin shows at least `worse` heads in `different` throws."""
    if different > LARGEST_EXACT:
        return 1 - NORMAL.cdf((worse - 0.5 - different / 2) / (math.sqrt(different) / 2))
    ways = sum(math.comb(different, heads) for heads in range(worse, different + 1))
    return ways / (1 << different)
