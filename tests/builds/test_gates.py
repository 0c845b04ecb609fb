"""The verdicts of gates: which one stops a build, and what its error says."""

from pathlib import Path

import pytest

from enginery.builds.gates import (
    Forced,
    GateReport,
    GateResult,
    Measure,
    Verdict,
    described_gate,
    gate_rows,
    read_gates,
    require_gates_passed,
    worst,
)
from enginery.core.errors import StoreError, ValidationError

MEASURE = Measure(name="mean_kl", value=0.43, limit=0.25, verdict=Verdict.FAIL, told="mean KL 0.43 nats, at most 0.25")
GOOD = Measure(name="p99_kl", value=1.0, limit=1.6, verdict=Verdict.PASS, told="p99 1.0 nats, at most 1.6")
TIE = Measure(name="agreement.1", value=0.1, verdict=Verdict.PASS, told="prompt 1: a near tie of 0.08 nats")
SAME = Measure(name="agreement.2", value=1.0, verdict=Verdict.PASS, told="prompt 2: all tokens are the same")


def result(verdict: Verdict = Verdict.FAIL, mode: str = "block", forced: Forced | None = None) -> GateResult:
    measures = (MEASURE, GOOD, TIE, SAME)
    return GateResult(
        gate="answers", mode=mode, verdict=verdict, measures=measures, reason="too far", remedy="mend it", forced=forced
    )


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_a_gate_that_blocks_stops_the_build_unless_it_passes(verdict: Verdict) -> None:
    report = GateReport(results=(result(verdict), result(Verdict.PASS)))
    assert not report.passed
    with pytest.raises(ValidationError, match="gates cpu: 1 of 2 gates stop this build:") as caught:
        require_gates_passed(report, "gates cpu")
    assert "mend it; nothing was published" in str(caught.value)


def test_the_error_shows_what_failed_and_how_near_the_tie_of_another_answer_was() -> None:
    told = described_gate(result())
    assert MEASURE.told in told
    assert TIE.told in told
    assert GOOD.told not in told
    assert SAME.told not in told


def test_a_gate_that_warns_lets_the_build_go_on_and_is_shown() -> None:
    report = GateReport(results=(result(mode="warn"),))
    require_gates_passed(report, "gates cpu")
    assert report.warnings == report.results
    assert report.verdict is Verdict.FAIL


def test_an_accepted_verdict_stops_nothing_and_names_who_and_why() -> None:
    accepted = result(forced=Forced(by="ann", why="a demonstration"))
    require_gates_passed(GateReport(results=(accepted,)), "gates cpu")
    assert accepted.told == "answers: fail: too far (accepted by ann: a demonstration)"
    assert all("accepted by ann" in row["found"] for row in gate_rows(accepted))


def test_the_worst_verdict_of_all_counts() -> None:
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert worst([]) is Verdict.PASS


def test_a_damaged_report_of_gates_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gates\.json"):
        read_gates(tmp_path)
