"""The gate `distribution`: how far the engine's predictions are from the reference's, token by token.

The KL divergence is taken over the reference's 64 most likely tokens and one bucket for all others. Merging tokens can
only make a divergence smaller, so this is a lower bound; with SmolLM2 it was 0.91 of the whole one for each precision.

Intervals come from a bootstrap over blocks of neighbouring tokens, as the errors of neighbours are correlated. A share
also has the interval of Wilson, so that a few tokens that all agree prove little.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from enginery.backends.gates.limits import Limits, limits_for
from enginery.builds import Distribution, Estimate, GateResult, Measure, Reference, Verdict, gate_result, verdict_of
from enginery.spec import DistributionGate, GateName, Mode, Precision

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BLOCK = 32
"""Tokens of one block."""
RESAMPLES = 1000
SEED = 12
PERCENTILE = 0.99
FEWEST_BLOCKS = 8
"""With fewer blocks a bootstrap says nothing."""
FEWEST_FOR_PERCENTILE = 368
"""With so many values the largest is beyond the 99th percentile with 97.5% certainty."""
HUGE = 1e30
"""Stands for an infinite divergence: a token that the engine finds impossible."""
LARGEST_LOSS = 60.0
"""Of one token, in nats; so that the perplexity remains a number."""
SMALLEST = 1e-9
"""The smallest probability of the bucket: log-probabilities are kept in float32."""
CHANCE = 0.5
"""A model that is as unsure as between half of the vocabulary does not know a text."""
Z = 1.96
REMEDY = (
    "build with a higher precision or another algorithm (docs/trust.md), or look at the checkpoint; to publish it as it"
    " is, set validation.gates.distribution.accept"
)
UNKNOWN_TEXTS = (
    "a tokenizer of another model, damaged weights, or texts the model was not made for; name texts it knows in"
    " validation.reference.texts, or give a prompt with an expectation"
)


def judge_distribution(  # noqa: PLR0913  all of it is data to judge
    reference: Reference | None,
    measured: Distribution | None,
    precision: Precision,
    options: DistributionGate,
    mode: Mode,
    *,
    met: bool = False,
    why: str = "",
) -> GateResult:
    """Judge the predictions of an engine.

    Args:
        reference: what the original weights predict; None without a reference.
        measured: what the engine predicts; None if its runtime measured nothing.
        precision: the engine's precision, for the default limits.
        options: the spec's limits.
        mode: what follows from the verdict.
        met: whether an answer of the engine is as the spec expects.
        why: why nothing was measured, or not all.
    """
    if reference is None or measured is None or not measured.measured.any():
        told = f"the engine's predictions were not compared: {why or 'there is no reference'}"
        measures = (Measure(name="mean_kl", value=None, unit="nats", verdict=Verdict.INCONCLUSIVE, told=told),)
        return gate_result(GateName.DISTRIBUTION, mode, options.accept, measures, "set validation.reference")
    rows = Rows(reference, measured)
    limits = limits_for(precision, options)
    compared = [*_divergence(rows, limits, options, why), _top1(rows, limits), *_perplexity(rows, limits, met=met)]
    return gate_result(GateName.DISTRIBUTION, mode, options.accept, [*compared, _nonfinite(rows)], REMEDY)


@dataclass(frozen=True)
class Rows:
    """The rows of a reference beside those of an engine. Arrays have only the rows that were measured."""

    reference: Reference
    measured: Distribution

    @cached_property
    def taken(self) -> Flags:
        """Which rows can be compared: measured, and without NaN."""
        taken: Flags = self.measured.measured & (self.measured.nonfinite == 0)
        return taken

    @cached_property
    def is_text(self) -> Flags:
        """Which of all rows are of texts, not of answers."""
        flags = [np.full(sequence.rows, sequence.kind == "text") for sequence in self.reference.sequences]
        return np.concatenate([np.empty(0, np.bool_), *flags])

    @cached_property
    def blocks(self) -> npt.NDArray[np.int64]:
        """The number of each row's block. A block is within one sequence."""
        numbers, start = [], 0
        for sequence in self.reference.sequences:
            inside = np.arange(sequence.rows) // BLOCK
            numbers.append(inside + start)
            start += int(inside[-1]) + 1
        return np.concatenate([np.empty(0, np.int64), *numbers])

    @cached_property
    def kl(self) -> Floats:
        """The divergence of each row that gives one, else NaN."""
        return divergences(self.reference.logprobs.top_logprobs, self.measured.top_logprobs)

    @cached_property
    def with_kl(self) -> Flags:
        """Which rows have a divergence."""
        return self.taken & ~np.isnan(self.kl)

    @cached_property
    def loss(self) -> Floats:
        """How much less likely the engine finds each next token, in nats."""
        theirs = self.reference.logprobs.next_logprobs.astype(np.float64)
        return theirs - self.measured.next_logprobs.astype(np.float64)

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.reference.facts.vocab_size


def divergences(reference: npt.NDArray[np.float32], engine: npt.NDArray[np.float32]) -> Floats:
    """KL divergence of each row, over the given tokens and one bucket for the rest.

    A token whose probability the engine does not say counts with the rest; a row that says none has NaN.
    """
    known = ~np.isnan(engine)
    theirs = np.where(known, reference.astype(np.float64), -np.inf)
    ours = np.where(known, engine.astype(np.float64), -np.inf)
    p, q = np.exp(theirs), np.exp(ours)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(p > 0, p * (theirs - ours), 0.0).sum(axis=1)
        rest_p, rest_q = np.maximum(1 - p.sum(axis=1), SMALLEST), np.maximum(1 - q.sum(axis=1), SMALLEST)
        # Rounding can bring a divergence of nothing below zero.
        total = np.maximum(each + rest_p * np.log(rest_p / rest_q), 0.0)
    return np.where(known.any(axis=1), total, np.nan)


def mean_of(blocks: npt.NDArray[np.int64], values: Floats) -> Estimate | None:
    """The mean of values with its interval, from samples of whole blocks; None with too few blocks."""
    names, places = np.unique(blocks, return_inverse=True)
    if len(names) < FEWEST_BLOCKS:
        return None
    sums, counts = np.bincount(places, np.minimum(values, HUGE)), np.bincount(places)
    draws = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return _with_interval(float(values.mean()), draws @ sums / (draws @ counts))


def percentile_of(blocks: npt.NDArray[np.int64], values: Floats) -> Estimate | None:
    """The 99th percentile with its interval, in the same way; None with too few values."""
    names, places = np.unique(blocks, return_inverse=True)
    if len(names) < FEWEST_BLOCKS or len(values) < FEWEST_FOR_PERCENTILE:
        return None
    order = np.argsort(values)
    ordered, places = np.minimum(values[order], HUGE), places[order]
    draws = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    found = [ordered[_place_of_p99(draw[places])] for draw in draws]
    return _with_interval(_p99(values), np.array(found))


def _place_of_p99(times: npt.NDArray[np.int64]) -> int:
    """The first place at which more than 99% of all values are passed, if each is there so many times."""
    passed = np.cumsum(times)
    return min(int(np.searchsorted(passed, PERCENTILE * passed[-1], side="right")), len(times) - 1)


def _with_interval(value: float, found: Floats) -> Estimate:
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value))


def wilson(share: float, number: int) -> tuple[float, float]:
    """The 95% interval of a share of so many independent trials."""
    middle = (share + Z**2 / (2 * number)) / (1 + Z**2 / number)
    half = Z * math.sqrt(share * (1 - share) / number + Z**2 / (4 * number**2)) / (1 + Z**2 / number)
    return middle - half, middle + half


def _divergence(rows: Rows, limits: Limits, options: DistributionGate, why: str) -> Iterator[Measure]:
    """Mean and 99th percentile of the divergence."""
    chosen = rows.with_kl
    kl, blocks = rows.kl[chosen], rows.blocks[chosen]
    if not len(kl):
        # A runtime that says only its most likely token is judged by that, unless the spec sets a limit for more.
        tokens_only = bool((rows.taken & (rows.measured.argmax >= 0)).any())
        excused = tokens_only and options.mean_kl is None and options.p99_kl is None
        told = f"KL divergence was not measured: {why or 'no logit is a number'}"
        verdict = Verdict.PASS if excused else Verdict.INCONCLUSIVE
        yield Measure(name="mean_kl", value=None, unit="nats", verdict=verdict, told=told)
        return
    mean = mean_of(blocks, kl)
    yield _judged("mean_kl", "mean KL divergence", float(kl.mean()), mean, limits.mean_kl, rows, unit="nats")
    p99 = percentile_of(blocks, kl)
    yield _judged("p99_kl", "99th percentile of the KL divergence", _p99(kl), p99, limits.p99_kl, rows, unit="nats")


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 100 * PERCENTILE, method="higher"))


def _top1(rows: Rows, limits: Limits) -> Measure:
    chosen = rows.taken & (rows.measured.argmax >= 0)
    same = (rows.measured.argmax == rows.reference.logprobs.top_ids[:, 0])[chosen].astype(np.float64)
    limit, number = limits.top1_agreement, len(same)
    if not number:
        told = "agreement on the most likely token was not measured"
        return Measure(name="top1_agreement", value=None, verdict=Verdict.INCONCLUSIVE, told=told)
    share = float(same.mean())
    found = mean_of(rows.blocks[chosen], same)
    low, high = wilson(share, number)
    found = found and Estimate(share, min(low, found.low), max(high, found.high))
    return _judged("top1_agreement", "agreement on the most likely token", share, found, limit, rows, at_least=True)


def _perplexity(rows: Rows, limits: Limits, *, met: bool) -> Iterator[Measure]:
    """The ratio of the perplexities, and whether engine and reference do better than chance.

    The ratio is of no use on texts that the reference does not know: a broken engine may even be better there.
    """
    texts, vocabulary = rows.is_text, rows.vocabulary
    theirs = rows.reference.logprobs.next_logprobs.astype(np.float64)
    perplexity = float(np.exp(-theirs[texts].mean())) if texts.any() else math.nan
    unknown = not perplexity < CHANCE * vocabulary
    chosen = rows.taken & ~np.isnan(rows.loss) & (~texts if unknown else np.True_)
    if unknown:
        yield _unknown(rows, perplexity, met=met)
    elif (chosen & texts).any():
        yield _beats_chance(rows, chosen & texts, perplexity)
    if chosen.any():
        loss = rows.loss[chosen]
        mean = mean_of(rows.blocks[chosen], np.minimum(loss, LARGEST_LOSS))
        found = mean and Estimate(*np.exp(mean).tolist())
        ratio, what = (
            float(np.exp(min(loss.mean(), LARGEST_LOSS))),
            "the engine's perplexity in relation to the reference's",
        )
        what += " on the answers" if unknown else ""
        limit = None if unknown and found is None else limits.perplexity_ratio
        yield _judged("perplexity_ratio", what, ratio, found, limit, rows)


def _beats_chance(rows: Rows, chosen: Flags, perplexity: float) -> Measure:
    """The engine's perplexity beside that of a model that knows nothing."""
    ours = rows.measured.next_logprobs.astype(np.float64)[chosen]
    limit = CHANCE * rows.vocabulary
    if not len(ours):
        return Measure(
            name="chance", value=None, limit=limit, verdict=Verdict.INCONCLUSIVE, told="no text was measured"
        )
    found = float(np.exp(min(-ours.mean(), LARGEST_LOSS)))
    told = (
        f"perplexity {found:,.1f} on the texts, the reference's {perplexity:,.1f}, at most {limit:,.0f}: half of"
        f" {rows.vocabulary:,} tokens is near chance"
    )
    verdict = Verdict.PASS if found <= limit else Verdict.FAIL
    return Measure(name="chance", value=found, limit=limit, verdict=verdict, told=told)


def _unknown(rows: Rows, perplexity: float, *, met: bool) -> Measure:
    """What follows from texts that the reference itself does not know."""
    if math.isnan(perplexity):
        verdict = Verdict.PASS if met else Verdict.INCONCLUSIVE
        return Measure(name="chance", value=None, verdict=verdict, told="the reference has no text, only answers")
    told = (
        f"the original weights themselves predict these texts no better than chance (perplexity {perplexity:,.0f} of"
        f" {rows.vocabulary:,} tokens)"
    )
    told += ", but an answer is as the spec expects, so they make sense" if met else f": {UNKNOWN_TEXTS}"
    return Measure(name="chance", value=perplexity, verdict=Verdict.PASS if met else Verdict.FAIL, told=told)


def _nonfinite(rows: Rows) -> Measure:
    """NaN and infinite logits: one is too many."""
    bad = rows.measured.nonfinite[rows.measured.measured]
    count, number = int((bad > 0).sum()), len(bad)
    told = (
        f"{count:,} of {number:,} predictions have logits that are NaN or infinite"
        if count
        else "all logits are numbers"
    )
    verdict = Verdict.FAIL if count else Verdict.PASS
    return Measure(name="nonfinite", value=float(count), limit=0.0, verdict=verdict, told=told)


def _judged(  # noqa: PLR0913, PLR0917  a measure has these parts
    name: str,
    what: str,
    value: float,
    figure: Estimate | None,
    limit: float | None,
    rows: Rows,
    *,
    unit: str = "",
    at_least: bool = False,
) -> Measure:
    """A measure with its interval and limit. Without an interval there are too few rows to tell."""
    direction = "at least" if at_least else "at most"
    bounded = f", {direction} {limit:g}" if limit is not None else " (recorded only)"
    shown = f"{value:.4g} {unit}".strip()
    if figure is None:
        needed = max(FEWEST_BLOCKS * BLOCK, FEWEST_FOR_PERCENTILE if name == "p99_kl" else 0)
        told = f"{what} {shown}{bounded}: {int(rows.taken.sum())} tokens are too few to tell; {needed} are needed"
        verdict = Verdict.PASS if limit is None else Verdict.INCONCLUSIVE
        value_given = value if math.isfinite(value) else None
        return Measure(
            name=name, value=value_given, unit=unit, limit=limit, at_least=at_least, verdict=verdict, told=told
        )
    verdict = verdict_of(figure, limit, at_least=at_least) if limit is not None else Verdict.PASS
    told = f"{what} {shown} ({figure.low:.4g} to {figure.high:.4g}){bounded}"
    if verdict is Verdict.INCONCLUSIVE:
        told += f"; more tokens than {int(rows.taken.sum())} are needed to tell (validation.reference.max_tokens)"
    low, value_given, high = (_finite(number) for number in (figure.low, figure.value, figure.high))
    return Measure(
        name=name,
        value=value_given,
        unit=unit,
        low=low,
        high=high,
        limit=limit,
        at_least=at_least,
        verdict=verdict,
        told=told,
    )


def _finite(number: float) -> float | None:
    """The number; None if it is infinite, which JSON cannot say."""
    return number if math.isfinite(number) else None
