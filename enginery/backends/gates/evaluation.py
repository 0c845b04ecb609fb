"""The gate on evaluations: whether the scores are as good as they should be, decided by a hypothesis test.

A score is compared with the reference of the spec, and with the score of the channel's build: item by item if the
evaluator says the scores of its items. Too few samples to see the loss `theta` are inconclusive, unless the score is so
low that it fails anyway.
"""

import math
from collections.abc import Iterator, Sequence

from enginery.builds import (
    EvaluationResult,
    GateResult,
    Measure,
    Verdict,
    gate_result,
    paired,
    quantile,
    samples_needed,
    score_interval,
    share_interval,
    standard_error,
    worst,
)
from enginery.spec import Evaluation, EvaluationGate, GateName, Mode

LARGEST_SIGMA = 0.5
"""The standard deviation of what is either right or wrong; its intervals are those of shares."""


def judge_evaluation(
    results: Sequence[EvaluationResult],
    before: Sequence[EvaluationResult] | None,
    options: EvaluationGate,
    mode: Mode,
) -> GateResult:
    """The gate's result.

    Args:
        results: what the evaluations found.
        before: the same of the build on the channel; None if there is no such build, or it was not evaluated.
        options: the spec's `validation.gates.evaluation`.
        mode: what follows from a verdict other than pass.
    """
    found = {result.name: result for result in results}
    known = {result.name: result for result in before or ()}
    measures = [
        measure
        for evaluation in options.run
        for measure in _measures(evaluation, found.get(evaluation.name), known.get(evaluation.name))
    ]
    verdict = worst(measure.verdict for measure in measures)
    return gate_result(GateName.EVALUATION, mode, options.accept, measures, _remedy(verdict))


def _remedy(verdict: Verdict) -> str:
    if verdict is Verdict.PASS:
        return ""
    if verdict is Verdict.INCONCLUSIVE:
        return "evaluate with more samples, or accept a larger loss with theta"
    return "use a higher precision or another quantization, or accept it with validation.gates.evaluation.accept"


def _measures(
    evaluation: Evaluation, result: EvaluationResult | None, before: EvaluationResult | None
) -> Iterator[Measure]:
    if result is None:
        told = f"{evaluation.name} was not run"
        yield Measure(name=evaluation.name, value=None, verdict=Verdict.INCONCLUSIVE, told=told)
        return
    yield _against_reference(evaluation, result)
    if before is not None and before.digest == result.digest:
        yield _against_build(evaluation, result, before)


def _against_reference(evaluation: Evaluation, result: EvaluationResult) -> Measure:
    """The score beside the spec's reference, which is taken to have been measured with as many samples."""
    n, sigma = result.samples, evaluation.sigma
    if sigma == LARGEST_SIGMA:
        low, high = share_interval(result.score, n)
    else:
        low, high = score_interval(result.score, n, sigma)
    what = f"{evaluation.name}: score {result.score:.4f} ({low:.4f} to {high:.4f}) of {n} samples"
    figures = {"name": evaluation.name, "value": result.score, "low": low, "high": high, "at_least": True}
    if evaluation.reference is None:
        return Measure(**figures, verdict=Verdict.PASS, told=f"{what}, recorded only: the spec has no reference")
    limit = evaluation.reference - quantile(evaluation.alpha) * standard_error(sigma, n, n)
    needed = samples_needed(evaluation.theta, evaluation.alpha, evaluation.beta, sigma)
    told = f"{what}, at least {limit:.4f} for the reference {evaluation.reference:g}"
    return _decided(evaluation, figures, limit, told, n, needed, failed=result.score < limit)


def _against_build(evaluation: Evaluation, result: EvaluationResult, before: EvaluationResult) -> Measure:
    """The change from the score of the channel's build."""
    if result.items and result.items.keys() == before.items.keys():
        return _item_by_item(evaluation, result, before)
    error = standard_error(evaluation.sigma, result.samples, before.samples)
    change, limit = result.score - before.score, -quantile(evaluation.alpha) * error
    half = quantile(0.025) * error
    figures = {"name": f"{evaluation.name}_change", "value": change, "low": change - half, "high": change + half}
    told = f"{evaluation.name}: {before.score:.4f} before, {change:+.4f}, at least {limit:+.4f}"
    needed = samples_needed(evaluation.theta, evaluation.alpha, evaluation.beta, evaluation.sigma)
    # As many samples in each of two equal sets as would have this standard error.
    n = math.floor(2 * (evaluation.sigma / error) ** 2 + 1e-9)
    return _decided(evaluation, figures | {"at_least": True}, limit, told, n, needed, failed=change < limit)


def _item_by_item(evaluation: Evaluation, result: EvaluationResult, before: EvaluationResult) -> Measure:
    keys = list(result.items)
    found = paired([before.items[key] for key in keys], [result.items[key] for key in keys])
    low, high = found.interval
    limit = -quantile(evaluation.alpha) * found.sigma / math.sqrt(found.items)
    told = (
        f"{evaluation.name}: {found.change:+.4f} ({low:+.4f} to {high:+.4f}) on the same {found.items} items, of which "
        f"{found.worse} became worse and {found.better} better"
        f" (chance of this or worse between equal builds: {found.chance:.2g})"
    )
    figures = {"name": f"{evaluation.name}_change", "value": found.change, "low": low, "high": high, "at_least": True}
    needed = found.items_needed(evaluation.theta, evaluation.alpha, evaluation.beta)
    failed = found.chance < evaluation.alpha
    return _decided(evaluation, figures, limit, told, found.items, needed, failed=failed)


def _decided(  # noqa: PLR0913, PLR0917  a test has these parts
    evaluation: Evaluation,
    figures: dict[str, object],
    limit: float,
    told: str,
    samples: int,
    needed: int,
    *,
    failed: bool,
) -> Measure:
    """The measure with its verdict; too few samples to see a loss of `theta` are inconclusive."""
    verdict = Verdict.FAIL if failed else Verdict.PASS if samples >= needed else Verdict.INCONCLUSIVE
    if verdict is Verdict.INCONCLUSIVE:
        chances = f"alpha {evaluation.alpha:g}, beta {evaluation.beta:g}"
        told = f"{told}; {needed} samples are needed to see a loss of {evaluation.theta:g} ({chances})"
    return Measure.model_validate({**figures, "limit": limit, "verdict": verdict, "told": told})
