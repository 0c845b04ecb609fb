"""Runs one step: its inputs from the store, the work in a scratch directory, the output back to the store.

The record is written last, and only for a complete output. If the process dies before that, the store has no trace of
the step.
"""

import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from enginery import toolchains
from enginery.builds import read_gates, require_gates_passed
from enginery.core import __version__
from enginery.core.errors import EngineryError, PlanError, StoreError, UsageError
from enginery.core.files import writing
from enginery.core.home import logs_dir, store_dir
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log, Progress
from enginery.core.s3 import is_address
from enginery.core.text import human_bytes
from enginery.pipeline.functions import find_effect_check
from enginery.pipeline.perform import WEIGHTS, perform
from enginery.pipeline.plan import Plan, PlannedStep
from enginery.pipeline.prepared import require_prepared, with_inputs
from enginery.sources import require_whole
from enginery.spec import Finding, gpus, stopping, warning
from enginery.store import ANY_GPU, Stage, StepContext, StepRecord, Store, digest_output

SHORT_STAGES = frozenset({Stage.BENCH, Stage.GATES, Stage.PACKAGE, Stage.ROLLOUT})
HARD_STAGES = frozenset({Stage.REFERENCE, Stage.CONVERT, Stage.BUILD, Stage.VALIDATE, Stage.BENCH, Stage.EVALUATE})
"""Stages that use all of a CPU or a GPU. While one step is measured, no other of them runs on the machine."""
ANYWHERE = frozenset({Stage.REFERENCE, Stage.EVALUATE})
"""Of these, the stages that use a GPU if there is one, although they need none."""
TIMEOUT_SECONDS = {stage: 3600.0 if stage in SHORT_STAGES else 6 * 3600.0 for stage in Stage}
"""How long each stage may take. It is enough for the largest models, slow disks and slow networks."""


class Outcome(Frozen):
    """The result of a finished step.

    Attributes:
        ran: whether the work was done now; False when the store already had it.
    """

    id: str
    key: str
    label: str
    stage: Stage
    ran: bool
    seconds: float
    size: int
    facts: Facts

    @classmethod
    def of(cls, planned: PlannedStep, record: StepRecord, *, ran: bool) -> "Outcome":
        """The outcome of a step whose record is `record`."""
        return cls(
            id=planned.id,
            key=planned.key,
            label=planned.label,
            stage=planned.step.stage,
            ran=ran,
            seconds=record.seconds,
            size=record.size,
            facts=record.facts,
        )


class BuildSummary(Frozen):
    """The result of a run of the pipeline.

    Attributes:
        steps: every step of the plan, in its order.
        seconds: how long the whole run took.
        run_url: the run's page in the Prefect UI; None if no server keeps running.
    """

    name: str
    steps: tuple[Outcome, ...]
    seconds: float
    run_url: str | None = None

    @property
    def ran(self) -> tuple[Outcome, ...]:
        """The steps whose work was done in this run."""
        return tuple(step for step in self.steps if step.ran)

    @property
    def published(self) -> tuple[str, ...]:
        """The addresses of the published builds."""
        return tuple(str(step.facts["uri"]) for step in self.steps if step.stage is Stage.PUBLISH)

    @property
    def sentence(self) -> str:
        """One line for people."""
        if not self.ran:
            return f"{self.name}: nothing to do, all {len(self.steps)} steps were already done ({self.seconds:.1f} s)"
        return f"{self.name}: ran {len(self.ran)} of {len(self.steps)} steps in {self.seconds:.1f} s"


def run_step(planned: PlannedStep, store: Store, log: Log, progress: Progress | None = None) -> Outcome:
    """Run a step, or find that it is done.

    If two runs want a step at the same time, one works. The other waits and then finds the step done. `progress`
    receives the progress of the step's transfers.

    Raises:
        EngineryError: when the step fails; a note names the file with the whole log.
    """
    with store.lock(planned.key, log=log):
        return run_locked_step(planned, store, log, progress)


def run_locked_step(planned: PlannedStep, store: Store, log: Log, progress: Progress | None = None) -> Outcome:
    """Like `run_step`, for a caller that holds the step's lock."""
    record = find_valid(planned, store)
    ran = record is None
    if record is None:
        record = _execute(planned, store, log, progress)
    _require_gate(planned, record, store)
    return Outcome.of(planned, record, ran=ran)


def run_with_inputs(
    planned: PlannedStep, plan: Plan, store: Store, log: Log, progress: Progress | None = None
) -> Outcome:
    """Run a step. If the store lacks steps that it needs, these run first.

    Raises:
        EngineryError: when a step fails, or before any work begins, when something is missing that a step needs.
    """
    missing = [step for step in with_inputs(planned, plan) if find_valid(step, store) is None]
    require_prepared(missing)
    for needed in missing:
        if needed.key != planned.key:
            run_step(needed, store, log, progress)
    return run_step(planned, store, log, progress)


def find_valid(planned: PlannedStep, store: Store) -> StepRecord | None:
    """The step's record, if the store has the whole output and the step's change outside the store is still there.

    Raises:
        SourceError: when the step is a download whose weights are not complete. Versions of Enginery before this check
            kept such a download, and built from it.
    """
    record = store.find(planned.key)
    if record is not None and planned.step.stage is Stage.DOWNLOAD:
        _require_whole_download(planned, record, store.paths(record))
    still_holds = find_effect_check(planned.step.recipe) if record else None
    return record if still_holds is None or still_holds(planned.step.recipe.parameters) else None


def _require_whole_download(planned: PlannedStep, record: StepRecord, paths: Mapping[str, Path]) -> None:
    """Check the headers of downloaded weights, if this machine has all the files: none is fetched for this."""
    if len(paths) < len(record.files):
        return
    with TemporaryDirectory(prefix="enginery-") as scratch:
        for name, path in paths.items():
            if "/" not in name:
                (Path(scratch) / name).symlink_to(path)
        require_whole(Path(scratch), str(planned.step.recipe.parameters.get("location") or WEIGHTS))


def chain_of(keys: tuple[str, ...], store: Store) -> tuple[StepRecord, ...]:
    """The records of these steps and of all steps before them. Each record comes after those of its inputs.

    Raises:
        StoreError: when one of the records is not in the store.
    """
    found: dict[str, StepRecord] = {}

    def visit(key: str) -> None:
        if key in found:
            return
        record = store.find(key)
        if record is None:
            raise StoreError("an input of this step is not in the store", subject=key, remedy="run the build again")
        for needed in record.step.inputs.values():
            visit(needed)
        found[key] = record

    for key in keys:
        visit(key)
    return tuple(found.values())


def require_disk_space(plan: Plan, done: Collection[str], store: str | None) -> None:
    """Check that the disk has space for the outputs of the steps to run, unless the spec accepts the warning W203.

    Raises:
        PlanError: with the figures.
    """
    found = stopping(disk_findings(plan, done, local_place(store)), plan.spec.force)
    if found:
        raise PlanError([str(finding) for finding in found], subject=plan.spec.name)


def disk_findings(plan: Plan, done: Collection[str], place: Path) -> Iterator[Finding]:
    """Warn when the outputs of the steps to run do not fit on a disk. Model repositories do not count: they are links.

    `done` has the keys of the steps that are done. `place` is a directory on that disk; it may not exist yet.
    """
    need = sum(planned.estimated_bytes for planned in plan.steps if planned.key not in done)
    free = shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free
    if need > free:
        problem = f"the steps to run make about {human_bytes(need)}; the disk of {place} has {human_bytes(free)} free"
        yield warning("W203", "targets", problem, "make room, or set ENGINERY_HOME or --store to a larger disk")


def local_place(store: str | None) -> Path:
    """The directory on this machine where a store keeps files. A store in S3 has a local one as its cache."""
    return store_dir() if store is None or is_address(store) else Path(store).expanduser().absolute()


def _execute(planned: PlannedStep, store: Store, log: Log, progress: Progress | None) -> StepRecord:
    _require_gpu(planned.step.runs_on)
    chain = chain_of(tuple(planned.step.inputs.values()), store)
    environment = toolchains.ensure(planned.toolchain, log) if planned.toolchain else None
    with store.workspace(planned.key) as work, _logged(planned, log) as (tee, log_file):
        output = work / "output"
        output.mkdir(parents=True)
        context = StepContext(
            key=planned.key,
            parameters=planned.step.recipe.parameters,
            inputs=_fetch_inputs(planned, chain, store, work),
            output=output,
            chain=chain,
            toolchain=environment,
            log=tee,
            timeout=TIMEOUT_SECONDS[planned.step.stage],
            places=planned.places,
            shelf=store.shelf(),
            progress=progress,
        )
        tee(f"working in {work}; log in {log_file}")
        if environment and (differences := environment.facts().get("disagreements")):
            tee(f"warning: the toolchain {environment.identity.name} differs from what is recorded: {differences}")
        # A step that changes something outside the store may run again. Then the new record replaces the old one.
        replace = find_effect_check(planned.step.recipe) is not None
        with _place_on_machine(planned, store, tee) as context.neighbours:
            record = _record(planned, context)
        return store.add(record, output, replace=replace)


def _place_on_machine(planned: PlannedStep, store: Store, log: Log) -> AbstractContextManager[tuple[str, ...]]:
    """Steps that work hard run side by side, but not beside a measurement of speed. Others need nothing."""
    step = planned.step
    if step.stage not in HARD_STAGES:
        return nullcontext(())
    may_use_gpu = step.runs_on != gpus.CPU.name and (step.runs_on != "any" or step.stage in ANYWHERE)
    return store.working(planned.label, log, alone=step.stage is Stage.BENCH, gpu=may_use_gpu)


def _record(planned: PlannedStep, context: StepContext) -> StepRecord:
    """Do the work of a step, and return its record."""
    started, clock = datetime.now(UTC), time.monotonic()
    facts = perform(planned, context)
    return StepRecord(
        key=planned.key,
        step=planned.step,
        label=planned.label,
        files=digest_output(context.output),
        started=started,
        seconds=round(time.monotonic() - clock, 3),
        host=socket.gethostname(),
        toolchain=toolchains.known_facts(context.toolchain) if context.toolchain else {},
        peak_memory_bytes=max((done.peak_memory_bytes for done in context.completed), default=0),
        commands=tuple(done.argv for done in context.completed),
        facts=facts,
        enginery=__version__,
    )


def _fetch_inputs(planned: PlannedStep, chain: tuple[StepRecord, ...], store: Store, work: Path) -> dict[str, Path]:
    records = {record.key: record for record in chain}
    inputs = {}
    for name, key in planned.step.inputs.items():
        inputs[name] = work / "inputs" / name
        store.fetch(records[key], inputs[name])
    return inputs


@contextmanager
def _logged(planned: PlannedStep, log: Log) -> Iterator[tuple[Log, Path]]:
    """Yield a log that also writes each line to a file, and the file's path. An error gets a note with the path."""
    path = logs_dir() / f"{planned.id.replace('/', '-')}-{planned.key[:12]}.log"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a", encoding="utf-8", buffering=1)
    with opened as file:
        file.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {planned.label} {planned.key}\n")

        def tee(line: str) -> None:
            file.write(f"{line}\n")
            log(line)

        try:
            yield tee, path
        except EngineryError as error:
            file.write(f"{error}\n")
            error.add_note(f"whole log: {path}")
            raise


def _require_gpu(runs_on: str) -> None:
    if runs_on in {"any", gpus.CPU.name}:
        return
    present = gpus.detect()
    if present is None or runs_on not in {present.name, ANY_GPU}:
        has = present.name if present else "no NVIDIA GPU"
        if runs_on == ANY_GPU:
            remedy = "run it on a machine with one, or set convert.device: cpu where the converter can do that"
            raise UsageError("this step needs an NVIDIA GPU; this machine has none", remedy=remedy)
        raise UsageError(
            f"this step must run on {runs_on}; this machine has {has}",
            remedy=f"run it on a machine with {runs_on}: an engine is built on the GPU it is for",
        )


def _require_gate(planned: PlannedStep, record: StepRecord, store: Store) -> None:
    """Raise an error if the step judged the gates, in this run or in an earlier one, and a gate stops the build."""
    if planned.step.stage is not Stage.GATES or record.facts.get("passed"):
        return
    with TemporaryDirectory(prefix="enginery-") as scratch:
        report = Path(scratch) / "gates"
        store.fetch(record, report)
        require_gates_passed(read_gates(report), planned.label)
