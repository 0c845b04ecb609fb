"""A fleet: the work pools that build targets, the plans that machines share, and the spec files.

There is a work pool for each kind of GPU, listed in a pools file such as `infra/pools.yaml`. A plan lies in the store,
under its digest, so that all machines work from the same plan.
"""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from enginery.core.digests import bytes_digest
from enginery.core.errors import PlanError, SpecError, StoreError, UsageError
from enginery.pipeline.plan import Plan, PlannedTarget
from enginery.spec import Spec, SpecModel, gpus, read_spec, read_yaml, sentences
from enginery.store import Store

PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Prefect allows more names; these can also be in a deployment's name, a label and a file's name."""
PLANS = "plans"
REMEDY = "give the build a store that all its machines share, such as s3://bucket/prefix"
SUFFIXES = (".yaml", ".yml")


class WorkPool(SpecModel):
    """A work pool of Prefect."""

    work_pool: PoolName
    """Its name in Prefect."""
    type: Literal["process", "docker", "kubernetes"] = "process"
    """How its workers start a run."""
    job_template: str | None = None
    """A file with Prefect's base job template for the pool, relative to this one; Prefect's own when left out."""
    concurrency: Annotated[int, Field(ge=1)] = 1
    """How many runs the pool does at once, over all builds: one for each machine, or each GPU."""


class Pool(WorkPool):
    """A work pool, and the targets that are built by its workers with the deployment `build-target/<its name>`."""

    gpu: str
    """The GPU of its machines: `cpu`, a name such as `H100-SXM5-80GB`, a pattern such as `H100-*`, or `*` for any."""
    targets: tuple[str, ...] = ("*",)
    """Names of the targets it takes, or patterns. A target goes to the first pool that takes it."""
    work_queue: str = "default"
    """The queue of the pool in which builds wait."""
    targets_at_once: Annotated[int, Field(ge=1)] = 1
    """How many steps one run does at once. Leave it at 1 where builds share a GPU's memory."""

    @field_validator("gpu")
    @classmethod
    def _is_known(cls, value: str) -> str:
        """Replace the name of a GPU by Enginery's own name for it."""
        if "*" not in value:
            try:
                return gpus.find(value).name
            except UsageError as error:
                raise ValueError(f"{error.problem}; {error.remedy}") from error
        if not any(fnmatchcase(gpu.name, value) for gpu in (gpus.CPU, *gpus.TABLE)):
            raise ValueError(f"no known GPU has a name like {value!r}; correct it, or add it to enginery/spec/gpus.py")
        return value

    def takes(self, target: PlannedTarget) -> bool:
        """Whether its workers build a target."""
        return fnmatchcase(target.gpu, self.gpu) and any(fnmatchcase(target.name, name) for name in self.targets)


class Pools(SpecModel):
    """The work pools of a fleet."""

    flows: WorkPool = WorkPool(work_pool="enginery-flows", concurrency=10)
    """The pool for flows that build nothing themselves but wait for other runs, such as `build-model`."""
    pools: Annotated[tuple[Pool, ...], Field(min_length=1)]
    """The pools. A target goes to the first one that takes it."""

    @model_validator(mode="after")
    def _builds_do_not_wait_for_themselves(self) -> Self:
        if any(pool.work_pool == self.flows.work_pool for pool in self.pools):
            raise ValueError(
                f"{self.flows.work_pool} is the pool of builds that wait; targets sent there could wait for ever"
            )
        return self

    @property
    def work_pools(self) -> Mapping[str, WorkPool]:
        """Name -> work pool. For a work pool that is listed several times, the concurrencies are added."""
        found = {self.flows.work_pool: self.flows}
        for pool in self.pools:
            known = found.get(pool.work_pool)
            more = known.concurrency if known else 0
            found[pool.work_pool] = pool.model_copy(update={"concurrency": pool.concurrency + more})
        return found

    def assign(self, plan: Plan) -> Mapping[str, Pool]:
        """The pool of each target, by the target's name.

        Raises:
            PlanError: with every target that no pool takes.
        """
        found = {
            target.name: next((pool for pool in self.pools if pool.takes(target)), None) for target in plan.targets
        }
        problems = [
            f"targets.{index} ({target.name}).gpu: no work pool takes {target.gpu}; add one to the pools file"
            for index, target in enumerate(plan.targets)
            if found[target.name] is None
        ]
        if problems:
            raise PlanError(problems, subject=plan.spec.name)
        return {name: pool for name, pool in found.items() if pool}


def read_pools(path: Path) -> Pools:
    """Read a pools file.

    Raises:
        SpecError: when it cannot be read, is not YAML, or has mistakes; lists all mistakes with their paths.
    """
    try:
        return Pools.model_validate(read_yaml(path))
    except ValidationError as error:
        raise SpecError(sentences(error, Pools), subject=str(path)) from error


def save_plan(plan: Plan, store: Store) -> str:
    """Put a plan into the store, and return its digest. `load_plan` finds the plan by this digest."""
    data = plan.model_dump_json().encode()
    digest, shelf = bytes_digest(data), store.shelf()
    found = shelf.get(_name(digest))
    if found is None or found.data != data:
        shelf.put(_name(digest), data, after=found.tag if found else None)
    return digest


def load_plan(digest: str, store: Store) -> Plan:
    """The plan in the store that has this digest.

    Raises:
        StoreError: when the store does not have the plan, when the plan was changed, or when it is of another version.
    """
    found = store.shelf().get(_name(digest))
    if found is None:
        raise StoreError("the plan is not in this machine's store", subject=digest, remedy=REMEDY)
    if bytes_digest(found.data) != digest:
        raise StoreError("the plan in the store was changed", subject=digest, remedy="run the whole build again")
    try:
        return Plan.model_validate_json(found.data)
    except ValidationError as error:
        remedy = "let the same version of Enginery run on all machines"
        raise StoreError(
            f"the plan is of another version: {error.errors()[0]['msg']}", subject=digest, remedy=remedy
        ) from error


def _name(digest: str) -> str:
    return f"{PLANS}/{digest}.json"


def spec_files(places: Iterable[str | Path]) -> list[Path]:
    """The spec files in these places, each once. A place is a file, or a directory, whose files are sorted by name.

    Raises:
        UsageError: when a place does not exist, or a directory holds no spec.
    """
    return list(dict.fromkeys(file for place in places for file in _spec_files(Path(place))))


def _spec_files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        remedy = "name spec files, or directories of them"
        raise UsageError("there is no such file or directory", subject=str(place), remedy=remedy)
    found = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    if not found:
        raise UsageError("holds no spec", subject=str(place), remedy="put spec files (*.yaml) into it")
    yield from found


def read_fleet(files: Iterable[Path]) -> list[Spec]:
    """Read specs.

    Raises:
        SpecError: with the mistakes of all specs. Two specs with the same name are a mistake: they would share builds.
    """
    specs: dict[str, Spec] = {}
    mistakes: list[str] = []
    for file in files:
        try:
            spec = read_spec(file)
        except SpecError as error:
            mistakes += [f"{file}: {mistake}" for mistake in error.mistakes]
            continue
        if spec.name in specs:
            mistakes.append(f"{file}: name: another spec is named {spec.name}, too")
        specs.setdefault(spec.name, spec)
    if mistakes:
        raise SpecError(mistakes, subject="fleet")
    return list(specs.values())
