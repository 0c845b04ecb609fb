"""The step that evaluates an engine: it runs the spec's command, and reads the score from what the command wrote.

The command may use the network, because most evaluators fetch their data sets, unless the spec says otherwise. It runs
in a scratch directory, since evaluators like to leave files where they run.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from enginery.backends.common import OFFLINE, QUIET
from enginery.backends.evaluate.reading import ResultFile
from enginery.builds import EVALUATION_FILE, EvaluationResult
from enginery.core.digests import json_digest, quick_digest
from enginery.core.errors import PlanError, UsageError
from enginery.core.files import write_atomic
from enginery.core.progress import Facts
from enginery.spec import Evaluation
from enginery.store import Call, StepContext

FUNCTION_VERSION = 1
PLACEHOLDER = re.compile(r"\{(\w+)\}")
SCRIPT = "script"
PLACEHOLDERS = ("engine", "weights", "output", "python", SCRIPT)
"""What a command may name. `perform.fill` replaces the same form of placeholders in other commands."""
MODELS = ("engine", "checkpoint", "weights")
"""The inputs that `{engine}` can be: what the backend runs is the first of them that the step has."""
DECIDING = {"command", "result", "score", "percent", "samples", "items", "script"}
"""The fields of an evaluation that decide what is measured. The limits are not among them, so that a new limit does not
run the evaluation again."""


FIELDS = (DECIDING | {"name", "network"}) - {SCRIPT}
"""The fields of the evaluation that a running step knows. Of the script it has the path, and the recipe the digest."""


def evaluate_call(evaluation: Evaluation) -> Call:
    """The recipe of an evaluation. A script is part of it by its digest, so a changed script runs again.

    Raises:
        PlanError: when the script cannot be read; `evaluation_findings` reports the same.
    """
    how = evaluation.model_dump(mode="json", include=DECIDING | {"network"})
    how[SCRIPT] = _script_digest(evaluation)
    return Call(function="evaluate", version=FUNCTION_VERSION, parameters={"name": evaluation.name, **how})


def evaluation_places(evaluation: Evaluation) -> dict[str, str]:
    """Placeholder -> path of the user's file. The step's key has the file's digest, and not its path."""
    return {SCRIPT: evaluation.script} if evaluation.script else {}


def evaluate_step(context: StepContext) -> Facts:
    """Run an evaluation, and write `evaluation.json` to the output. The step function `evaluate`.

    The inputs are `weights`, and `engine` or `checkpoint` if the backend makes one.

    Raises:
        CommandError: when the command fails, or its file has no score.
        UsageError: when the step has no toolchain, or a placeholder has no value.
    """
    recipe = context.parameters
    evaluation = Evaluation.model_validate({name: recipe[name] for name in FIELDS})
    environment = QUIET if evaluation.network else {**QUIET, **OFFLINE}
    done = context.run(_filled(evaluation, _values(context)), environment, cwd=context.scratch)
    file = ResultFile(evaluation.name, context.output, evaluation.result, percent=evaluation.percent)
    items = file.items(evaluation.items) if evaluation.items else {}
    result = EvaluationResult(
        name=evaluation.name,
        digest=json_digest({field: recipe[field] for field in DECIDING}),
        score=file.score(evaluation.score),
        samples=len(items) if evaluation.samples is None else file.samples(evaluation.samples),
        items=items,
        source=file.path.relative_to(context.output).as_posix(),
        seconds=round(done.seconds, 3),
    )
    write_atomic(context.output / EVALUATION_FILE, result.model_dump_json(indent=1) + "\n")
    return {"name": result.name, "score": result.score, "samples": result.samples}


def placeholders(evaluation: Evaluation) -> set[str]:
    """The names of the placeholders in the command."""
    return {name for word in evaluation.command for name in PLACEHOLDER.findall(word)}


def _values(context: StepContext) -> dict[str, str]:
    if context.toolchain is None:
        raise UsageError("an evaluation needs a toolchain", remedy="make the plan again with this version")
    model = next(context.inputs[name] for name in MODELS if name in context.inputs)
    found = {"engine": model, "weights": context.inputs["weights"], "output": context.output}
    return {
        **context.places,
        **{name: str(path) for name, path in found.items()},
        "python": str(context.toolchain.python),
    }


def _filled(evaluation: Evaluation, values: Mapping[str, str]) -> tuple[str, ...]:
    if missing := sorted(placeholders(evaluation) - values.keys()):
        problem = f"the command has placeholders without a value: {', '.join(missing)}"
        raise UsageError(problem, subject=f"evaluation {evaluation.name}", remedy="make the plan again")
    return tuple(PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in evaluation.command)


def _script_digest(evaluation: Evaluation) -> str:
    if evaluation.script is None:
        return ""
    try:
        return quick_digest(Path(evaluation.script))
    except OSError as error:
        problem = f"evaluation {evaluation.name}: script {evaluation.script} cannot be read: {error.strerror}"
        raise PlanError([problem]) from error
