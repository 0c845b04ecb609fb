"""Measures what a step adds to its command: the command run as a step, and the same command run directly."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.results import Goal, Row, median
from benchmarks.timing import in_turn, load, seconds
from benchmarks.workbench import ROOT, Example, example
from enginery import toolchains
from enginery.backends import OFFLINE
from enginery.core import process
from enginery.pipeline import PlannedStep, chain_of, fill, run_step
from enginery.store import Command, Stage, Step, Store, open_store
from enginery.toolchains import ANSWER_PROMPTS

GOAL = Goal(0.05, "seconds more")
OUTSIDE = Goal(0.05, "seconds")
TRIVIAL_TIMES = 40
REAL_TIMES = {Stage.BUILD: 5, Stage.VALIDATE: 15}
"""The times of long commands vary by more than 50 ms, so the difference means something only on a quiet machine. So the
time of a step without its command is measured too."""


def measure() -> list[Row]:
    """Measure a step with a trivial command, then every external step of the example."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="steps-", dir=ROOT) as scratch, example() as built:
        external = [planned for planned in built.plan.steps if planned.toolchain is not None]
        rows = _trivial(Path(scratch) / "trivial")
        for planned in external:
            rows += _real(built, planned, Path(scratch) / planned.id.replace("/", "-"))
        return rows


def _trivial(scratch: Path) -> list[Row]:
    store, numbers = open_store(str(scratch / "store")), count()
    argv = (sys.executable, "-c", "pass")

    def as_step() -> None:
        recipe = Command(argv=argv, environment={"NUMBER": str(next(numbers))})
        step = Step(stage=Stage.BUILD, recipe=recipe)
        run_step(PlannedStep(id="build/trivial", key=step.key, step=step, targets=("trivial",)), store, _ignore)

    return _rows("a step that runs `python -c pass`", as_step, lambda: _bare(argv, os.environ), TRIVIAL_TIMES)


def _rows(what: str, as_step: Callable[[], None], bare: Callable[[], None], times: int) -> list[Row]:
    outside: list[float] = []
    ours, theirs = in_turn(lambda: outside.append(seconds_outside(as_step)), bare, times=times)
    return [
        Row(what, median(ours), median(theirs), GOAL, times, load()),
        Row("  of it outside the command", median(outside[1:]), None, OUTSIDE, times),
    ]


def seconds_outside(work: Callable[[], object]) -> float:
    """The seconds that `work` takes, without those of the commands that it starts."""
    commands: list[float] = []
    run = process.run

    def noted(*arguments: Any, **options: Any) -> process.Completed:
        done = run(*arguments, **options)
        commands.append(done.seconds)
        return done

    with patch.object(process, "run", noted):
        whole = seconds(work)
    return whole - sum(commands)


def _real(built: Example, planned: PlannedStep, scratch: Path) -> list[Row]:
    """Measure a step of the example. Each run has a store with only the step's inputs, so storing the output counts."""
    times = REAL_TIMES[planned.step.stage]
    rounds = [scratch / str(number) for number in range(times + 1)]
    stores = iter([_store_with_inputs(built.store, planned, directory) for directory in rounds])
    bare = BareStep.of(planned, built, scratch / "bare")

    def as_step() -> None:
        run_step(planned, next(stores), _ignore)

    return _rows(f"step {planned.label}", as_step, bare.run, times)


def _store_with_inputs(source: Store, planned: PlannedStep, directory: Path) -> Store:
    store = open_store(str(directory / "store"))
    for number, record in enumerate(chain_of(tuple(planned.step.inputs.values()), source)):
        output = directory / "inputs" / str(number)
        source.fetch(record, output)
        store.add(record, output)
    return store


@dataclass
class BareStep:
    """A step's command without the step.

    Attributes:
        argv: returns the command for an output directory.
        environment: the environment of the command.
        outputs: the directory in which each run makes its output directory.
    """

    argv: Callable[[Path], tuple[str, ...]]
    environment: Mapping[str, str]
    outputs: Path

    @classmethod
    def of(cls, planned: PlannedStep, built: Example, scratch: Path) -> "BareStep":
        """The command of an external step or of a validation, with its inputs in `scratch`."""
        assert planned.toolchain is not None
        toolchain = toolchains.ensure(planned.toolchain)
        places = {"python": str(toolchain.python)}
        for name, key in planned.step.inputs.items():
            (record,) = (one for one in chain_of((key,), built.store) if one.key == key)
            built.store.fetch(record, scratch / name)
            places[name] = str(scratch / name)
        recipe = planned.step.recipe
        if isinstance(recipe, Command):
            environment = {**toolchain.environment, **recipe.environment}
            return cls(lambda output: fill(recipe, {**places, "output": str(output)}), environment, scratch)
        requests = scratch / "requests.json"
        requests.write_text(json.dumps(_requests(planned)), encoding="utf-8")
        flags = ("--engine", places["engine"], "--tokenizer", places["weights"], "--requests", str(requests))
        command = (places["python"], str(ANSWER_PROMPTS), *flags, "--output")
        return cls(
            lambda output: (*command, str(output / "answers.json")), {**toolchain.environment, **OFFLINE}, scratch
        )

    def run(self) -> None:
        """Run the command with a new output directory."""
        output = self.outputs / f"output-{time.monotonic_ns()}"
        output.mkdir()
        _bare(self.argv(output), self.environment)


def _requests(planned: PlannedStep) -> dict[str, object]:
    """The requests that a validation step gives to its driver."""
    parameters = planned.step.recipe.parameters if not isinstance(planned.step.recipe, Command) else {}
    prompts = parameters["prompts"]
    assert isinstance(prompts, list)
    asked = [
        {"prompt": one["prompt"], "max_tokens": one.get("max_tokens") or parameters["max_tokens"]}
        for one in prompts
        if isinstance(one, dict)
    ]
    return {"threads": min(4, os.cpu_count() or 1), "prompts": asked}


def _bare(argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
    subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def _ignore(_line: str) -> None:
    """Ignore a log line. The step still writes it to its log file."""
