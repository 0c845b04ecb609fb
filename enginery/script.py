"""A plan as a shell script: what each step runs, ready to be pasted.

Each step works in a directory of its own below the current one, named after the step.
"""

import shlex
from collections.abc import Iterator

from enginery.plan import Plan, PlannedStep
from enginery.runner import fill
from enginery.steps import Command
from enginery.toolchains import location

PLAN_FILE = "plan.json"


def shell_script(plan: Plan, spec_file: str) -> str:
    """The script: the commands of external steps as they are, internal steps through `enginery run-step`."""
    lines = ["set -eu", f"enginery plan {shlex.quote(spec_file)} --json > {PLAN_FILE}", *_toolchains(plan)]
    for planned in plan.steps:
        lines += ["", f"# {planned.label} · {planned.key}", *_lines(planned, plan)]
    return "\n".join(lines) + "\n"


def _toolchains(plan: Plan) -> Iterator[str]:
    for name in sorted({planned.toolchain.name for planned in plan.steps if planned.toolchain}):
        yield f"enginery toolchain create {name}"


def _lines(planned: PlannedStep, plan: Plan) -> Iterator[str]:
    recipe = planned.step.recipe
    if not isinstance(recipe, Command):
        yield f"enginery run-step {PLAN_FILE} {planned.id} --with-inputs --output {planned.id}"
        return
    settings = [f"{name}={shlex.quote(value)}" for name, value in recipe.environment.items()]
    yield f"mkdir -p {planned.id}"
    yield " ".join([*settings, shlex.join(fill(recipe, _places(planned, plan)))])


def _places(planned: PlannedStep, plan: Plan) -> dict[str, str]:
    ids = {step.key: step.id for step in plan.steps}
    places = {name: ids[key] for name, key in planned.step.inputs.items()}
    places["output"] = planned.id
    if planned.toolchain:
        places["python"] = str(location(planned.toolchain) / "bin" / "python")
    return places
