"""What a flow run has to do, as jobs that become Prefect tasks, and the order in which these are submitted.

Prefect's `wait_for` alone is not enough: a waiting task holds a thread of the task runner, so with few threads other
targets stand still, and with many threads all targets begin at once. So a task is submitted when its inputs are done
and fewer tasks than the limit are at work.
"""

import concurrent.futures
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import cpu_count
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture, PrefectFuture

from enginery.core.progress import Log
from enginery.pipeline import PlannedStep
from enginery.pipeline.tasks.pool_run import PoolRun
from enginery.toolchains import ToolchainIdentity

MAX_WORKERS = max(4, cpu_count() or 1)
"""How many tasks are at work at once. They are mostly of different targets: a target's steps follow each other."""
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One task to be submitted.

    Attributes:
        label: its name for people.
        work: a step, a toolchain to prepare, or a run on the workers of a pool.
        needs: ids of the jobs that must be done before.
    """

    label: str
    work: PlannedStep | ToolchainIdentity | PoolRun
    needs: tuple[str, ...] = ()

    @property
    def is_remote(self) -> bool:
        """Whether other machines do the work. It does not count among the jobs at work on this one."""
        return isinstance(self.work, PoolRun)


@dataclass
class Results:
    """The results of jobs, by the jobs' ids.

    Attributes:
        values: what the finished jobs returned.
        cached: jobs whose result was in Prefect's cache.
        errors: why jobs failed.
        skipped: jobs that were not submitted, because a job that they need failed.
    """

    values: dict[str, Any] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    errors: dict[str, Exception] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


class Schedule:
    """Says which job to submit next, and collects the results. A failed job stops only the jobs that need it.

        for name, job, inputs in schedule:
            schedule.submitted(name, task.submit(job.work, wait_for=inputs))

    Args:
        jobs: id -> job. When several jobs may begin, the first in this order begins.
        at_once: how many jobs may be at work on this machine at the same time.
    """

    def __init__(self, jobs: Mapping[str, Job], log: Log, at_once: int = MAX_WORKERS) -> None:
        self.jobs, self.log, self.at_once = jobs, log, at_once
        self.results = Results()
        self._futures: dict[str, PrefectFuture[Any]] = {}
        self._running: dict[concurrent.futures.Future[Any], str] = {}

    def __iter__(self) -> Iterator[tuple[str, Job, list[PrefectFuture[Any]]]]:
        """Yield each job when it may begin, with the futures of the jobs it needs. End when the last job has ended."""
        waiting = dict(self.jobs)
        while waiting or self._running:
            name = self._next(waiting)
            if name is not None:
                job = waiting.pop(name)
                yield name, job, [self._futures[need] for need in job.needs]
            elif self._running:
                self._wait()
            else:
                self.results.skipped = list(waiting)
                return

    def submitted(self, name: str, future: PrefectFuture[Any]) -> None:
        """Take the future of a job that was submitted."""
        self._futures[name] = future
        self._running[cast("PrefectConcurrentFuture[Any]", future).wrapped_future] = name

    def _next(self, waiting: Iterable[str]) -> str | None:
        """The first job that may begin."""
        busy = sum(not self.jobs[name].is_remote for name in self._running.values()) >= self.at_once
        for name in waiting:
            job = self.jobs[name]
            if (job.is_remote or not busy) and all(need in self.results.values for need in job.needs):
                return name
        return None

    def _wait(self) -> None:
        finished: set[concurrent.futures.Future[Any]] = set()
        while not finished:  # in short waits, between which another thread can raise an exception in this one
            finished, _ = concurrent.futures.wait(self._running, WAIT_SECONDS, concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            self._collect(self._running.pop(future), future.result())

    def _collect(self, name: str, state: State[Any]) -> None:
        value = state.result(raise_on_failure=False)
        if not state.is_completed():
            unexpected = RuntimeError(f"{state.name}: {state.message}")
            self.results.errors[name] = value if isinstance(value, Exception) else unexpected
            self.log(f"{self.jobs[name].label}: failed")
            return
        self.results.values[name] = value
        if state.name == "Cached":
            self.results.cached.add(name)
        else:
            self.log(f"{self.jobs[name].label}: done")


def step_jobs(steps: Iterable[PlannedStep], done: Collection[str]) -> dict[str, Job]:
    """A job for each toolchain that the steps to run need, and then a job for each step.

    Args:
        steps: steps of one plan, each after the steps it needs. A needed step that is not among them must be done.
        done: the keys of the steps that are done. Such a step does not wait for an input that must be made again.
    """
    steps = list(steps)
    ids = {planned.key: planned.id for planned in steps}
    toolchains, jobs = {}, {}
    for planned in steps:
        is_done = planned.key in done
        inputs = [key for key in planned.step.inputs.values() if key in ids and (key in done or not is_done)]
        needs = [ids[key] for key in inputs]
        if (identity := planned.toolchain) is not None and not is_done:
            name = f"toolchain {identity.name}" + ("" if identity.kind == "venv" else f" ({identity.kind})")
            toolchains[name] = Job(name, identity)
            needs.append(name)
        jobs[planned.id] = Job(planned.label, planned, tuple(needs))
    return toolchains | jobs
