# ruff: noqa: F811  fixtures that are imported
"""Every gate can be accepted, and whoever accepts it is named wherever the build is shown."""

from collections.abc import Callable, Mapping

import pytest

from enginery.backends.gates.answers import judge_answers
from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.gates.evaluation import judge_evaluation
from enginery.backends.gates.size import judge_size
from enginery.builds.gates import Forced, GateReport, GateResult, Verdict, gate_rows
from enginery.builds.report import html_report
from enginery.builds.validation import ValidationReport
from enginery.builds.verdicts.attestation import test_result_statement as attest
from enginery.builds.verdicts.channel import judge_channel
from enginery.builds.verdicts.evaluation import EvaluationResult
from enginery.builds.verdicts.speed import judge_speed
from enginery.cli.output import print_manifest
from enginery.models import Weights
from enginery.registry.resolving.compatibility import failures
from enginery.spec import Precision
from enginery.spec.validation import (
    AnswersGate,
    ChannelGate,
    DistributionGate,
    EvaluationGate,
    Gate,
    GateName,
    Mode,
    SizeGate,
    SpeedGate,
)
from tests.support.plans.watched import a_manifest
from tests.support.registry.builds import Build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.speeds import a_speed

WHO = {"by": "ada", "why": "a demo that may be wrong"}
RUN = {"name": "gsm8k", "command": ["true"], "result": "r.json", "score": "a", "samples": 2000, "reference": 0.9}
SMALL = Weights(embeddings=1_000_000, head=1_000_000, matrices=100_000_000)
OTHER = "cpu-int4-222222222222"


def scored(score: float) -> tuple[EvaluationResult, ...]:
    return (EvaluationResult(name="gsm8k", score=score, samples=2000, digest="d", source="r.json", seconds=1.0),)


def answers(options: AnswersGate, *, good: bool) -> GateResult:
    limit = options if good else options.model_copy(update={"agreement": 0.9})
    return judge_answers(ValidationReport(passed=True, driver_sha256=""), None, limit, Mode.BLOCK)


def evaluation(options: EvaluationGate, *, good: bool) -> GateResult:
    return judge_evaluation(scored(0.95 if good else 0.2), None, options, Mode.BLOCK)


def speed(options: SpeedGate, *, good: bool) -> GateResult:
    return judge_speed(a_speed(1.0 if good else 2.0), a_speed(), options, Mode.BLOCK)


def undecided_speed(options: SpeedGate, *, good: bool) -> GateResult:
    return judge_speed(a_speed().model_copy(update={"disturbed": not good}), a_speed(), options, Mode.BLOCK)


def channel(options: ChannelGate, *, good: bool) -> GateResult:
    return judge_channel(a_manifest(), a_manifest(OTHER, passed=good), options, Mode.BLOCK)


def size(options: SizeGate, *, good: bool) -> GateResult:
    return judge_size(60_000_000 if good else 900_000_000, SMALL, Precision.INT4, options, Mode.BLOCK, float_bits=16)


def distribution(options: DistributionGate, *, good: bool) -> GateResult:
    return judge_distribution(None, None, Precision.INT4, options, Mode.BLOCK)


GATES: Mapping[str, tuple[type[Gate], dict[str, object], Callable[..., GateResult]]] = {
    "answers": (AnswersGate, {}, answers),
    "evaluation": (EvaluationGate, {"run": [RUN]}, evaluation),
    "speed": (SpeedGate, {}, speed),
    "speed, undecided": (SpeedGate, {}, undecided_speed),
    "channel": (ChannelGate, {}, channel),
    "size": (SizeGate, {}, size),
    "distribution": (DistributionGate, {}, distribution),
}


def judged(name: str, *, good: bool = False, **more: object) -> GateResult:
    options, usual, judge = GATES[name]
    return judge(options.model_validate(usual | more), good=good)


def test_no_gate_is_left_out() -> None:
    assert {judged(name).gate for name in GATES} == {str(name) for name in GateName}


@pytest.mark.parametrize("name", list(GATES))
def test_without_an_acceptance_it_stops_the_build(name: str) -> None:
    result = judged(name)
    assert result.verdict is not Verdict.PASS
    assert result.stops
    assert result.forced is None


@pytest.mark.parametrize("name", list(GATES))
def test_accepted_it_stops_nothing_and_is_still_shown(name: str) -> None:
    result = judged(name, accept=WHO)
    assert result.verdict is judged(name).verdict
    assert result.forced == Forced.model_validate(WHO)
    assert not result.stops
    assert result.warns
    assert all("accepted by ada: a demo" in row["found"] for row in gate_rows(result))


@pytest.mark.parametrize("name", [name for name in GATES if name != "distribution"])
def test_a_pass_needs_no_acceptance_and_names_nobody(name: str) -> None:
    result = judged(name, good=True, accept=WHO)
    assert result.verdict is Verdict.PASS, result.told
    assert result.forced is None
    assert not result.warns


def test_who_accepted_is_in_the_manifest_the_attestation_and_the_pages(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = GateReport(results=tuple(judged(name, accept=WHO) for name in GATES if "," not in name))
    assert report.passed
    manifest = Build(gates=report, passed=False).publish(f"s3://{bucket}/engines")
    assert manifest.gates is not None
    own = [one for one in manifest.gates.results if one.forced]
    judged_now = {str(name) for name in GateName} - {"channel"}  # publishing compares with the channel itself
    assert {one.gate for one in own} == judged_now
    assert not failures(manifest)
    assert attest(manifest).decode().count('"forced":{"by":"ada"') == len(own)
    assert html_report(manifest).count("accepted by ada") == len(own)
    print_manifest(manifest)
    assert capsys.readouterr().out.count("accepted by ada") == len(own)
