"""Does the work of one step: calls its function, or runs its command with the placeholders filled in.

No step reads weights that are not complete. A step whose command reports that it has not loaded all of them fails.
"""

import re
from collections.abc import Mapping

from enginery.core.errors import CommandError, UsageError
from enginery.core.process import FailureCause
from enginery.core.progress import Facts
from enginery.models import LoadReport
from enginery.pipeline.functions import find_command_runner, find_function
from enginery.pipeline.plan import PlannedStep
from enginery.sources import require_whole
from enginery.store import Call, Command, Stage, StepContext
from enginery.toolchains import DRIVERS, examples_dir

WEIGHTS = "weights"
"""The name of the input with the downloaded weights."""
MAKING = frozenset({Stage.CONVERT, Stage.BUILD})
"""Stages whose commands load weights and write them in another form."""
REPORTING = {"TRANSFORMERS_VERBOSITY": "warning"}
"""Without it, a user's own setting could silence the report of missing weights."""


def perform(planned: PlannedStep, context: StepContext) -> Facts:
    """Do the work of a step. Nothing reads weights that are not complete."""
    if WEIGHTS in context.inputs:
        require_whole(context.inputs[WEIGHTS], WEIGHTS)
    if planned.step.stage not in MAKING:
        return _run_recipe(planned, context)
    report = LoadReport()
    context.log = report.watch(context.log)
    try:
        facts = _run_recipe(planned, context)
    except CommandError as error:
        require_all_loaded(report, error)
        raise
    require_all_loaded(report)
    return facts


def require_all_loaded(report: LoadReport, error: CommandError | None = None) -> None:
    """Check that a command has loaded each weight of the model, and no others.

    Args:
        report: what the command reported.
        error: its failure; None if it ended without one.

    Raises:
        CommandError: with the tensors' names, even if the command ended without an error.
    """
    found = list(report.faults())
    if not found:
        return
    listed = "".join(f"\n  - {fault.problem}" for fault in found)
    how = error.problem if error else "the command ended without an error"
    raise CommandError(
        f"the weights are not those of this model ({how}); tensors that were{listed}",
        subject=error.subject if error else "",
        remedy="use a complete copy of the model, and the config.json that belongs to it",
        cause=FailureCause.WEIGHTS,
        last_lines=error.last_lines if error else (),
    ) from error


def _run_recipe(planned: PlannedStep, context: StepContext) -> Facts:
    recipe = planned.step.recipe
    if isinstance(recipe, Call):
        return find_function(recipe.function)(context)
    argv, environment = fill(recipe, places(context, recipe)), {**REPORTING, **recipe.environment}
    if recipe.runner is not None:
        return find_command_runner(recipe.runner)(context, argv, environment)
    context.run(argv, environment)
    return {}


def fill(recipe: Command, values: Mapping[str, str]) -> tuple[str, ...]:
    """The command with its placeholders replaced.

    Raises:
        UsageError: when a placeholder has no value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UsageError(f"the recipe has a placeholder {match[0]} without a value")
        return values[match[1]]

    return tuple(re.sub(r"\{(\w+)\}", value, argument) for argument in recipe.argv)


def places(context: StepContext, recipe: Command) -> dict[str, str]:
    """The values of a command's placeholders in this run.

    Raises:
        ToolchainError: when the command needs the release's examples, and they are missing or of another release.
    """
    found = {**context.places, **{name: str(directory) for name, directory in context.inputs.items()}}
    found["output"] = str(context.output)
    found["drivers"] = str(DRIVERS)
    if context.toolchain:
        found["python"] = str(context.toolchain.python)
        if any("{examples}" in argument for argument in recipe.argv):
            found["examples"] = str(examples_dir(context.toolchain.identity, context.places.get("examples", "")))
    return found
