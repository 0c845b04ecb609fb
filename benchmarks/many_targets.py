"""Measures `enginery plan` for a thousand targets, first with no step done, then with all steps done."""

import os
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.plan_against_dvc import ENGINERY, own_work
from benchmarks.results import Goal, Row, median
from benchmarks.timing import command, load, seconds
from benchmarks.workbench import REPOSITORY
from enginery.core import __version__
from enginery.dev import in_environment
from enginery.pipeline import Plan, make_plan
from enginery.spec import read_spec
from enginery.store import StepRecord, Store, digest_output, open_store

TARGETS = 1000
TIMES = 5
GOAL = Goal(1.0, "seconds")

ENGINES: list[dict[str, Any]] = [
    {"precision": "float32"},
    {"precision": "int8"},
    *(
        {"precision": "int4", "build": {"int4_block_size": size, "int4_accuracy_level": level}}
        for size in (16, 32, 64, 128, 256)
        for level in (0, 1, 4)
    ),
]


def measure(targets: int = TARGETS, times: int = TIMES) -> list[Row]:
    """Measure the plan's own work, which has a goal, and the whole command, which has none."""
    with TemporaryDirectory(prefix="enginery-bench-") as scratch, in_environment({"ENGINERY_HOME": f"{scratch}/home"}):
        spec = Path(scratch) / "many.yaml"
        spec.write_text(yaml.safe_dump(many_targets(targets)), encoding="utf-8")
        rows = _rows(spec, f"plan for {targets:,} targets, nothing done", times)
        fill(open_store(), make_plan(read_spec(spec)), Path(scratch) / "output")
        return rows + _rows(spec, f"plan for {targets:,} targets, all done", times)


def _rows(spec: Path, what: str, times: int) -> list[Row]:
    own_work(spec)  # digests the source once
    own = [own_work(spec) for _ in range(times)]
    argv = [str(ENGINERY), "plan", str(spec)]
    whole = [seconds(lambda: command(argv, REPOSITORY)) for _ in range(times)]
    return [
        Row(f"{what}: {own[0]['steps']:,} steps", median([one["plan"] for one in own]), None, GOAL, times, load()),
        Row("  besides: reading the spec file", median([one["read"] for one in own]), runs=times),
        Row("  the whole command", median(whole), runs=times, load=load()),
    ]


def many_targets(number: int) -> dict[str, Any]:
    """A spec with `number` targets. They share the download and some engines, but hardly any other step."""
    engines = cycle(ENGINES)
    return {
        "name": "many",
        "source": {"path": str(REPOSITORY / "examples" / "tiny-llama" / "model")},
        "targets": [
            {
                "name": f"cpu-{index}",
                "gpu": "cpu",
                "backend": "onnxruntime",
                "validation": {"max_tokens": index + 1},
                "serving": {"max_batch_size": index % 64 + 1},
                **next(engines),
            }
            for index in range(number)
        ],
        "validation": {"prompts": [{"prompt": "How do I count to nine in French?", "contains": "neuf"}]},
        "publish": {"to": "s3://enginery/many"},
    }


def fill(store: Store, plan: Plan, output: Path) -> None:
    """Put a record with a small output for each step of a plan into the store, as if all steps had been done."""
    output.mkdir()
    for planned in plan.steps:
        (output / "made.txt").unlink(missing_ok=True)
        (output / "made.txt").write_text(planned.id, encoding="utf-8")
        record = StepRecord(
            key=planned.key,
            step=planned.step,
            label=planned.label,
            files=digest_output(output),
            started=datetime.now(UTC),
            seconds=1.0,
            host=os.uname().nodename,
            enginery=__version__,
        )
        store.add(record, output)
