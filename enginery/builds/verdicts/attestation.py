"""The verdicts of a build's gates for other tools: an in-toto statement with the predicate `test-result`.

docs/provenance.md explains each field. A gate is a test. It passed, or it failed and stops the build. Everything
else is a warning. Forced passes are warnings, with who accepted them and why.
"""

import math
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.builds.gates import GATES_FILE, GateReport, GateResult, Measure, Verdict
from enginery.builds.manifest import Manifest
from enginery.builds.provenance import Plain, make_statement
from enginery.core.errors import RegistryError
from enginery.core.late import late

if TYPE_CHECKING:
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
else:
    test_result_pb2 = late("in_toto_attestation.predicates.test_result.v0.test_result_pb2")

ATTESTATION = "gates.intoto.jsonl"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"


def test_result_statement(manifest: Manifest) -> bytes:
    """The statement on the gates of a build, as one line of canonical JSON.

    Raises:
        RegistryError: when the build has no gates, or no valid statement can be made from the manifest.
    """
    if manifest.gates is None:
        remedy = "publish a build of a newer Enginery"
        raise RegistryError("no gates were recorded for this build", subject=manifest.reference, remedy=remedy)
    report = manifest.gates
    predicate: Plain = {
        "result": _result(report),
        "configuration": [*_report_file(manifest), *(_gate(one) for one in report.results)],
        "passedTests": [one.gate for one in report.results if _passed(one)],
        "warnedTests": [one.gate for one in report.results if not _passed(one) and not one.stops],
        "failedTests": [one.gate for one in report.results if one.stops],
    }
    return make_statement(manifest, TEST_RESULT, predicate, test_result_pb2.TestResult())


def _passed(result: GateResult) -> bool:
    return result.verdict is Verdict.PASS


def _result(report: GateReport) -> str:
    if not report.passed:
        return "FAILED"
    return "PASSED" if all(map(_passed, report.results)) else "WARNED"


def _report_file(manifest: Manifest) -> list[JsonValue]:
    """The published file with everything that was measured."""
    return [
        {"name": file.path, "digest": {"sha256": file.sha256}} for file in manifest.files if file.path == GATES_FILE
    ]


def _measure(measure: Measure) -> Plain:
    """The figures. JSON has no infinity, such as the divergence of an engine that never gives a token; it is text."""
    figures = measure.model_dump(mode="json", exclude={"name", "told"}, exclude_none=True)
    return {
        name: str(one) if isinstance(one, float) and not math.isfinite(one) else one for name, one in figures.items()
    }


def _gate(result: GateResult) -> Plain:
    """How a gate was set, and what it measured."""
    annotations: Plain = {"mode": result.mode, "verdict": result.verdict.value}
    if result.reason:
        annotations["reason"] = result.reason
    if result.forced:
        annotations["forced"] = {"by": result.forced.by, "why": result.forced.why}
    measures: Plain = {one.name: _measure(one) for one in result.measures}
    return {
        "name": result.gate,
        "uri": f"urn:enginery:gate:{result.gate}",
        "annotations": annotations | ({"measures": measures} if measures else {}),
    }
