"""One external step of a plan as a line for a shell: the release's plain command, or the whole `docker run`."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from enginery.containers import reference
from enginery.docker import PYTHON, Box, container_home, docker_command
from enginery.drivers import DRIVERS
from enginery.gpus import CPU
from enginery.plan import Plan, PlannedStep
from enginery.release_examples import checkout_examples, image_examples
from enginery.release_pins import PACKAGE
from enginery.runner import fill
from enginery.steps import Command
from enginery.toolchains import ToolchainIdentity, location

EXAMPLES = "examples"
"""What stands for the release's examples where nothing says where they are: what NVIDIA's tutorials write."""
HERE = "\0here\0"
USER = "\0user\0"
KNOWN_TO_SHELL = {HERE: "$PWD", USER: "$(id -u):$(id -g)"}
"""What only the shell knows that the line is pasted into; no argument can hold a zero byte of its own."""
SPECIAL_IN_QUOTES = re.compile(r'([$`"\\])')


def command_line(planned: PlannedStep, recipe: Command, plan: Plan, directory: str) -> str:
    """The line that does what a step does.

    Args:
        planned: the step.
        recipe: its command.
        plan: the plan it is in.
        directory: where the plan's steps have their files, relative to where the line is pasted.
    """
    toolchain = planned.toolchain
    if toolchain is not None and toolchain.kind == "container":
        return _in_container(planned, recipe, toolchain, _places(planned, plan, f"{HERE}/{directory}"))
    argv = fill(recipe, _places(planned, plan, directory))
    if toolchain is not None and toolchain.kind == "venv" and "/" not in argv[0]:
        argv = (str(location(toolchain) / "bin" / argv[0]), *argv[1:])
    settings = [f"{name}={shlex.quote(value)}" for name, value in recipe.environment.items()]
    return " ".join([*settings, shlex.join(argv)])


def wanted_examples(planned: PlannedStep) -> str:
    """The release whose examples the reader has to bring along; empty where they are known, or not needed."""
    recipe = planned.step.recipe
    if planned.toolchain is None or not isinstance(recipe, Command) or _known_examples(planned, planned.toolchain):
        return ""
    return planned.toolchain.version(PACKAGE) if _asks_for(recipe, "examples") else ""


def _asks_for(recipe: Command, place: str) -> bool:
    return any(f"{{{place}}}" in argument for argument in recipe.argv)


def _places(planned: PlannedStep, plan: Plan, directory: str) -> dict[str, str]:
    ids = {step.key: step.id for step in plan.steps}
    places = {**planned.places, **{name: f"{directory}/{ids[key]}" for name, key in planned.step.inputs.items()}}
    places |= {"output": f"{directory}/{planned.id}", "drivers": str(DRIVERS)}
    toolchain = planned.toolchain
    if toolchain is not None:
        in_container = toolchain.kind == "container"
        unknown = f"{HERE}/{EXAMPLES}" if in_container else EXAMPLES
        places["python"] = str(location(toolchain) / "bin" / "python") if toolchain.kind == "venv" else PYTHON
        places["examples"] = str(_known_examples(planned, toolchain) or unknown)
    return places


def _known_examples(planned: PlannedStep, toolchain: ToolchainIdentity) -> Path | None:
    named = planned.places.get("examples", "")
    inside = image_examples(toolchain.image) if toolchain.kind == "container" else None
    return (None if named else inside) or checkout_examples(named)


def _in_container(planned: PlannedStep, recipe: Command, toolchain: ToolchainIdentity, places: dict[str, str]) -> str:
    read = [name for name in (*planned.step.inputs, "drivers") if _asks_for(recipe, name)]
    if _asks_for(recipe, "examples") and Path(places["examples"]) != image_examples(toolchain.image):
        read.append("examples")
    own = [name for name in planned.places if name not in read and name != "examples"]
    box = Box(
        image=reference(toolchain.image),
        name_hint=planned.key,
        home=container_home(),
        gpus="" if planned.step.runs_on == CPU.name else "all",
        network=recipe.environment.get("HF_HUB_OFFLINE") != "1",
        read_only=tuple(Path(places[name]) for name in (*read, *own)),
        read_write=(Path(places["output"]),),
        workdir=Path(places["output"]),
        environment=recipe.environment,
        user=USER,
    )
    return _shell(docker_command(box, f"enginery-{planned.key[:12]}", fill(recipe, places)))


def _shell(argv: Sequence[str]) -> str:
    return " ".join(map(_quoted, argv))


def _quoted(word: str) -> str:
    """The word as a shell reads it back, with what only that shell knows filled in by it."""
    if "\0" not in word:
        return shlex.quote(word)
    text = SPECIAL_IN_QUOTES.sub(r"\\\1", word)
    for mark, known in KNOWN_TO_SHELL.items():
        text = text.replace(mark, known)
    return f'"{text}"'
