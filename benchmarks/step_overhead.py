"""Each step's command run as a step, with all that a step does around it, against the same command run bare."""

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

from benchmarks.results import Goal, Row, median
from benchmarks.timing import in_turn, load
from benchmarks.workbench import ROOT, Example, example
from enginery import toolchains
from enginery.drivers import ANSWER_PROMPTS
from enginery.plan import PlannedStep
from enginery.runner import chain_of, fill, run_step
from enginery.steps import Command, Stage, Step
from enginery.store import Store, open_store
from enginery.validation import ENVIRONMENT

GOAL = Goal(0.05, "seconds more")
TRIVIAL_TIMES = 40
REAL_TIMES = 5


def measure() -> list[Row]:
    """A trivial command, where the difference is all there is; then every external step of the example."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="steps-", dir=ROOT) as scratch, example() as built:
        external = [planned for planned in built.plan.steps if planned.toolchain is not None]
        real = (_real(built, planned, Path(scratch) / planned.id.replace("/", "-")) for planned in external)
        return [_trivial(Path(scratch) / "trivial"), *real]


def _trivial(scratch: Path) -> Row:
    store, numbers = open_store(str(scratch / "store")), count()
    argv = (sys.executable, "-c", "pass")

    def as_step() -> None:
        recipe = Command(argv=argv, environment={"NUMBER": str(next(numbers))})
        step = Step(stage=Stage.BUILD, recipe=recipe)
        run_step(PlannedStep(id="build/trivial", key=step.key, step=step, targets=("trivial",)), store, _unheard)

    ours, theirs = in_turn(as_step, lambda: _bare(argv, os.environ), times=TRIVIAL_TIMES, warm_ups=3)
    return Row("a step that runs `python -c pass`", median(ours), median(theirs), GOAL, TRIVIAL_TIMES, load())


def _real(built: Example, planned: PlannedStep, scratch: Path) -> Row:
    """A store with nothing but the step's inputs for each time, so that storing the output counts too."""
    rounds = [scratch / str(number) for number in range(REAL_TIMES + 1)]
    stores = iter([_store_with_inputs(built.store, planned, directory) for directory in rounds])
    bare = BareStep.of(planned, built, scratch / "bare")
    ours, theirs = in_turn(lambda: run_step(planned, next(stores), _unheard), bare.run, times=REAL_TIMES)
    return Row(f"step {planned.label}", median(ours), median(theirs), GOAL, REAL_TIMES, load())


def _store_with_inputs(source: Store, planned: PlannedStep, directory: Path) -> Store:
    store = open_store(str(directory / "store"))
    for number, record in enumerate(chain_of(tuple(planned.step.inputs.values()), source)):
        output = directory / "inputs" / str(number)
        source.fetch(record, output)
        store.add(record, output)
    return store


@dataclass
class BareStep:
    """A step's command on directories of its own.

    Attributes:
        argv: makes the command for an output directory.
        environment: what the step's command gets.
        outputs: new directories for outputs.
    """

    argv: Callable[[Path], tuple[str, ...]]
    environment: Mapping[str, str]
    outputs: Path

    @classmethod
    def of(cls, planned: PlannedStep, built: Example, scratch: Path) -> "BareStep":
        """The command of an external step, or of a validation."""
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
            lambda output: (*command, str(output / "answers.json")), {**toolchain.environment, **ENVIRONMENT}, scratch
        )

    def run(self) -> None:
        """Run it into a new directory."""
        output = self.outputs / f"output-{time.monotonic_ns()}"
        output.mkdir()
        _bare(self.argv(output), self.environment)


def _requests(planned: PlannedStep) -> dict[str, object]:
    """What a validation step asks its driver."""
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


def _unheard(_line: str) -> None:
    """Lines of a step that nobody reads; they still go to its log file."""
