"""Compares `enginery plan` of the example with a `dvc repro` that has as many stages and nothing to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.dvc import ensure_dvc, pipeline_like
from benchmarks.results import Goal, Row, median
from benchmarks.timing import command, in_turn, load
from benchmarks.workbench import EXAMPLE, REPOSITORY, ROOT, example

HALF = Goal(0.5, "times")
OWN_WORK = Goal(0.5, "seconds")
TIMES = 15
ENGINERY = Path(sys.executable).parent / "enginery"


def measure() -> list[Row]:
    """Measure both as whole processes, and our own work without the start of Python and without imports."""
    program = ensure_dvc(ROOT / "dvc")
    with example() as built, TemporaryDirectory(prefix="enginery-bench-") as scratch:
        pipeline = pipeline_like(built.plan, Path(scratch) / "pipeline", program)
        plan = [str(ENGINERY), "plan", str(EXAMPLE)]
        ours, theirs = in_turn(lambda: command(plan, REPOSITORY), pipeline.repro, times=TIMES, warm_ups=2)
        steps = len(built.plan.steps)
        own = [own_work(EXAMPLE)["plan"] for _ in range(TIMES)]
    what = f"plan of {steps} steps, all done, against a no-op dvc repro of {steps} stages"
    return [
        Row(what, median(ours), median(theirs), HALF, TIMES, load()),
        Row("  its own work: make_plan and the look into the store", median(own), None, OWN_WORK, TIMES, load()),
    ]


def own_work(spec: Path) -> dict[str, float]:
    """The figures that `benchmarks.own_work` prints for a spec file."""
    argv = [sys.executable, "-m", "benchmarks.own_work", str(spec)]
    done = subprocess.run(argv, cwd=REPOSITORY, env=os.environ, stdout=subprocess.PIPE, check=True)
    printed: dict[str, float] = json.loads(done.stdout)
    return printed
