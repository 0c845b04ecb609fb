"""The Prefect task of each stage, the task that prepares a toolchain, and where Prefect keeps their results."""

import logging
from pathlib import Path
from typing import Any, cast

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import get_default_result_storage
from prefect.settings import get_current_settings
from prefect.tasks import exponential_backoff
from prefect.transactions import IsolationLevel
from prefect.utilities.annotations import NotSet

from enginery import toolchains
from enginery.core.errors import EngineryError, StoreError
from enginery.core.home import home
from enginery.core.progress import LogProgress, ProgressGroup
from enginery.pipeline import HARD_STAGES, TIMEOUT_SECONDS, Outcome, PlannedStep, run_locked_step, run_step
from enginery.pipeline.tasks.interrupt import at_work
from enginery.pipeline.tasks.locks import StoreLocks, is_locked_already
from enginery.pipeline.tasks.progress import ArtifactProgress, run_log
from enginery.store import Stage, Store
from enginery.toolchains import ToolchainIdentity

StageTask = Task[[PlannedStep, Store], Outcome]

RETRIES = 3
FIRST_DELAY_SECONDS = 2
JITTER = 0.5
LIMIT_MARGIN_SECONDS = 120.0
"""A step's command has its own time limit, with a better error. The task's limit is longer, for all other work."""
LONGEST_WAIT_SECONDS = dict.fromkeys(HARD_STAGES, max(TIMEOUT_SECONDS.values()))
"""A step may have to wait until another one has been measured, which waits for those that work already."""
PROBE = "enginery-probe"
"""The name of an object that is written to test whether results can be written."""


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: the error is marked as transient."""
    error = state.data
    return isinstance(error, EngineryError) and error.transient


def step_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Prefect's cache key of a step is the step's own key."""
    planned: PlannedStep = parameters["planned"]
    return planned.key


STEP_CACHE = CacheKeyFnPolicy(cache_key_fn=step_key)


def perform(planned: PlannedStep, store: Store) -> Outcome:
    """Run a step for the current task run. A transient error is logged, because Prefect then tries the task again."""
    log = run_log()
    with (
        ArtifactProgress(f"{planned.label} {planned.step.recipe.parameters.get('model', '')}", log) as artifact,
        at_work(),
    ):
        progress = ProgressGroup(LogProgress(log), artifact) if planned.step.stage is Stage.PUBLISH else None
        try:
            run = run_locked_step if is_locked_already(planned.key) else run_step
            return run(planned, store, log, progress)
        except EngineryError as error:
            if error.transient:
                log(f"failed with an error that may be temporary: {error}")
            raise


def _not_about_threads(record: logging.LogRecord) -> bool:
    """Drop Prefect's warning that a time limit cannot interrupt a thread. It can: our commands wake up often."""
    return "worker thread. Timeouts in worker threads" not in str(record.msg)


logging.getLogger("prefect.task_runs").addFilter(_not_about_threads)


DESCRIPTIONS = {
    Stage.DOWNLOAD: "Fetch the weights.",
    Stage.REFERENCE: "Ask the original weights, to compare the engine with them.",
    Stage.CONVERT: "Convert the weights into a checkpoint, and quantize them where the spec says so.",
    Stage.BUILD: "Build the engine of one target.",
    Stage.VALIDATE: "Send the spec's prompts and the reference's texts to the engine.",
    Stage.BENCH: "Measure how fast the engine is, alone on the machine.",
    Stage.EVALUATE: "Run one of the spec's evaluations.",
    Stage.GATES: "Compare what was measured with the limits.",
    Stage.PACKAGE: "Write the Triton model repository.",
    Stage.PUBLISH: "Put the finished build into the registry.",
    Stage.ROLLOUT: "Load the build into the Triton servers.",
}
"""What the task of each stage does, for the Prefect UI."""

STAGE_TASKS: dict[Stage, StageTask] = {
    stage: task(
        name=stage.value,
        description=about,
        task_run_name="{planned.label}",
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY_SECONDS),
        retry_jitter_factor=JITTER,
        retry_condition_fn=is_transient,
        timeout_seconds=TIMEOUT_SECONDS[stage] + LIMIT_MARGIN_SECONDS + LONGEST_WAIT_SECONDS.get(stage, 0.0),
        cache_policy=STEP_CACHE,
        persist_result=True,
        result_serializer="json",
    )(perform)
    for stage, about in DESCRIPTIONS.items()
}
"""The tasks have no tags. For each task with a tag, Prefect 3.8 asks its server for a concurrency slot; with SQLite,
every few tasks this took 2 s. In the UI a stage is found by its task's name."""


def tasks_in(store: Store) -> dict[Stage, StageTask]:
    """The tasks of all stages, for steps whose outputs go into `store`. If a step runs twice at once, one run works."""
    policy = STEP_CACHE.configure(lock_manager=StoreLocks(store), isolation_level=IsolationLevel.SERIALIZABLE)
    storage = result_storage()
    return {
        stage: task.with_options(result_storage=storage, cache_policy=policy) for stage, task in STAGE_TASKS.items()
    }


def result_storage() -> Path | type[NotSet]:
    """Where Prefect keeps its small results: in Enginery's home, unless the user has set another place."""
    set_by_user = get_current_settings().results.model_fields_set
    if "local_storage_path" in set_by_user or not isinstance(_default_storage(), LocalFileSystem):
        return NotSet
    return home() / "prefect" / "results"


def _default_storage() -> WritableFileSystem:
    """The storage in this machine's settings, or else in those of Prefect's server."""
    return cast("WritableFileSystem", get_default_result_storage(_sync=True))  # type: ignore[call-arg]


def require_result_storage() -> None:
    """Check that Prefect can write results where the user has set. Prefect itself only warns, at every step.

    Raises:
        StoreError: when Prefect cannot.
    """
    try:
        storage = _default_storage()
        if not isinstance(storage, LocalFileSystem):
            cast("Any", storage).write_path(PROBE, b"", _sync=True)
    except Exception as error:
        remedy = "correct the block that holds results: prefect block ls; or unset PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"
        problem = f"Prefect's result storage cannot be written: {type(error).__name__}: {error}"
        raise StoreError(problem, remedy=remedy) from error


@task(
    name="toolchain",
    task_run_name="toolchain {identity.name}",
    retries=RETRIES,
    retry_delay_seconds=FIRST_DELAY_SECONDS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
    persist_result=False,
)
def prepare_toolchain(identity: ToolchainIdentity) -> None:
    """Create the environment in which a release's commands run, if it is not ready."""
    with at_work():
        toolchains.ensure(identity, run_log())
