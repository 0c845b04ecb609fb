"""The steps that a flow runs in its own process."""

import concurrent.futures
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from os import cpu_count
from pathlib import Path
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.futures import PrefectConcurrentFuture
from prefect.results import get_default_result_storage
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import NotSet

from enginery.core.errors import StoreError
from enginery.core.home import home
from enginery.core.progress import Log
from enginery.pipeline import PlannedStep
from enginery.pipeline.tasks.interrupt import begin_steps, interrupt_steps
from enginery.pipeline.tasks.stages import STAGE_TASKS, cache_in, prepare_toolchain
from enginery.store import Store
from enginery.toolchains import ToolchainIdentity

# Starts each job as soon as what it needs is done. A failed job stops those that need it, and no other.


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


MAX_WORKERS = max(4, cpu_count() or 1)
"""Steps side by side; those of different targets mostly, as one target's steps follow each other."""

TASK_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1024)
"""How many tasks are at work is decided by `run_jobs`; those that wait for other machines each have a thread too."""

PROBE = "enginery-probe"


def run_here(jobs: Mapping[str, Job], log: Log, *, at_once: int = MAX_WORKERS) -> Results:
    """Run jobs, and tell of each that comes to its end."""

    def ended(name: str, results: Results) -> None:
        if name in results.errors:
            log(f"{jobs[name].label}: failed")
        elif name not in results.cached:
            log(f"{jobs[name].label}: done")

    begin_steps()
    try:
        return run_jobs(jobs, ended, at_once=at_once)
    except BaseException:
        interrupt_steps()
        raise


def step_jobs(steps: Iterable[PlannedStep], store: Store, done: Collection[str]) -> dict[str, Job]:
    """A job for each step, and one for each environment that a step which must run needs.

    Args:
        steps: of one plan, each after those it needs; what they need of others must be done.
        store: where their outputs go.
        done: the keys of the steps that are done.
    """
    wanted = list(steps)
    return _toolchain_jobs(wanted, done) | _step_jobs(wanted, store, done)


def _toolchain_jobs(steps: Iterable[PlannedStep], done: Collection[str]) -> dict[str, Job]:
    wanted = {
        _toolchain_job_name(planned): planned.toolchain
        for planned in steps
        if planned.toolchain is not None and planned.key not in done
    }
    return {name: Job(name, partial(_submit_toolchain, identity)) for name, identity in wanted.items()}


def _submit_toolchain(identity: ToolchainIdentity, _after: Sequence[Future]) -> Future:
    return cast("Future", prepare_toolchain.submit(identity))


def _toolchain_job_name(planned: PlannedStep) -> str:
    assert planned.toolchain is not None  # noqa: S101  only asked for steps that have one
    kind = "" if planned.toolchain.kind == "venv" else f" ({planned.toolchain.kind})"
    return f"toolchain {planned.toolchain.name}{kind}"


def _step_jobs(steps: Sequence[PlannedStep], store: Store, done: Collection[str]) -> dict[str, Job]:
    ids = {planned.key: planned.id for planned in steps}
    start = _starter(store)
    jobs = {}
    for planned in steps:
        inputs = [key for key in planned.step.inputs.values() if key in ids]
        begin = partial(start, planned, refresh=planned.key not in done)
        if planned.key in done:  # nothing to wait for; it only follows, in the picture, what is done as well
            jobs[planned.id] = Job(planned.label, begin, follows=tuple(ids[key] for key in inputs if key in done))
            continue
        needs = tuple(ids[key] for key in inputs)
        needs = (*needs, _toolchain_job_name(planned)) if planned.toolchain else needs
        jobs[planned.id] = Job(planned.label, begin, needs=needs, follows=needs)
    return jobs


def _starter(store: Store) -> Callable[..., Future]:
    """What hands a step to Prefect; `refresh` makes it disregard what its cache remembers."""
    storage, policy = result_storage(), cache_in(store)

    def start(planned: PlannedStep, after: Sequence[Future], *, refresh: bool) -> Future:
        configured = STAGE_TASKS[planned.step.stage].with_options(
            refresh_cache=refresh, result_storage=storage, cache_policy=policy
        )
        return cast("Future", configured.submit(planned=planned, store=store, wait_for=after, return_state=False))

    return start


def result_storage() -> Path | type[NotSet]:
    """Where Prefect keeps the small results: beside the rest of Enginery's things, unless the user has set a place."""
    chosen = get_current_settings().results.model_fields_set
    if "local_storage_path" in chosen or not isinstance(_chosen_storage(), LocalFileSystem):
        return NotSet
    return home() / "prefect" / "results"


def _chosen_storage() -> WritableFileSystem:
    """What this machine's settings, or else Prefect's server, say."""
    return cast("WritableFileSystem", get_default_result_storage(_sync=True))  # type: ignore[call-arg]


def require_result_storage() -> None:
    """Make sure that results can be kept where the user has set: Prefect itself would only warn, at every step.

    Raises:
        StoreError: when they cannot.
    """
    try:
        storage = _chosen_storage()
        if not isinstance(storage, LocalFileSystem):
            cast("Any", storage).write_path(PROBE, b"", _sync=True)
    except Exception as error:
        remedy = "correct the block that holds results: prefect block ls; or unset PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"
        problem = f"Prefect's result storage cannot be written: {type(error).__name__}: {error}"
        raise StoreError(problem, remedy=remedy) from error
