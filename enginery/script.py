"""A plan as a shell script: what each step runs, ready to be pasted.

Each step's files go into a directory named after the step, in one directory for the whole plan.
"""

import shlex
from collections.abc import Iterator, Sequence

from enginery.containers import REGISTRY, reference
from enginery.docker import container_home
from enginery.plan import Plan, PlannedStep
from enginery.release_examples import SETTING
from enginery.script_commands import EXAMPLES, command_line, wanted_examples
from enginery.steps import Command
from enginery.toolchains import ToolchainIdentity

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
    settings += [word for code in dict.fromkeys(plan.spec.force) for word in ("--force", code)]
    yield f"mkdir -p {directory}"
    yield f"{shlex.join(['enginery', 'plan', spec_file, *settings, '--json'])} > {directory}/plan.json"
    wanted = {planned.toolchain for planned in plan.steps if planned.toolchain}
    for name in sorted(toolchain.name for toolchain in wanted if toolchain.kind == "venv"):
        yield f"enginery toolchain create {name}"
    images = {reference(toolchain.image) for toolchain in wanted if toolchain.kind == "container"}
    if images:
        yield shlex.join(["mkdir", "-p", str(container_home())])
    if any(_lacks_registry(toolchain) for toolchain in wanted):
        yield f"# docker asks its own registry: plan with {REGISTRY} set to NVIDIA's, or a mirror of it"
    yield from (shlex.join(["docker", "pull", image]) for image in sorted(images))
    for release in sorted({wanted_examples(planned) for planned in plan.steps} - {""}):
        yield f"# ./{EXAMPLES} is taken for that of a checkout of TensorRT-LLM v{release}; or set {SETTING}"


def _lacks_registry(toolchain: ToolchainIdentity) -> bool:
    """Whether nothing says where an image comes from."""
    image = toolchain.image
    return toolchain.kind == "container" and reference(image) == image != reference(image, {REGISTRY: "named"})


def _lines(planned: PlannedStep, plan: Plan, directory: str, store: str | None) -> Iterator[str]:
    recipe = planned.step.recipe
    place = f"{directory}/{planned.id}"
    if not isinstance(recipe, Command):
        where = ["--store", store] if store else []
        run = ["enginery", "run-step", f"{directory}/plan.json", planned.id, "--with-inputs", "--output", place]
        yield shlex.join([*run, *where])
        return
    yield f"mkdir -p {place}"
    yield command_line(planned, recipe, plan, directory)
