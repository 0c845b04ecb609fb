"""Runs one step: its inputs from the store, the work in a scratch directory, the output back to the store.

A record is written last, and only for a whole output. Whatever dies before that leaves nothing to be seen.
"""

import re
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from pydantic import JsonValue

from enginery import toolchains
from enginery.builds import read_report, require_passed
from enginery.core.errors import EngineryError, PlanError, StoreError, UsageError
from enginery.core.files import cannot_write
from enginery.core.home import logs_dir, store_dir
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log, Progress
from enginery.core.text import human_bytes
from enginery.core.versions import __version__
from enginery.pipeline.plan import Plan, PlannedStep
from enginery.spec import Finding, gpus, stopping, warning
from enginery.store import ANY_GPU, Call, Command, Stage, StepContext, StepRecord, Store, digest_output
from enginery.toolchains import DRIVERS, examples_dir

# The functions that internal steps call, by the name their recipes use.
#
# They are looked up by name and imported when first called, so that making a plan loads none of them.


StepFunction = Callable[[StepContext], Facts]
CommandRunner = Callable[[StepContext, tuple[str, ...], Mapping[str, str]], Facts]
EffectCheck = Callable[[Mapping[str, JsonValue]], bool]
PreparationCheck = Callable[[Mapping[str, JsonValue]], None]

FUNCTIONS = {
    "download": "enginery.sources:download",
    "validate": "enginery.backends.validate:validate",
    "package": "enginery.triton.repository:package",
    "package_inflight": "enginery.backends.package:package_inflight",
    "package_llmapi": "enginery.backends.package:package_llmapi",
    "publish": "enginery.registry:publish",
    "rollout": "enginery.triton.rollout:rollout",
}

COMMAND_RUNNERS = {
    "convert_checkpoint": "enginery.backends.tensorrt.convert:convert_checkpoint",
    "build_engine": "enginery.backends.tensorrt.build:build_engine",
    "export_checkpoint": "enginery.backends.pytorch.quantize:export_checkpoint",
}
"""Functions that run an external step's command, and check what it made before it counts."""

EFFECT_CHECKS = {
    "publish": "enginery.registry:is_published",
    "rollout": "enginery.triton.rollout:is_serving",
}
"""Steps that change something outside the store: their records are only believed while the change is still there."""


PREPARATION_CHECKS = {
    "publish": "enginery.registry:require_publishable",
    "rollout": "enginery.triton.rollout:require_readable_policy",
}
"""Steps that need something outside the store: what must hold before the work that leads to them is begun."""


def find_function(name: str) -> StepFunction:
    """The function of that name.

    Raises:
        UsageError: when there is none, as in a plan made by another version of Enginery.
    """
    if name not in FUNCTIONS:
        raise UsageError(f"there is no step function {name!r}", remedy="make the plan again with this version")
    return cast("StepFunction", _load(FUNCTIONS[name]))


def find_command_runner(name: str) -> CommandRunner:
    """The function of that name that runs commands.

    Raises:
        UsageError: when there is none, as in a plan made by another version of Enginery.
    """
    if name not in COMMAND_RUNNERS:
        raise UsageError(f"there is no command runner {name!r}", remedy="make the plan again with this version")
    return cast("CommandRunner", _load(COMMAND_RUNNERS[name]))


def changes_elsewhere(name: str) -> bool:
    """Whether the step changes something outside the store, so that it can have to be done again."""
    return name in EFFECT_CHECKS


def still_holds(name: str, parameters: Mapping[str, JsonValue]) -> bool:
    """Whether what the step did outside the store is still so; always true for a step that only fills the store."""
    if not changes_elsewhere(name):
        return True
    return cast("EffectCheck", _load(EFFECT_CHECKS[name]))(parameters)


def require_call_prepared(name: str, parameters: Mapping[str, JsonValue]) -> None:
    """Make sure that the step will find what it needs outside the store.

    Raises:
        EngineryError: when it will not; nothing was changed.
    """
    if name in PREPARATION_CHECKS:
        cast("PreparationCheck", _load(PREPARATION_CHECKS[name]))(parameters)


def _load(address: str) -> object:
    module, _, function = address.partition(":")
    return getattr(import_module(module), function)


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
    if record is None or (isinstance(recipe, Call) and not still_holds(recipe.function, recipe.parameters)):
        return None
    return record


def require_prepared(steps: Iterable[PlannedStep]) -> None:
    """Make sure that steps which are to run will find what they need outside the store, before any work is begun.

    Raises:
        EngineryError: the first that will not, such as a bucket that does not exist.
    """
    for planned in steps:
        if isinstance(planned.step.recipe, Call):
            require_call_prepared(planned.step.recipe.function, planned.step.recipe.parameters)


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
    return isinstance(recipe, Call) and changes_elsewhere(recipe.function)


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
        toolchain=toolchains.known_facts(context.toolchain) if context.toolchain else {},
        peak_memory_bytes=max((done.peak_memory_bytes for done in context.completed), default=0),
        commands=tuple(done.argv for done in context.completed),
        facts=facts,
        enginery=__version__,
    )


def _perform(planned: PlannedStep, context: StepContext) -> Facts:
    recipe = planned.step.recipe
    if isinstance(recipe, Call):
        return find_function(recipe.function)(context)
    argv = fill(recipe, places(context, recipe))
    if recipe.runner is not None:
        return find_command_runner(recipe.runner)(context, argv, recipe.environment)
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


# Whether the disk has room for all that a plan still has to make.


def require_room(plan: Plan, done: Collection[str], store: str | None) -> None:
    """Refuse to begin what the disk has no room for, unless the spec accepts that.

    Args:
        plan: the plan.
        done: the keys of the steps that are done.
        store: what `open_store` takes.

    Raises:
        PlanError: with the figures.
    """
    found = stopping(disk_findings(plan, done, local_place(store)), plan.spec.force)
    if found:
        raise PlanError([str(finding) for finding in found], subject=plan.spec.name)


def local_place(store: str | None) -> Path:
    """The directory of this machine that a store fills; one in S3 has a local one in front."""
    return store_dir() if store is None or store.startswith("s3://") else Path(store).expanduser().absolute()


def disk_findings(plan: Plan, done: Collection[str], place: Path) -> Iterator[Finding]:
    """Warn when what is to be made does not fit on a disk.

    Args:
        plan: the plan; model repositories are not counted, their files are links.
        done: the keys of the steps that are done.
        place: a directory on that disk, which need not exist yet.
    """
    need = sum(planned.estimated_bytes for planned in plan.steps if planned.key not in done)
    free = shutil.disk_usage(_existing(place)).free
    if need > free:
        problem = f"the steps to run make about {human_bytes(need)}; the disk of {place} has {human_bytes(free)} free"
        yield warning("W203", "targets", problem, "make room, or set ENGINERY_HOME or --store to a larger disk")


def _existing(place: Path) -> Path:
    return next(parent for parent in (place, *place.parents) if parent.exists())


# What a build came to: which steps ran, which were already done, and what was published and put into service.


class BuildSummary(Frozen):
    """The end of a run of the pipeline.

    Attributes:
        name: the model's name.
        steps: every step of the plan, in its order.
        seconds: how long the whole run took.
        run_url: the run's page in the Prefect UI, where there is a server with one.
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
        return tuple(str(facts["uri"]) for facts in self.facts_of(Stage.PUBLISH))

    @property
    def sentence(self) -> str:
        """One line for people."""
        if not self.ran:
            return f"{self.name}: nothing to do, all {len(self.steps)} steps were already done ({self.seconds:.1f} s)"
        return f"{self.name}: ran {len(self.ran)} of {len(self.steps)} steps in {self.seconds:.1f} s"

    def facts_of(self, stage: Stage) -> tuple[Mapping[str, JsonValue], ...]:
        """What the steps of a stage recorded, in the plan's order."""
        return tuple(step.facts for step in self.steps if step.stage is stage)
