"""A plan as a shell script: what each step runs, ready to be pasted.

Each step's files go into a directory named after the step, in one directory for the whole plan.
"""

import shlex
from collections.abc import Iterator, Sequence

from enginery.plan import Plan, PlannedStep
from enginery.runner import fill
from enginery.steps import Command
from enginery.toolchains import location

HEAD = """\
# Every step of {name}, its files in ./{directory}. A step that is a command of its toolchain is shown as that command;
# the others go through `enginery run-step`, which keeps its own store and does there what that does not have yet."""


def shell_script(plan: Plan, spec_file: str, overrides: Sequence[str] = (), store: str | None = None) -> str:
    """The script: the commands of external steps as they are, internal steps through `enginery run-step`.

    It is one subshell, so that a failure ends the script and not the shell it was pasted into.

    Args:
        plan: the plan.
        spec_file: where its spec is.
        overrides: the `FIELD=VALUE` pairs it was planned with.
        store: the store it is to run with; the usual one when left out.
    """
    directory = f"{plan.spec.name}-steps"
    head = HEAD.format(name=plan.spec.name, directory=directory)
    lines = [head, "(", "set -eu", *_preparations(plan, directory, spec_file, overrides)]
    for planned in plan.steps:
        lines += ["", f"# {planned.label} · {planned.key}", *_lines(planned, plan, directory, store)]
    return "\n".join([*lines, ")"]) + "\n"


def _preparations(plan: Plan, directory: str, spec_file: str, overrides: Sequence[str]) -> Iterator[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    yield f"mkdir -p {directory}"
    yield f"{shlex.join(['enginery', 'plan', spec_file, *settings, '--json'])} > {directory}/plan.json"
    wanted = {planned.toolchain for planned in plan.steps if planned.toolchain}
    for name in sorted(toolchain.name for toolchain in wanted if toolchain.kind == "venv"):
        yield f"enginery toolchain create {name}"


def _lines(planned: PlannedStep, plan: Plan, directory: str, store: str | None) -> Iterator[str]:
    recipe = planned.step.recipe
    place = f"{directory}/{planned.id}"
    if not isinstance(recipe, Command):
        where = ["--store", store] if store else []
        run = ["enginery", "run-step", f"{directory}/plan.json", planned.id, "--with-inputs", "--output", place]
        yield shlex.join([*run, *where])
        return
    settings = [f"{name}={shlex.quote(value)}" for name, value in recipe.environment.items()]
    yield f"mkdir -p {place}"
    yield " ".join([*settings, shlex.join(fill(recipe, _places(planned, plan, directory)))])


def _places(planned: PlannedStep, plan: Plan, directory: str) -> dict[str, str]:
    ids = {step.key: step.id for step in plan.steps}
    places = {name: f"{directory}/{ids[key]}" for name, key in planned.step.inputs.items()}
    places["output"] = f"{directory}/{planned.id}"
    if planned.toolchain:
        made = planned.toolchain.kind == "venv"
        places["python"] = str(location(planned.toolchain) / "bin" / "python") if made else "python3"
    return places
