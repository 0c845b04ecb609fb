# ruff: noqa: F811  fixtures that are imported
"""The verdicts of a build's gates are in its manifest, its pages, and an in-toto statement, all of them signed."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2 as predicates
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from enginery.builds.gates import GateReport, Verdict
from enginery.builds.lineage import lineage_json
from enginery.builds.manifest import Manifest, read_manifest
from enginery.builds.provenance import provenance_statement
from enginery.builds.report import html_report
from enginery.builds.verdicts.attestation import ATTESTATION
from enginery.builds.verdicts.attestation import test_result_statement as attest
from enginery.cli.app import app
from enginery.core.errors import RegistryError, ValidationError
from enginery.registry import Registry, publish, pull, verify_build
from enginery.registry.resolving.compatibility import failures
from tests.builds.test_manifest import a_manifest
from tests.support.registry.builds import Build
from tests.support.registry.gates import a_measure, a_result, mixed_report
from tests.support.s3.fixtures import bucket, server  # noqa: F401


def with_gates(report: GateReport | None) -> Manifest:
    return a_manifest("model_repository/engine", "gates.json").model_copy(update={"gates": report})


def predicate(manifest: Manifest) -> Any:
    (line,) = attest(manifest).decode().splitlines()
    statement = json.loads(line)
    Statement.copy_from_pb(ParseDict(statement, statement_pb2.Statement())).validate()
    ParseDict(statement["predicate"], predicates.TestResult())
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    return statement["predicate"]


def test_each_gate_is_in_the_list_of_its_result() -> None:
    found = predicate(with_gates(mixed_report()))
    assert found["result"] == "WARNED"
    assert found["passedTests"] == ["distribution"]
    assert found["warnedTests"] == ["answers", "size", "speed"]
    assert found["failedTests"] == []


def test_all_gates_passed_or_one_stops_the_build() -> None:
    good = a_result("distribution", a_measure())
    bad = a_result("size", a_measure(verdict=Verdict.FAIL))
    unknown = a_result("speed", a_measure(verdict=Verdict.INCONCLUSIVE))
    assert predicate(with_gates(GateReport(results=(good,))))["result"] == "PASSED"
    assert predicate(with_gates(GateReport()))["result"] == "PASSED"
    failed = predicate(with_gates(GateReport(results=(good, bad, unknown))))
    assert (failed["result"], failed["failedTests"]) == ("FAILED", ["size", "speed"])


def test_the_configuration_has_limits_values_and_who_forced_a_pass() -> None:
    file, *gates = predicate(with_gates(mixed_report()))["configuration"]
    assert file == {"name": "gates.json", "digest": {"sha256": "0" * 64}}
    annotations = {gate["name"]: gate["annotations"] for gate in gates}
    assert annotations["answers"]["forced"] == {"by": "ada", "why": "a demo that may be wrong"}
    assert annotations["distribution"]["measures"]["mean_kl"] == {
        "value": 0.01,
        "unit": "nats",
        "limit": 0.25,
        "at_least": False,
        "verdict": "pass",
    }
    assert annotations["size"]["mode"] == "warn"


def test_an_engine_that_is_infinitely_far_away_can_be_attested_and_read_again() -> None:
    """JSON has no infinity."""
    endless = a_result("distribution", a_measure("mean_kl", float("inf"), Verdict.FAIL), mode="warn")
    manifest = with_gates(GateReport(results=(endless,)))
    (_, gate) = predicate(manifest)["configuration"]
    assert gate["annotations"]["measures"]["mean_kl"]["value"] == "inf"
    found = read_manifest(manifest.to_json()).gates
    assert found is not None
    assert found.results[0].measures[0].value is None


def test_the_subjects_are_those_of_the_provenance() -> None:
    manifest = with_gates(mixed_report())
    mine, provenance = (json.loads(made(manifest)) for made in (attest, provenance_statement))
    assert mine["subject"] == provenance["subject"]


def test_a_build_without_gates_has_no_statement() -> None:
    with pytest.raises(RegistryError, match="no gates were recorded"):
        attest(with_gates(None))


def test_a_manifest_keeps_its_gates_and_one_of_schema_2_has_none() -> None:
    manifest = with_gates(mixed_report())
    assert read_manifest(manifest.to_json()) == manifest
    plain = json.loads(a_manifest().to_json()) | {"schema_version": 2}
    del plain["gates"]
    old = read_manifest(json.dumps(plain).encode())
    assert (old.schema_version, old.gates) == (3, None)


def test_the_page_shows_verdicts_figures_and_forced_passes() -> None:
    page = html_report(with_gates(mixed_report()))
    for text in ("Gates", "inconclusive", "9.1 &lt;bits&gt;, at most 5", "accepted by ada: a demo that may be wrong"):
        assert text in page
    assert "Gates" not in html_report(with_gates(None))


def test_the_lineage_has_the_gates() -> None:
    assert lineage_json(with_gates(mixed_report()))["gates"]


def test_a_gate_that_stops_makes_a_build_unfit_and_an_accepted_or_warning_one_does_not() -> None:
    """Answers that are not as expected are judged by a gate too, so the report alone decides nothing."""
    unfit = with_gates(GateReport(results=(a_result("size", a_measure(verdict=Verdict.FAIL)),)))
    assert "size: fail" in failures(unfit)[0]
    report = a_manifest().validation.model_copy(update={"passed": False})
    wrong = with_gates(mixed_report()).model_copy(update={"validation": report})
    assert failures(wrong) == ()
    assert failures(wrong.model_copy(update={"gates": None}))


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/engines"


def test_gates_are_published_with_their_statement_and_can_be_pulled(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Build(gates=mixed_report(), passed=False).publish(address)
    registry = Registry(address)
    files = {file.path for file in manifest.files}
    assert {ATTESTATION, "gates.json", "reference/reference.json", "provenance.intoto.jsonl"} <= files
    assert manifest.gates is not None
    assert manifest.gates.results[:4] == mixed_report().results
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    assert prefix.get_bytes(ATTESTATION) == attest(manifest)
    assert verify_build(registry, manifest) == []
    pull(registry, manifest, tmp_path / "pulled")
    capsys.readouterr()
    app(["provenance", manifest.build_id, "--gates", "--registry", address], standalone_mode=False)
    assert capsys.readouterr().out.encode() == attest(manifest)
    app(["show", manifest.build_id, "--registry", address], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "inconclusive" in shown
    assert "accepted by ada" in shown
    app(["verify", str(tmp_path / "pulled")], standalone_mode=False)
    assert "warning: size: fail: 9.1 <bits>, at most 5" in capsys.readouterr().out
    prefix.put_bytes(ATTESTATION, b"{}")
    with pytest.raises(RegistryError, match="holds other bytes"):
        app(["provenance", manifest.build_id, "--gates", "--registry", address], standalone_mode=False)


def test_a_build_that_a_gate_stops_is_not_published(address: str, tmp_path: Path) -> None:
    report = GateReport(results=(a_result("size", a_measure(verdict=Verdict.INCONCLUSIVE)),))
    with pytest.raises(ValidationError, match="1 of 1 gates stop this build"):
        publish(Build(gates=report).context(tmp_path, address))
    assert not list(Registry(address).prefix.list())
