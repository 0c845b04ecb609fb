"""The steps that a flow runs in its own process."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import Any, cast

from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import get_default_result_storage
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import NotSet

from enginery.context import Log
from enginery.errors import StoreError
from enginery.home import home
from enginery.plan import PlannedStep
from enginery.store import Store
from enginery.toolchains import ToolchainIdentity
from flows.schedule import Future, Job, Results, run_jobs
from tasks.interrupt import begin_steps, interrupt_steps
from tasks.stage import cache_in
from tasks.stages import STAGE_TASKS
from tasks.toolchain import prepare_toolchain

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
