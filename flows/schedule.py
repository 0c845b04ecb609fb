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
        elsewhere: whether other machines do the work, so that it takes no place among the jobs at work here.
    """

    label: str
    start: Start
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    elsewhere: bool = False


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


def run_jobs(jobs: Mapping[str, Job], ended: Callable[[str, Results], None], *, at_once: int) -> Results:
    """Run all jobs that can be run, and return when the last has ended.

    Args:
        jobs: by their ids; of those that may begin, the first in this order do.
        ended: is told of each.
        at_once: how many may be at work here at the same time.
    """
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    results, started = Results(), _Started(jobs, at_once)
    while True:
        started.begin(order.get_ready())
        if not started.running:
            results.skipped = [name for name in jobs if name not in started.futures]
            return results
        finished, _ = concurrent.futures.wait(started.running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            name = started.running.pop(future)
            if _note(name, future.result(), results):
                order.done(name)
            ended(name, results)


class _Started:
    """The jobs that have begun, and those that could but for the number of them."""

    def __init__(self, jobs: Mapping[str, Job], at_once: int) -> None:
        self.jobs, self.at_once = jobs, at_once
        self.place = {name: place for place, name in enumerate(jobs)}
        self.futures: dict[str, Future] = {}
        self.running: dict[concurrent.futures.Future[Any], str] = {}
        self.ready: set[str] = set()

    def begin(self, names: Sequence[str]) -> None:
        """Begin what may begin, these among them."""
        self.ready.update(names)
        free = self.at_once - sum(not self.jobs[name].elsewhere for name in self.running.values())
        for name in sorted(self.ready, key=self.place.__getitem__):
            if not self.jobs[name].elsewhere:
                if free <= 0:
                    continue
                free -= 1
            self._start(name)

    def _start(self, name: str) -> None:
        self.ready.remove(name)
        job = self.jobs[name]
        future = job.start([self.futures[other] for other in job.follows if other in self.futures])
        self.futures[name] = future
        self.running[future.wrapped_future] = name


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
