"""The step that judges all gates of a build.

It reads what the earlier steps measured: the answers, the reference, the speed, the evaluations. It starts no process.
A verdict does not make the step fail: `require_gates_passed` reads the report and stops the steps that come after.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import TypeAdapter

from enginery.backends.gates.answers import judge_answers
from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.gates.evaluation import judge_evaluation
from enginery.backends.gates.planning import EVALUATION
from enginery.backends.gates.size import judge_size
from enginery.builds import (
    EVALUATIONS,
    GATES_FILE,
    EvaluationResult,
    GateReport,
    GateResult,
    Reference,
    ValidationReport,
    judge_speed,
    read_distribution,
    read_evaluation,
    read_reference,
    read_report,
    read_speed,
)
from enginery.core.files import write_atomic
from enginery.core.progress import Facts
from enginery.models import Weights
from enginery.spec import GateName, Gates, Mode, Precision
from enginery.store import Stage, StepContext

MADE_BY = (Stage.BUILD, Stage.CONVERT, Stage.DOWNLOAD)
"""The steps whose output may be what is run. The first one of these that a build has is it."""


@dataclass(frozen=True)
class Measured:
    """What is to be judged, read from the inputs of the step when a gate first asks for it."""

    context: StepContext

    @cached_property
    def gates(self) -> Gates:
        """The spec's settings."""
        return Gates.model_validate(self.context.parameters["gates"])

    @cached_property
    def modes(self) -> Mapping[GateName, Mode]:
        """The mode of each gate."""
        given = self.context.parameters["modes"]
        return {GateName(name): Mode(str(mode)) for name, mode in given.items()} if isinstance(given, Mapping) else {}

    @cached_property
    def precision(self) -> Precision:
        """The number format that the spec asks for."""
        return Precision(str(self.context.parameters["precision"]))

    @cached_property
    def report(self) -> ValidationReport:
        """The answers of the engine."""
        return read_report(self.context.inputs["report"])

    @cached_property
    def reference(self) -> Reference | None:
        """The reference; None without one."""
        directory = self.context.inputs.get("reference")
        return read_reference(directory) if directory else None

    @cached_property
    def evaluations(self) -> tuple[EvaluationResult, ...]:
        """The results of the evaluations."""
        inputs = self.context.inputs.items()
        return tuple(read_evaluation(directory) for name, directory in inputs if name.startswith(EVALUATION))

    @property
    def engine_bytes(self) -> int:
        """The size of what is run."""
        made = {record.step.stage: record.size for record in self.context.chain}
        return next((made[stage] for stage in MADE_BY if made.get(stage)), 0)


def gates_step(context: StepContext) -> Facts:
    """Judge the gates and write `gates.json` to the output. The step function `gates`.

    The inputs are `report` (of the validation) and, where the plan has them, `reference`, `bench` and `evaluation-…`.
    """
    measured = Measured(context)
    report = GateReport(results=tuple(_results(measured)))
    write_atomic(context.output / GATES_FILE, report.model_dump_json(indent=1) + "\n")
    for found in measured.evaluations:  # so that they are published, and can be paired with a later build's
        write_atomic(context.output / EVALUATIONS / f"{found.name}.json", found.model_dump_json(indent=1) + "\n")
    for result in report.results:
        context.log(result.told)
    return {
        "passed": report.passed,
        "verdict": str(report.verdict),
        "warnings": [result.told for result in report.warnings],
    }


def _results(measured: Measured) -> Iterator[GateResult]:
    """The result of each gate that is not off, in the order in which gates are shown."""
    judges: Mapping[GateName, Callable[[Measured, Mode], GateResult]] = {
        GateName.DISTRIBUTION: _distribution,
        GateName.ANSWERS: _answers,
        GateName.SIZE: _size,
        GateName.EVALUATION: _evaluation,
        GateName.SPEED: _speed,
    }
    for name, judge in judges.items():
        mode = measured.modes.get(name, Mode.OFF)
        if mode is not Mode.OFF:
            yield judge(measured, mode)


def _distribution(measured: Measured, mode: Mode) -> GateResult:
    reference, report = measured.reference, measured.report
    found = read_distribution(measured.context.inputs["report"], reference.facts) if reference else None
    return judge_distribution(
        reference,
        found,
        measured.precision,
        measured.gates.distribution,
        mode,
        met=any(result.passed and result.expected for result in report.results),
        why=report.distribution.why if report.distribution else "",
    )


def _size(measured: Measured, mode: Mode) -> GateResult:
    recipe = measured.context.parameters
    return judge_size(
        measured.engine_bytes,
        TypeAdapter(Weights).validate_python(recipe["weights"]),
        measured.precision,
        measured.gates.size,
        mode,
        float_bits=int(str(recipe["float_bits"])),
        ranks=int(str(recipe["ranks"])),
    )


def _answers(measured: Measured, mode: Mode) -> GateResult:
    return judge_answers(measured.report, measured.reference, measured.gates.answers, mode)


def _evaluation(measured: Measured, mode: Mode) -> GateResult:
    return judge_evaluation(measured.evaluations, None, measured.gates.evaluation, mode)


def _speed(measured: Measured, mode: Mode) -> GateResult:
    return judge_speed(read_speed(measured.context.inputs["bench"]), None, measured.gates.speed, mode)
