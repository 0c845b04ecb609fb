"""Runs one step: its inputs from the store, the work in a scratch directory, the output back to the store.

A record is written last, and only for a whole output. Whatever dies before that leaves nothing to be seen.
"""

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from enginery import __version__, functions, gpus, toolchains
from enginery.context import Facts, Log, StepContext
from enginery.drivers import DRIVERS
from enginery.errors import EngineryError, StoreError, UsageError
from enginery.files import cannot_write
from enginery.home import logs_dir
from enginery.plan import Plan, PlannedStep
from enginery.progress import Progress
from enginery.records import StepRecord
from enginery.release_examples import examples_dir
from enginery.steps import ANY_GPU, Call, Command, Frozen, Stage
from enginery.store import Store, digest_output

TIMEOUT_SECONDS = {
    Stage.DOWNLOAD: 6 * 3600.0,
    Stage.CONVERT: 6 * 3600.0,
    Stage.BUILD: 6 * 3600.0,
    Stage.VALIDATE: 3600.0,
    Stage.PACKAGE: 3600.0,
    Stage.PUBLISH: 6 * 3600.0,
    Stage.ROLLOUT: 3600.0,
}
"""How long each stage may take; generous, for the largest models on slow disks and lines."""


class Outcome(Frozen):
    """How a step came to be finished.

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


def run_step(planned: PlannedStep, store: Store, log: Log, progress: Progress | None = None) -> Outcome:
    """Bring one step to its end, by doing it or by finding it done.

    Two runs of one key at once: one works, the other waits and finds it done. `progress` is told of its transfers.

    Raises:
        EngineryError: when it fails; a note names the file with the whole log.
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


def find_valid(planned: PlannedStep, store: Store) -> StepRecord | None:
    """The step's record, if the store has it whole and what it did elsewhere still holds."""
    record = store.find(planned.key)
    recipe = planned.step.recipe
    if record is None or (isinstance(recipe, Call) and not functions.still_holds(recipe.function, recipe.parameters)):
        return None
    return record


def require_prepared(steps: Iterable[PlannedStep]) -> None:
    """Make sure that steps which are to run will find what they need outside the store, before any work is begun.

    Raises:
        EngineryError: the first that will not, such as a bucket that does not exist.
    """
    for planned in steps:
        if isinstance(planned.step.recipe, Call):
            functions.require_prepared(planned.step.recipe.function, planned.step.recipe.parameters)


def chain_of(keys: tuple[str, ...], store: Store) -> tuple[StepRecord, ...]:
    """The records of these steps and all they come from, each after those it needs.

    Raises:
        StoreError: when one of them is not in the store.
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


def _execute(planned: PlannedStep, store: Store, log: Log, progress: Progress | None) -> StepRecord:
    _require_gpu(planned.step.runs_on)
    chain = chain_of(tuple(planned.step.inputs.values()), store)
    environment = toolchains.ensure(planned.toolchain, log) if planned.toolchain else None
    with store.workspace(planned.key) as work, _logged(planned, log) as (tee, log_file):
        context = StepContext(
            key=planned.key,
            parameters=planned.step.recipe.parameters,
            inputs=_fetch_inputs(planned, chain, store, work),
            output=_made(work / "output"),
            chain=chain,
            toolchain=environment,
            log=tee,
            timeout=TIMEOUT_SECONDS[planned.step.stage],
            places=planned.places,
            shelf=store.shelf(),
            progress=progress,
        )
        tee(f"working in {work}; log in {log_file}")
        if environment and (told := toolchains.disagreements(environment)):
            tee(f"warning: the toolchain {environment.identity.name} is not what is recorded of it: {told}")
        record = _record(planned, context)
        return store.add(record, context.output, replace=_can_be_undone(planned))


def _can_be_undone(planned: PlannedStep) -> bool:
    """Whether the step may run again although the store has it, so that the new record is the true one."""
    recipe = planned.step.recipe
    return isinstance(recipe, Call) and functions.changes_elsewhere(recipe.function)


def _record(planned: PlannedStep, context: StepContext) -> StepRecord:
    """Do the work and describe it."""
    started, clock = datetime.now(UTC), time.monotonic()
    facts = _perform(planned, context)
    return StepRecord(
        key=planned.key,
        step=planned.step,
        label=planned.label,
        files=digest_output(context.output),
        started=started,
        seconds=round(time.monotonic() - clock, 3),
        host=socket.gethostname(),
        toolchain=toolchains.probe(context.toolchain) if context.toolchain else {},
        peak_memory_bytes=max((done.peak_memory_bytes for done in context.completed), default=0),
        commands=tuple(done.argv for done in context.completed),
        facts=facts,
        enginery=__version__,
    )


def _perform(planned: PlannedStep, context: StepContext) -> Facts:
    recipe = planned.step.recipe
    if isinstance(recipe, Call):
        return functions.find_function(recipe.function)(context)
    argv = fill(recipe, places(context, recipe))
    if recipe.runner is not None:
        return functions.find_command_runner(recipe.runner)(context, argv, recipe.environment)
    context.run(argv, recipe.environment)
    return {}


def places(context: StepContext, recipe: Command) -> dict[str, str]:
    """What the placeholders of a command stand for in this run.

    Raises:
        ToolchainError: when it needs the release's examples and there are none, or those of another release.
    """
    found = {**context.places, **{name: str(directory) for name, directory in context.inputs.items()}}
    found["output"] = str(context.output)
    found["drivers"] = str(DRIVERS)
    if context.toolchain:
        found["python"] = str(context.toolchain.python)
        if any("{examples}" in argument for argument in recipe.argv):
            found["examples"] = str(examples_dir(context.toolchain.identity, context.places.get("examples", "")))
    return found


def fill(recipe: Command, values: Mapping[str, str]) -> tuple[str, ...]:
    """The command with its placeholders replaced.

    Raises:
        UsageError: when a placeholder has no value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UsageError(f"the recipe has a placeholder {match[0]} that nothing fills")
        return values[match[1]]

    return tuple(re.sub(r"\{(\w+)\}", value, argument) for argument in recipe.argv)


def _fetch_inputs(planned: PlannedStep, chain: tuple[StepRecord, ...], store: Store, work: Path) -> dict[str, Path]:
    records = {record.key: record for record in chain}
    inputs = {}
    for name, key in planned.step.inputs.items():
        inputs[name] = work / "inputs" / name
        store.fetch(records[key], inputs[name])
    return inputs


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


@contextmanager
def _logged(planned: PlannedStep, log: Log) -> Iterator[tuple[Log, Path]]:
    """Every line also goes to a file that outlives the run; an error names it."""
    path = logs_dir() / f"{planned.id.replace('/', '-')}-{planned.key[:12]}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise cannot_write(path, error) from error
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
        here = present.name if present else "no NVIDIA GPU"
        if runs_on == ANY_GPU:
            remedy = "run it on a machine with one, or set convert.device: cpu where the converter can do that"
            raise UsageError("this step needs an NVIDIA GPU; this machine has none", remedy=remedy)
        raise UsageError(
            f"this step must run on {runs_on}; this machine has {here}",
            remedy=f"run it on a machine with {runs_on}: an engine is built on the GPU it is for",
        )


def _require_gate(planned: PlannedStep, record: StepRecord, store: Store) -> None:
    """A recorded validation that did not pass stops what follows, each time it is met."""
    if planned.step.stage is not Stage.VALIDATE or record.facts.get("passed"):
        return
    from enginery.validation import read_report, require_passed  # noqa: PLC0415  a plan needs no reports

    with TemporaryDirectory(prefix="enginery-") as scratch:
        report = Path(scratch) / "report"
        store.fetch(record, report)
        require_passed(read_report(report), planned.label)


def run_with_inputs(
    planned: PlannedStep, plan: Plan, store: Store, log: Log, progress: Progress | None = None
) -> Outcome:
    """Run a step after whatever it needs that the store does not have."""
    for needed in plan.inputs_of(planned):
        if find_valid(needed, store) is None:
            run_with_inputs(needed, plan, store, log, progress)
    return run_step(planned, store, log, progress)
