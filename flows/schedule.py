"""Starts each job as soon as what it needs is done. A failed job stops those that need it, and no other."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture

Future = PrefectConcurrentFuture[Any]
Start = Callable[[Sequence[Future]], Future]


@dataclass(frozen=True)
class Job:
    """One task to be run.

    Attributes:
        label: its name for people.
        start: submits it, given the futures of what it follows.
        needs: ids of the jobs that must be done before.
        follows: ids of jobs it is shown to come after, where they have been started; `needs` among them.
    """

    label: str
    start: Start
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()


@dataclass
class Results:
    """What became of the jobs, by their ids.

    Attributes:
        values: what the finished ones returned.
        cached: those that Prefect's cache answered.
        errors: why others failed.
        skipped: those that were not started because something they need failed.
    """

    values: dict[str, Any] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    errors: dict[str, Exception] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_jobs(jobs: Mapping[str, Job], ended: Callable[[str, Results], None]) -> Results:
    """Run all jobs that can be run, and return when the last has ended; `ended` is told of each."""
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    results, futures = Results(), dict[str, Future]()
    running: dict[concurrent.futures.Future[Any], str] = {}
    while True:
        for name in order.get_ready():
            futures[name] = jobs[name].start([futures[other] for other in jobs[name].follows if other in futures])
            running[futures[name].wrapped_future] = name
        if not running:
            results.skipped = [name for name in jobs if name not in futures]
            return results
        finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            name = running.pop(future)
            if _note(name, future.result(), results):
                order.done(name)
            ended(name, results)


def _note(name: str, state: State[Any], results: Results) -> bool:
    """Write down how a job ended; says whether what needs it may start."""
    value = state.result(raise_on_failure=False)
    if state.is_completed():
        results.values[name] = value
        if state.name == "Cached":
            results.cached.add(name)
        return True
    results.errors[name] = value if isinstance(value, Exception) else RuntimeError(f"{state.name}: {state.message}")
    return False
