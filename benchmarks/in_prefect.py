"""Runs builds with every step cached, and flows of Prefect's own with as many cached tasks, in turn, in this process.

Started by `cached_build.py` with Prefect's settings in its environment; prints the seconds of each as JSON.
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
"""The server goes on writing events and logs after a run; that shall not slow down the next."""


FEW_AT_ONCE: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MAX_WORKERS)


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return f"nothing-{parameters['number']}"


@task(cache_policy=CacheKeyFnPolicy(cache_key_fn=_key), persist_result=True, result_serializer="json")
def nothing(number: int) -> int:
    """A task with nothing to do, and a result that is cached."""
    return number


@flow(task_runner=FEW_AT_ONCE)
def floor(tasks: int, storage: Path) -> None:
    """The least that so many cached tasks cost: no plan, no store, no artifacts, no names."""
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
