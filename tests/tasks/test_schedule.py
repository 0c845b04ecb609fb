"""Tests of the order of jobs: they start in the plan's order, and work on other machines does not count."""

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed, Failed

from enginery.core.progress import no_log
from enginery.pipeline.tasks.pool_run import PoolRun
from enginery.pipeline.tasks.schedule import Job, Results, Schedule
from tests.support.waiting import wait_until


class Machine:
    """Runs jobs in threads. The test decides when each job ends."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end: dict[str, threading.Event] = {}
        self.fails: dict[str, bool] = {}
        self.threads = concurrent.futures.ThreadPoolExecutor(max_workers=16)

    def job(self, name: str, *needs: str, fails: bool = False, elsewhere: bool = False) -> Job:
        self.may_end[name] = threading.Event()
        self.fails[name] = fails
        work = PoolRun("pool", "queue", name, {}, name, cast("Any", None), 1.0) if elsewhere else None
        return Job(name, cast("Any", work), needs)

    def run(self, jobs: dict[str, Job], *, at_once: int) -> "concurrent.futures.Future[Results]":
        return self.threads.submit(self._run, Schedule(jobs, no_log, at_once))

    def _run(self, schedule: Schedule) -> Results:
        for name, _, _ in schedule:
            self.begun.append(name)
            schedule.submitted(name, PrefectConcurrentFuture(uuid4(), self.threads.submit(self._work, name)))
        return schedule.results

    def _work(self, name: str) -> Any:
        self.may_end[name].wait(20)
        return Failed(data=ValueError(name)) if self.fails[name] else Completed(data=name)

    def end(self, *names: str) -> None:
        for name in names:
            self.may_end[name].set()


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.end(*made.may_end)
    made.threads.shutdown()


def test_no_more_jobs_begin_than_may_be_at_work_at_once(machine: Machine) -> None:
    running = machine.run({name: machine.job(name) for name in "abc"}, at_once=2)
    wait_until(lambda: machine.begun == ["a", "b"])
    machine.end("b")
    wait_until(lambda: machine.begun == ["a", "b", "c"])
    machine.end("a", "c")
    assert set(running.result(20).values) == {"a", "b", "c"}


def test_a_target_is_finished_before_the_next_starts(machine: Machine) -> None:
    jobs = {"build/a": machine.job("build/a"), "package/a": machine.job("package/a", "build/a")}
    jobs |= {"build/b": machine.job("build/b"), "package/b": machine.job("package/b", "build/b")}
    machine.end(*jobs)
    machine.run(jobs, at_once=1).result(20)
    assert machine.begun == ["build/a", "package/a", "build/b", "package/b"]


def test_the_work_of_other_machines_takes_no_place_here(machine: Machine) -> None:
    jobs = {name: machine.job(name, elsewhere=True) for name in "xyz"} | {"here": machine.job("here")}
    running = machine.run(jobs, at_once=1)
    wait_until(lambda: sorted(machine.begun) == ["here", "x", "y", "z"])
    machine.end(*jobs)
    assert len(running.result(20).values) == 4


def test_a_failed_job_stops_those_that_need_it_and_no_other(machine: Machine) -> None:
    jobs = {"a": machine.job("a", fails=True), "after-a": machine.job("after-a", "a"), "b": machine.job("b")}
    machine.end(*jobs)
    results = machine.run(jobs, at_once=1).result(20)
    assert list(results.errors) == ["a"]
    assert results.skipped == ["after-a"]
    assert list(results.values) == ["b"]
