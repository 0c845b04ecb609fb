"""The pipeline as a Prefect flow: one spec in, one published build per target out."""

import time
from collections.abc import Sequence
from functools import partial
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.results import ResultStore
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import NotSet
from prefect.utilities.urls import url_for

from enginery.context import Log
from enginery.home import home
from enginery.parallel import side_by_side
from enginery.plan import Plan, PlannedStep, make_plan
from enginery.records import StepRecord
from enginery.runner import Outcome, find_valid, require_prepared
from enginery.spec import Spec
from enginery.steps import Stage
from enginery.store import Store, open_store
from enginery.summary import BuildSummary
from enginery.toolchains import ToolchainIdentity
from enginery.validation import read_report
from flows.artifacts import Sender, build_artifacts, plan_artifacts, validation_artifact
from flows.console import build_from_cli
from flows.failure import failure
from flows.schedule import Future, Job, Results, run_jobs
from tasks.interrupt import interrupt_steps
from tasks.logs import run_log
from tasks.stages import STAGE_TASKS
from tasks.toolchain import prepare_toolchain

__all__ = ["build_from_cli", "build_model"]

MAX_WORKERS = max(4, cpu_count() or 1)
"""Steps side by side; those of different targets mostly, as one target's steps follow each other."""

TASK_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MAX_WORKERS)


def _run_name() -> str:
    """A name such as `tiny-llama: cpu, cpu-int4`."""
    spec = Spec.model_validate(flow_run.get_parameters()["spec"])
    return f"{spec.name}: {', '.join(target.name for target in spec.targets)}"


@flow(
    name="build-model",
    description="Build, check, publish and roll out the engines of one spec. Finished steps are not done again.",
    flow_run_name=_run_name,
    task_runner=TASK_RUNNER,
    persist_result=True,
)
def build_model(spec: Spec, store: str | None = None) -> BuildSummary:
    """Run the pipeline for a spec.

    Args:
        spec: what to build; see the spec reference.
        store: where step outputs live: a directory, or s3://bucket/prefix; the local store when left out.

    Raises:
        EngineryError: the one thing that failed, or a list of all that did; other targets have been finished.
    """
    started, log = time.monotonic(), run_log()
    plan, opened = make_plan(spec), open_store(store)
    done = _done_already(plan, opened)
    log(f"{len(plan.steps)} steps for {', '.join(target.name for target in plan.targets)}; {len(done)} already done")
    require_prepared(planned for planned in plan.steps if planned.key not in done)
    with Sender() as sender:
        sender.send(*plan_artifacts(plan, done))
        results = _run(plan, opened, done, log)
        outcomes = _outcomes(plan, done, results)
        sender.send(*_validation_artifacts(plan, opened, results), *build_artifacts(plan, outcomes))
    summary = BuildSummary(
        name=spec.name,
        steps=tuple(outcomes.values()),
        seconds=round(time.monotonic() - started, 3),
        run_url=url_for("flow-run", obj_id=flow_run.get_id()),
    )
    if results.errors:
        raise _failure(plan, results)
    get_run_logger().info("%s", summary.sentence)  # the command line prints the summary itself
    return summary


def _done_already(plan: Plan, store: Store) -> dict[str, StepRecord]:
    """The steps whose results are there, whatever Prefect's cache remembers: key -> record."""
    found = side_by_side(partial(find_valid, store=store), plan.steps)
    return {record.key: record for record in found if record is not None}


def _run(plan: Plan, store: Store, done: dict[str, StepRecord], log: Log) -> Results:
    jobs = _toolchain_jobs(plan, done) | _step_jobs(plan, store, done)

    def ended(name: str, results: Results) -> None:
        if name in results.errors:
            log(f"{jobs[name].label}: failed")
        elif name not in results.cached:
            log(f"{jobs[name].label}: done")

    try:
        return run_jobs(jobs, ended)
    except BaseException:
        interrupt_steps()
        raise


def _toolchain_jobs(plan: Plan, done: dict[str, StepRecord]) -> dict[str, Job]:
    """One for each environment that a step which must run needs."""
    wanted = {
        _toolchain_job_name(planned): planned.toolchain
        for planned in plan.steps
        if planned.toolchain is not None and planned.key not in done
    }
    return {name: Job(name, partial(_submit_toolchain, identity)) for name, identity in wanted.items()}


def _submit_toolchain(identity: ToolchainIdentity, _after: Sequence[Future]) -> Future:
    return cast("Future", prepare_toolchain.submit(identity))


def _toolchain_job_name(planned: PlannedStep) -> str:
    assert planned.toolchain is not None  # noqa: S101  only asked for steps that have one
    kind = "" if planned.toolchain.kind == "venv" else f" ({planned.toolchain.kind})"
    return f"toolchain {planned.toolchain.name}{kind}"


def _step_jobs(plan: Plan, store: Store, done: dict[str, StepRecord]) -> dict[str, Job]:
    ids = {planned.key: planned.id for planned in plan.steps}
    storage = _result_storage()
    jobs = {}
    for planned in plan.steps:
        inputs = tuple(ids[key] for key in planned.step.inputs.values())
        start = partial(_submit, planned, store, storage, refresh=planned.key not in done)
        if planned.key in done:  # nothing to wait for; it only follows, in the picture, what is done as well
            follows = tuple(ids[key] for key in planned.step.inputs.values() if key in done)
            jobs[planned.id] = Job(planned.label, start, follows=follows)
            continue
        needs = (*inputs, _toolchain_job_name(planned)) if planned.toolchain else inputs
        jobs[planned.id] = Job(planned.label, start, needs=needs, follows=needs)
    return jobs


def _submit(
    planned: PlannedStep, store: Store, storage: Path | type[NotSet], after: Sequence[Future], *, refresh: bool
) -> Future:
    """Hand a step to Prefect; `refresh` makes it disregard what its cache remembers."""
    configured = STAGE_TASKS[planned.step.stage].with_options(refresh_cache=refresh, result_storage=storage)
    return cast("Future", configured.submit(planned=planned, store=store, wait_for=after, return_state=False))


def _result_storage() -> Path | type[NotSet]:
    """Where Prefect keeps the small results: beside the rest of Enginery's things, unless the user has set a place."""
    chosen = get_current_settings().results.model_fields_set
    if {"default_storage_block", "local_storage_path"} & chosen or ResultStore().result_storage_block_id:
        return NotSet
    return home() / "prefect" / "results"


def _outcomes(plan: Plan, done: dict[str, StepRecord], results: Results) -> dict[str, Outcome]:
    """How each finished step came to be finished, in the plan's order: step id -> outcome."""
    outcomes: dict[str, Outcome] = {}
    for planned in plan.steps:
        if planned.id not in results.values:
            continue
        outcome: Outcome = results.values[planned.id]
        if planned.id in results.cached:
            record = done.get(planned.key)
            outcome = Outcome.of(planned, record, ran=False) if record else outcome.model_copy(update={"ran": False})
        outcomes[planned.id] = outcome
    return outcomes


def _validation_artifacts(plan: Plan, store: Store, results: Results) -> list[Any]:
    """The reports of the validations that came to an end, those that did not pass among them."""
    artifacts = []
    for planned in plan.steps:
        if planned.step.stage is not Stage.VALIDATE or planned.id in results.skipped:
            continue
        record = store.find(planned.key)
        if record is None:
            continue
        with TemporaryDirectory(prefix="enginery-") as scratch:
            store.fetch(record, Path(scratch) / "report")
            report = read_report(Path(scratch) / "report")
        artifacts += [validation_artifact(plan.spec.name, target, report) for target in planned.targets]
    return artifacts


def _failure(plan: Plan, results: Results) -> Exception:
    labels = {planned.id: planned.label for planned in plan.steps}
    errors = {labels.get(name, name): error for name, error in results.errors.items()}
    return failure(errors, [labels.get(name, name) for name in results.skipped])
