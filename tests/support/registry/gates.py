"""Results of gates, for tests of what shows, publishes and compares them."""

from typing import Any

from enginery.builds.gates import Forced, GateReport, GateResult, Measure, Verdict, worst


def a_measure(name: str = "mean_kl", value: float = 0.01, verdict: Verdict = Verdict.PASS, **more: Any) -> Measure:
    """A measure with these figures."""
    usual = {"unit": "nats", "limit": 0.25, "told": f"{name} {value:g}, at most 0.25"}
    return Measure(name=name, value=value, verdict=verdict, **(usual | more))


def a_result(gate: str, *measures: Measure, mode: str = "block", forced: Forced | None = None) -> GateResult:
    """The result of a gate with these measures."""
    verdict = worst(one.verdict for one in measures)
    reason = "; ".join(one.told for one in measures if one.verdict is verdict is not Verdict.PASS)
    return GateResult(gate=gate, mode=mode, verdict=verdict, measures=measures, reason=reason, forced=forced)


def mixed_report() -> GateReport:
    """A gate that passed, two that only warn, and a forced one."""
    failed = a_measure("bits_per_parameter", 9.1, Verdict.FAIL, unit="", limit=5.0, told="9.1 <bits>, at most 5")
    unknown = a_measure("first_ms_1", 3.0, Verdict.INCONCLUSIVE, unit="ms", told="too few starts")
    wrong = a_measure(
        "agreement", 0.2, Verdict.FAIL, unit="", limit=0.5, at_least=True, told="agreement 0.2, at least 0.5"
    )
    return GateReport(
        results=(
            a_result("distribution", a_measure()),
            a_result("answers", wrong, forced=Forced(by="ada", why="a demo that may be wrong")),
            a_result("size", failed, mode="warn"),
            a_result("speed", unknown, mode="warn"),
        )
    )
