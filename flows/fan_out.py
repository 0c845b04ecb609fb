"""Sends targets to the work pools of their GPUs.

Several runs may need the same step, such as one download for all targets. Then the step is part of each run. Because of
the step's lock, one machine does it and the others use its output. Two kinds of step stay on this machine: reading a
source that is a directory of this machine, and rolling out when the builds are done.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from enginery.core.digests import json_digest
from enginery.core.errors import PlanError
from enginery.pipeline import Plan, PlannedStep, Pool, Pools, save_plan
from enginery.pipeline.tasks.pool_run import FLOW, PoolRun, is_deployed
from enginery.pipeline.tasks.schedule import Job
from enginery.store import Call, Stage, Store

PREPARE = "run: python -m flows.prepare_fleet infra/pools.yaml; then: prefect --no-prompt deploy --all"


@dataclass(frozen=True)
class Batch:
    """Targets that one run builds, by their names and in the plan's order."""

    pool: Pool
    targets: tuple[str, ...]

    @property
    def id(self) -> str:
        """The id of its job in the build."""
        return f"{self.pool.work_pool}/{self.targets[0]}"

    @property
    def label(self) -> str:
        """A name for people: the first targets, and how many more there are."""
        shown, more = ", ".join(self.targets[:3]), len(self.targets) - 3
        return f"{shown} and {more} more" if more > 0 else shown


def batches(plan: Plan, pools: Pools) -> tuple[Batch, ...]:
    """Split the targets into batches. A pool gets one batch for each run that it does at once.

    The batches depend on plan and pools only. So a build that is tried again finds the runs that it started before.

    Raises:
        PlanError: with every target that no pool takes.
    """
    assigned: dict[Pool, list[str]] = {}
    for name, pool in pools.assign(plan).items():
        assigned.setdefault(pool, []).append(name)
    return tuple(
        Batch(pool, tuple(names[number :: pool.concurrency]))
        for pool, names in assigned.items()
        for number in range(min(pool.concurrency, len(names)))
    )


def part_for(plan: Plan, targets: Collection[str]) -> tuple[PlannedStep, ...]:
    """The steps of a plan that belong to a run for these targets."""
    wanted = set(targets)
    return tuple(
        planned for planned in plan.steps if wanted & set(planned.targets) and planned.step.stage is not Stage.ROLLOUT
    )


def stays_local(planned: PlannedStep) -> bool:
    """Whether this step must run on the machine that made the plan."""
    recipe = planned.step.recipe
    reads_local = isinstance(recipe, Call) and recipe.function == "download" and recipe.parameters.get("kind") == "path"
    return reads_local or planned.step.stage is Stage.ROLLOUT


@dataclass(frozen=True)
class FanOut:
    """How a build is spread over work pools.

    Attributes:
        run: the build's own flow run.
        address: the address of the store that all machines share.
        wait_for_worker: how many seconds a pool may be without a worker.
    """

    plan: Plan
    batches: tuple[Batch, ...]
    run: str
    address: str | None
    wait_for_worker: float

    def jobs(self, local: Mapping[str, Job], store: Store, done: Collection[str]) -> dict[str, Job]:
        """The jobs of this machine, and one for each batch with steps that are not done."""
        digest, sent, made_by = save_plan(self.plan, store), dict[str, Job](), dict[str, list[str]]()
        for batch in self.batches:
            part = part_for(self.plan, batch.targets)
            if all(planned.key in done for planned in part):
                continue
            needs = tuple(planned.id for planned in part if planned.id in local and planned.key not in done)
            sent[batch.id] = Job(f"{batch.pool.work_pool}: {batch.label}", self._run_of(batch, digest, store), needs)
            for planned in part:
                made_by.setdefault(planned.key, []).append(batch.id)
        return {name: self._after_batches(job, made_by) for name, job in local.items()} | sent

    def _after_batches(self, job: Job, made_by: Mapping[str, Sequence[str]]) -> Job:
        """The job, which also needs the batches that make its inputs."""
        inputs = job.work.step.inputs.values() if isinstance(job.work, PlannedStep) else ()
        made = dict.fromkeys(batch for key in inputs for batch in made_by.get(key, ()))
        return replace(job, needs=(*job.needs, *made))

    def _run_of(self, batch: Batch, digest: str, store: Store) -> PoolRun:
        return PoolRun(
            pool=batch.pool.work_pool,
            queue=batch.pool.work_queue,
            name=f"{self.plan.spec.name}: {batch.label} on {batch.pool.work_pool}",
            parameters={
                "plan": digest,
                "targets": list(batch.targets),
                "store": self.address,
                "targets_at_once": batch.pool.targets_at_once,
            },
            # The plan's digest cannot be the key: the plan's notes are about earlier builds, so they change.
            key=json_digest([self.run, [planned.key for planned in self.plan.steps], list(batch.targets)]),
            store=store,
            wait_for_worker=self.wait_for_worker,
        )


def require_pools(wanted: Iterable[Pool], subject: str) -> None:
    """Check that Prefect's server knows the pools and their deployments.

    Raises:
        PlanError: with every pool and deployment that the server does not know.
    """
    missing = []
    with get_client(sync_client=True) as client:
        for name in dict.fromkeys(pool.work_pool for pool in wanted):
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                missing.append(f"work pool {name}")
            if not is_deployed(f"{FLOW}/{name}", client):
                missing.append(f"deployment {FLOW}/{name}")
    if missing:
        raise PlanError([f"Prefect's server has no {what}; {PREPARE}" for what in missing], subject=subject)
