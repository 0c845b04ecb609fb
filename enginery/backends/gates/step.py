"""The step that judges all gates of a build, and the recipe that says with which limits.

It reads what the earlier steps measured: the answers, the reference, the speed, the evaluations. It starts no process. A
verdict does not make the step fail: `require_gates_passed` reads the report and stops the steps that come after.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from enginery.backends.evaluate import EVALUATION_FILE
from enginery.backends.gates.answers import judge_answers
from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.gates.evaluation import judge_evaluation
from enginery.backends.gates.size import judge_size
from enginery.backends.gates.speed import judge_speed
from enginery.backends.request import Request
from enginery.builds import (
    GATES_FILE,
    GateReport,
    GateResult,
    described_gate,
    read_evaluation,
    read_reference,
    read_report,
    read_speed,
)
from enginery.core.files import write_atomic
from enginery.core.progress import Facts
from enginery.models import weights_of
from enginery.spec import GateName, Gates, Mode, Precision
from enginery.store import Call, Stage, StepContext

FUNCTION_VERSION = 1
EVALUATION = "evaluation-"
"""The beginning of the names of the inputs with the results of evaluations."""
MADE_BY = (Stage.BUILD, Stage.CONVERT, Stage.DOWNLOAD)
"""The steps that make what is run: the last of them that the build has."""


def gates_call(request: Request, modes: Mapping[GateName, Mode]) -> Call:
    """The recipe of the gates step: the limits, the mode of each gate, and what the engine should be."""
    weights = weights_of(request.model) if request.model else None
    parameters: dict[str, JsonValue] = {
        "precision": str(request.target.precision),
        "backend": "",
        "modes": {str(name): str(mode) for name, mode in modes.items()},
        "gates": request.validation.gates.model_dump(mode="json", exclude_none=True),
    }
    return Call(function="gates", version=FUNCTION_VERSION, parameters=parameters)


def gates_step(context: StepContext) -> Facts:
    """Judge the gates and write `gates.json` to the output. The step function `gates`.

    The inputs are `report` (of the validation) and, where the plan has them, `reference`, `bench` and `evaluation-…`.
    """
    report = GateReport(results=tuple(_results(context)))
    write_atomic(context.output / GATES_FILE, report.model_dump_json(indent=1) + "\n")
    for result in report.results:
        context.log(result.told)
    return {
        "passed": report.passed,
        "verdict": str(report.verdict),
        "warnings": [result.told for result in report.warnings],
    }


def _results(context: StepContext) -> Iterator[GateResult]:
    """The result of each gate that is not off, in the order in which gates are shown."""
    judges: Mapping[GateName, Callable[[Judging], GateResult]] = {
        GateName.DISTRIBUTION: _distribution,
        GateName.ANSWERS: _answers,
        GateName.SIZE: _size,
        GateName.EVALUATION: _evaluation,
        GateName.SPEED: _speed,
    }
    judging = Judging.of(context)
    for name, judge in judges.items():
        if judging.mode(name) is not Mode.OFF:
            yield judge(judging)
