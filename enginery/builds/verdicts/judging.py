"""What all gates do in the same way: compare a figure with its limit, and make a result of the measures."""

from collections.abc import Sequence
from typing import NamedTuple

from enginery.builds.gates import Forced, GateResult, Measure, Verdict, worst
from enginery.spec import Accepted, GateName, Mode


class Estimate(NamedTuple):
    """A figure with its 95% confidence interval. Both ends of an exact figure are the figure."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Estimate":
        """A figure without sampling error."""
        return cls(value, value, value)

    @property
    def is_exact(self) -> bool:
        """Whether it has no interval."""
        return self.low == self.value == self.high


def gate_result(  # noqa: PLR0913  what a result is made of
    gate: GateName,
    mode: Mode,
    accept: Accepted | None,
    measures: Sequence[Measure],
    remedy: str = "",
    *,
    verdict: Verdict | None = None,
    reason: str | None = None,
) -> GateResult:
    """The result of a gate. Each gate makes its result here, so that each can be accepted.

    Args:
        gate: its name.
        mode: what follows from a verdict other than pass.
        accept: the spec's forced pass; None without one.
        measures: everything that was measured.
        remedy: what to do if it is not a pass.
        verdict: by default the worst of the measures.
        reason: why it is not a pass, or a word on a pass; by default the measures with that verdict.
    """
    verdict = worst(measure.verdict for measure in measures) if verdict is None else verdict
    passed = verdict is Verdict.PASS
    if reason is None:
        reason = "; ".join(measure.told for measure in measures if measure.verdict is verdict and not passed)
    return GateResult(
        gate=str(gate),
        mode=str(mode),
        verdict=verdict,
        measures=tuple(measures),
        reason=reason,
        remedy="" if passed else remedy,
        forced=Forced(by=accept.by, why=accept.why) if accept and not passed else None,
    )


def verdict_of(figure: Estimate, limit: float, *, at_least: bool = False) -> Verdict:
    """Pass if the whole interval is within the limit, fail if all of it is beyond, else inconclusive."""
    low, high = (-figure.high, -figure.low) if at_least else (figure.low, figure.high)
    limit = -limit if at_least else limit
    if high <= limit:
        return Verdict.PASS
    return Verdict.FAIL if low > limit else Verdict.INCONCLUSIVE
