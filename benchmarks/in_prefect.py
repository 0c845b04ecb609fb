"""Runs builds with every step cached, and plain Prefect flows with as many cached tasks, in turn, in this process.

`cached_build.py` starts it with Prefect's settings in its environment. It prints the seconds of both as JSON.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from benchmarks.timing import in_turn
from benchmarks.workbench import EXAMPLE
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.tasks.schedule import MAX_WORKERS
from enginery.spec import read_spec

PAUSE_SECONDS = 1.0
"""The pause after a run: the server still writes events and logs, which would slow down the next run."""


TASK_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MAX_WORKERS)


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return f"nothing-{parameters['number']}"


@task(cache_policy=CacheKeyFnPolicy(cache_key_fn=_key), persist_result=True, result_serializer="json")
def nothing(number: int) -> int:
    """A task that does nothing and has a cached result."""
    return number


@flow(task_runner=TASK_RUNNER)
def floor(tasks: int, storage: Path) -> None:
    """A flow with only `tasks` cached tasks: no plan, no store, no artifacts, no names."""
    cached = nothing.with_options(result_storage=storage)
    for future in [cached.submit(number) for number in range(tasks)]:
        future.result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, required=True)
    parser.add_argument("--storage", type=Path, required=True)
    arguments = parser.parse_args()
    spec = read_spec(EXAMPLE)
    tasks = len(build_model(spec).steps)

    def build() -> None:
        summary = build_model(spec)
        assert not summary.ran, [outcome.id for outcome in summary.ran]

    ours, theirs = in_turn(
        build, partial(floor, tasks, arguments.storage), times=arguments.times, warm_ups=2, pause=PAUSE_SECONDS
    )
    print(json.dumps({"tasks": tasks, "ours": ours, "theirs": theirs}))


if __name__ == "__main__":
    main()
