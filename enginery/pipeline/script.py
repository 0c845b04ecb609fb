"""A plan as a shell script that can be pasted into a shell.

A step that is a command of its release becomes that command, or a `docker run` with it. Each step's files go into a
directory named after the step, in one directory for the whole plan.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginery.pipeline.plan import Plan, PlannedStep
from enginery.pipeline.run import fill
from enginery.spec import CPU
from enginery.store import Command
from enginery.toolchains import (
    DRIVERS,
    PACKAGE,
    PYTHON,
    REGISTRY,
    SETTING,
    ContainerAccess,
    ToolchainIdentity,
    checkout_examples,
    container_home,
    docker_command,
    image_examples,
    image_reference,
    location,
)

EXAMPLES = "examples"
"""The default path of the release's examples, as in NVIDIA's tutorials."""
CURRENT_DIRECTORY = "\0directory\0"
USER = "\0user\0"
SHELL_VALUES = {CURRENT_DIRECTORY: "$PWD", USER: "$(id -u):$(id -g)"}
"""Mark in an argument -> what the shell puts there. A mark has zero bytes, which no other argument can contain."""
SPECIAL_IN_QUOTES = re.compile(r'([$`"\\])')
HEAD = """\
# Every step of {name}, its files in ./{directory}. A step that is a command of its toolchain is shown as that command.
# `enginery run-step` does the others. It uses Enginery's store, and first runs the steps that are missing there."""


def shell_script(plan: Plan, spec_file: str, overrides: Sequence[str] = (), store: str | None = None) -> str:
    """The script: external steps as their commands, internal steps as `enginery run-step`.

    It is one subshell, so that a failure ends the script and not the shell into which it was pasted. `overrides` are
    the `FIELD=VALUE` pairs with which the spec in `spec_file` was planned.
    """
    directory = f"{plan.spec.name}-steps"
    head = HEAD.format(name=plan.spec.name, directory=directory)
    lines = [head, "(", "set -eu", *_preparations(plan, directory, spec_file, overrides)]
    for planned in plan.steps:
        lines += ["", f"# {planned.label} · {planned.key}", *_lines(planned, plan, directory, store)]
    return "\n".join([*lines, ")"]) + "\n"


def _command_line(planned: PlannedStep, recipe: Command, plan: Plan, directory: str) -> str:
    """The line of the script that runs a step's command. The files of the steps are in `directory`."""
    toolchain = planned.toolchain
    if toolchain is not None and toolchain.image:
        return _in_container(planned, recipe, toolchain, _places(planned, plan, f"{CURRENT_DIRECTORY}/{directory}"))
    program, *arguments = fill(recipe, _places(planned, plan, directory))
    if toolchain is not None and "/" not in program:
        program = _program(toolchain, program)
    settings = [f"{name}={shlex.quote(value)}" for name, value in recipe.environment.items()]
    return " ".join([*settings, shlex.join([program, *arguments])])


def _program(toolchain: ToolchainIdentity, name: str) -> str:
    """A program of a toolchain: its path in a `venv`, else its name."""
    return str(location(toolchain) / "bin" / name) if toolchain.kind == "venv" else name


def _wanted_examples(planned: PlannedStep) -> str:
    """The release whose examples the reader must provide; empty when they are known, or not needed."""
    recipe, toolchain = planned.step.recipe, planned.toolchain
    if toolchain is None or not isinstance(recipe, Command) or not _uses(recipe, "examples"):
        return ""
    return "" if _known_examples(planned, toolchain) else toolchain.version(PACKAGE)


def _uses(recipe: Command, place: str) -> bool:
    return any(f"{{{place}}}" in argument for argument in recipe.argv)


def _places(planned: PlannedStep, plan: Plan, directory: str) -> dict[str, str]:
    ids = {step.key: step.id for step in plan.steps}
    places = {**planned.places, **{name: f"{directory}/{ids[key]}" for name, key in planned.step.inputs.items()}}
    places |= {"output": f"{directory}/{planned.id}", "drivers": str(DRIVERS)}
    if shown := _shown_as(planned):
        places["weights"] = f"{directory}/{shown}"
    toolchain = planned.toolchain
    if toolchain is not None:
        unknown = f"{CURRENT_DIRECTORY}/{EXAMPLES}" if toolchain.image else EXAMPLES
        places["python"] = _program(toolchain, "python") if toolchain.kind == "venv" else PYTHON
        places["examples"] = str(_known_examples(planned, toolchain) or unknown)
    return places


def _shown_as(planned: PlannedStep) -> str:
    """The name under which a converter must see the weights, because it guesses from their path; empty for any."""
    recipe = planned.step.recipe
    return str(recipe.parameters.get("weights_name") or "") if isinstance(recipe, Command) else ""


def _known_examples(planned: PlannedStep, toolchain: ToolchainIdentity) -> Path | None:
    named = planned.places.get("examples", "")
    return (None if named else image_examples(toolchain.image)) or checkout_examples(named)


def _in_container(planned: PlannedStep, recipe: Command, toolchain: ToolchainIdentity, places: dict[str, str]) -> str:
    read = [name for name in (*planned.step.inputs, "drivers") if _uses(recipe, name)]
    if _uses(recipe, "examples") and Path(places["examples"]) != image_examples(toolchain.image):
        read.append("examples")
    own = [name for name in planned.places if name not in read and name != "examples"]
    access = ContainerAccess(
        image=image_reference(toolchain.image),
        name=planned.key,
        gpus="" if planned.step.runs_on == CPU.name else "all",
        network=recipe.environment.get("HF_HUB_OFFLINE") != "1",
        read_only=tuple(Path(places[name]) for name in (*read, *own)),
        read_write=(Path(places["output"]),),
        cwd=Path(places["output"]),
        environment=recipe.environment,
        user=USER,
    )
    return " ".join(map(_quoted, docker_command(access, f"enginery-{planned.key[:12]}", fill(recipe, places))))


def _quoted(word: str) -> str:
    """The word quoted for a shell. Its marks become expressions that the shell evaluates."""
    if "\0" not in word:
        return shlex.quote(word)
    text = SPECIAL_IN_QUOTES.sub(r"\\\1", word)
    for mark, known in SHELL_VALUES.items():
        text = text.replace(mark, known)
    return f'"{text}"'


def _preparations(plan: Plan, directory: str, spec_file: str, overrides: Sequence[str]) -> Iterator[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    settings += [word for code in dict.fromkeys(plan.spec.force) for word in ("--force", code)]
    yield f"mkdir -p {directory}"
    yield f"{shlex.join(['enginery', 'plan', spec_file, *settings, '--json'])} > {directory}/plan.json"
    wanted = {planned.toolchain for planned in plan.steps if planned.toolchain}
    for name in sorted(toolchain.name for toolchain in wanted if toolchain.kind == "venv"):
        yield f"enginery toolchain create {name}"
    images = {image_reference(toolchain.image) for toolchain in wanted if toolchain.image}
    if images:
        yield shlex.join(["mkdir", "-p", str(container_home())])
    if any(_lacks_registry(toolchain) for toolchain in wanted):
        yield f"# docker uses its own registry: set {REGISTRY} to NVIDIA's or a mirror, and plan again"
    yield from (shlex.join(["docker", "pull", image]) for image in sorted(images))
    for release in sorted({_wanted_examples(planned) for planned in plan.steps} - {""}):
        yield f"# ./{EXAMPLES} must be the examples of a checkout of TensorRT-LLM v{release}; or set {SETTING}"


def _lacks_registry(toolchain: ToolchainIdentity) -> bool:
    """Whether the image's name has no registry, and no setting names one."""
    image = toolchain.image
    return image != "" and image_reference(image) == image != image_reference(image, {REGISTRY: "named"})


def _lines(planned: PlannedStep, plan: Plan, directory: str, store: str | None) -> Iterator[str]:
    recipe = planned.step.recipe
    place = f"{directory}/{planned.id}"
    if not isinstance(recipe, Command):
        where = ["--store", store] if store else []
        run = ["enginery", "run-step", f"{directory}/plan.json", planned.id, "--with-inputs", "--output", place]
        yield shlex.join([*run, *where])
        return
    yield f"mkdir -p {place}"
    if shown := _shown_as(planned):
        ids = {step.key: step.id for step in plan.steps}
        yield shlex.join(["ln", "-sfn", ids[planned.step.inputs["weights"]], f"{directory}/{shown}"])
    yield _command_line(planned, recipe, plan, directory)
