"""The gates of a build: what was measured, the limits, and the verdicts.

A gate has one verdict. It has several measures, each with a limit and a verdict of its own; the worst of them is the
gate's. A verdict other than pass stops the build if the gate's mode is `block`, unless somebody accepted it.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from enginery.core.errors import StoreError, ValidationError
from enginery.core.model import Frozen

GATES_SCHEMA = 1
GATES_FILE = "gates.json"
OF_A_PROMPT = "agreement."
"""Begins the name of the measure of how far an answer agrees with the reference's; the prompt's number follows."""


class Verdict(StrEnum):
    """What a gate says of a build."""

    PASS = "pass"  # noqa: S105  a verdict, no secret
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """There is too little data to tell."""


class Measure(Frozen):
    """One figure with its limit.

    Attributes:
        name: such as `mean_kl`; the same in all builds, so that builds can be compared.
        value: the figure; None if it could not be measured.
        unit: such as `nats`, `ms`, `tokens/s`; empty for shares and counts.
        low: the lower end of its 95% confidence interval; None without one.
        high: the upper end.
        limit: the limit; None if the figure is only recorded.
        at_least: whether the value must be at least the limit; else at most.
        verdict: whether it is within its limit.
        told: a sentence for people that says what was found.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    at_least: bool = False
    verdict: Verdict
    told: str


class Forced(Frozen):
    """A forced pass: who accepted the verdict, and why."""

    by: str
    why: str


class GateResult(Frozen):
    """The result of one gate.

    Attributes:
        gate: its name, such as `distribution`.
        mode: `block`, `warn` or `off`.
        verdict: the worst verdict of its measures.
        measures: everything that was measured.
        reason: why the verdict is not pass; empty for pass.
        remedy: what to do about it.
        forced: who accepted it; None if nobody did.
    """

    gate: str
    mode: str
    verdict: Verdict
    measures: tuple[Measure, ...] = ()
    reason: str = ""
    remedy: str = ""
    forced: Forced | None = None

    @property
    def stops(self) -> bool:
        """Whether the build may not be published because of this gate."""
        return self.mode == "block" and self.verdict is not Verdict.PASS and self.forced is None

    @property
    def warns(self) -> bool:
        """Whether a build that goes on must show this verdict."""
        return self.mode != "off" and self.verdict is not Verdict.PASS and not self.stops

    @property
    def told(self) -> str:
        """The result in one line."""
        accepted = f" (accepted by {self.forced.by}: {self.forced.why})" if self.forced else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.gate}: {self.verdict}{why}{accepted}"


class GateReport(Frozen):
    """The results of all gates of a build.

    Attributes:
        results: in the order in which gates are shown; a gate that is off is not among them.
    """

    schema_version: int = GATES_SCHEMA
    results: tuple[GateResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the build may be published."""
        return not any(result.stops for result in self.results)

    @property
    def warnings(self) -> tuple[GateResult, ...]:
        """The gates that did not pass, and do not stop the build."""
        return tuple(result for result in self.results if result.warns)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all gates."""
        return worst(result.verdict for result in self.results)

    def find(self, gate: str) -> GateResult | None:
        """The result of this gate; None if it was off."""
        return next((result for result in self.results if result.gate == gate), None)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of these verdicts: fail, then inconclusive, then pass. Without any it is pass."""
    found = set(verdicts)
    return next((one for one in (Verdict.FAIL, Verdict.INCONCLUSIVE) if one in found), Verdict.PASS)


def require_gates_passed(report: GateReport, label: str) -> None:
    """Make sure that no gate stops the build.

    Args:
        report: the results of the gates.
        label: the step's name in the error.

    Raises:
        ValidationError: with the figures of each gate that stops it, and what to do.
    """
    stopping = [result for result in report.results if result.stops]
    if not stopping:
        return
    lines = "".join(f"\n{described_gate(result)}" for result in stopping)
    remedies = "; ".join(dict.fromkeys(result.remedy for result in stopping if result.remedy))
    raise ValidationError(
        f"{len(stopping)} of {len(report.results)} gates stop this build:{lines}",
        subject=label,
        remedy=f"{remedies}; nothing was published",
    )


def described_gate(result: GateResult) -> str:
    """A gate that did not pass, with the measures that explain it, one on each line.

    These are the measures that did not pass, and each answer that is not the reference's: it may be a near tie.
    """
    lines = [f"  {result.told}"]
    lines += [f"    {measure.told}" for measure in result.measures if _explains(measure)]
    return "\n".join(lines)


def _explains(measure: Measure) -> bool:
    differs = measure.name.startswith(OF_A_PROMPT) and measure.value != 1
    return differs or measure.verdict is not Verdict.PASS


def gate_rows(result: GateResult) -> list[dict[str, str]]:
    """The rows of a table about one gate: one for each measure, or one with the reason if nothing was measured."""
    about = {"gate": result.gate, "mode": result.mode}
    accepted = f"; accepted by {result.forced.by}: {result.forced.why}" if result.forced else ""
    if not result.measures:
        return [{**about, "measure": "", "verdict": str(result.verdict), "found": f"{result.reason}{accepted}"}]
    return [
        {**about, "measure": one.name, "verdict": str(one.verdict), "found": f"{one.told}{accepted}"}
        for one in result.measures
    ]


def read_gates(directory: Path) -> GateReport:
    """The report in the output of a gates step.

    Raises:
        StoreError: when there is no report, or it is not valid.
    """
    path = directory / GATES_FILE
    try:
        return GateReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove the step from the store and run the build again"
        raise StoreError(f"is not a report of gates: {error}", subject=str(path), remedy=remedy) from error
