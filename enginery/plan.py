"""From a spec to steps with keys: everything that would run, known before anything runs."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Self

from pydantic import JsonValue, model_validator

from enginery import gpus
from enginery.backends import Backend, backend_for
from enginery.errors import PlanError, UsageError
from enginery.gpus import Gpu
from enginery.manifest import build_id
from enginery.sources import ResolvedSource, parameters, resolve
from enginery.spec import Publish, Rollout, Source, Spec, Target
from enginery.steps import Call, Frozen, Stage, Step
from enginery.toolchains import ToolchainIdentity, identity
from enginery.triton.served import served_models_digest

PLAN_SCHEMA = 1
MIN_KEY_DIGITS = 6

Resolver = Callable[[Source], ResolvedSource]


class Chosen(NamedTuple):
    """A target with the GPU and the backend it comes to."""

    target: Target
    gpu: Gpu
    backend: Backend


class Machine:
    """This machine as one plan sees it: what takes a process or many files to find out is found out once.

    Attributes:
        detect: what `gpus.detect` says.
        identify: what `toolchains.identity` says.
    """

    def __init__(self) -> None:
        self.detect = cache(gpus.detect)
        self.identify = cache(identity)
        self._backends: dict[Backend, Backend] = {}

    def gpu_of(self, target: Target) -> Gpu:
        """The GPU that a target comes to."""
        return (self.detect() or gpus.CPU) if target.gpu == "auto" else gpus.find(target.gpu)

    def backend_of(self, target: Target, gpu: Gpu) -> Backend:
        """The backend of a target; equal ones are the same, which remembers what it has looked up."""
        found = backend_for(target, gpu, self.identify)
        return self._backends.setdefault(found, found)


class PlannedStep(Frozen):
    """A step in its place in a plan.

    Attributes:
        id: names the step within the plan, such as `download` or `build/cpu-int4`.
        key: the step's key.
        step: what is done.
        targets: the names of the targets that need it.
        toolchain: the environment its commands run in.
    """

    id: str
    key: str
    step: Step
    targets: tuple[str, ...]
    toolchain: ToolchainIdentity | None = None

    @model_validator(mode="after")
    def _key_is_the_steps(self) -> Self:
        if self.key != self.step.key:
            raise ValueError(
                f"{self.id} has another key than its step: the plan was made by another Enginery, or changed"
            )
        return self

    @property
    def label(self) -> str:
        """A name for people: the id with a blank."""
        return self.id.replace("/", " ")


class PlannedTarget(Frozen):
    """A target with everything decided that the spec left open."""

    name: str
    gpu: str
    backend: str
    release: str
    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    build_id: str


class Plan(Frozen):
    """Every step of a spec, each after those it needs.

    Attributes:
        notes: what the reader should know before anything runs, such as defaults that were filled in.
    """

    plan_schema: int = PLAN_SCHEMA
    spec: Spec
    source: ResolvedSource
    targets: tuple[PlannedTarget, ...]
    steps: tuple[PlannedStep, ...]
    notes: tuple[str, ...] = ()

    def find(self, reference: str) -> PlannedStep:
        """The step with that id, or whose key begins so.

        Raises:
            PlanError: when there is none.
        """
        for planned in self.steps:
            if reference == planned.id or (len(reference) >= MIN_KEY_DIGITS and planned.key.startswith(reference)):
                return planned
        known = ", ".join(planned.id for planned in self.steps)
        raise PlanError([f"no step {reference!r}; there are {known}"], subject="plan")

    def inputs_of(self, planned: PlannedStep) -> tuple[PlannedStep, ...]:
        """The steps this one takes its inputs from."""
        wanted = set(planned.step.inputs.values())
        return tuple(step for step in self.steps if step.key in wanted)


def make_plan(spec: Spec, resolver: Resolver = resolve) -> Plan:
    """Plan a spec: decide what it leaves open, resolve its source, and key every step.

    Raises:
        PlanError: with everything the spec asks for that cannot be built.
        SourceError: when the source cannot be reached or holds no usable model.
    """
    machine = Machine()
    chosen = _choose(spec, machine)
    source = resolver(spec.source)
    call = Call(function="download", version=1, parameters=parameters(source, spec.source))
    download = Step(stage=Stage.DOWNLOAD, recipe=call)
    everyone = tuple(target.name for target in spec.targets)
    targets, steps = [], [PlannedStep(id="download", key=download.key, step=download, targets=everyone)]
    for one in chosen:
        target, more = _target_steps(spec, one, machine, download.key)
        targets.append(target)
        steps += more
    return Plan(
        spec=spec, source=source, targets=tuple(targets), steps=_without_twins(steps), notes=_notes(spec, chosen)
    )


def _without_twins(steps: list[PlannedStep]) -> tuple[PlannedStep, ...]:
    """Steps with the same key are one step, wanted by several targets."""
    unique: dict[str, PlannedStep] = {}
    for step in steps:
        twin = unique.get(step.key)
        targets = twin.targets + step.targets if twin else step.targets
        unique[step.key] = (twin or step).model_copy(update={"targets": targets})
    return tuple(unique.values())


def _choose(spec: Spec, machine: Machine) -> list[Chosen]:
    """Each target with its GPU and backend; every reason that one cannot be built is reported at once."""
    chosen: list[Chosen] = []
    problems: list[str] = []
    for index, target in enumerate(spec.targets):
        try:
            gpu = machine.gpu_of(target)
            backend = machine.backend_of(target, gpu)
        except UsageError as error:
            problems.append(f"targets.{index} ({target.name}).{error}")
            continue
        problems += [f"targets.{index} ({target.name}).{problem}" for problem in backend.problems(spec, target, gpu)]
        chosen.append(Chosen(target, gpu, backend))
    if problems:
        raise PlanError(problems, subject=spec.name)
    return chosen


def _target_steps(
    spec: Spec, chosen: Chosen, machine: Machine, weights: str
) -> tuple[PlannedTarget, list[PlannedStep]]:
    target, gpu, backend = chosen
    environment = machine.identify(backend.toolchain(backend.release(target)), target.toolchain)
    build = backend.build_step(spec, target, gpu, weights)
    validate = backend.validate_step(spec, target, gpu, build.key, weights)
    package = _package_step(spec, target, gpu, build.key, weights)
    planned = _planned_target(target, gpu, backend, build_id(target.name, package.key, validate.key))
    steps = [build, validate, package, *_release_steps(spec, planned, package.key, validate.key, weights)]
    return planned, [_placed(step, target.name, environment) for step in steps]


def _placed(step: Step, target: str, environment: ToolchainIdentity) -> PlannedStep:
    toolchain = environment if step.toolchain == environment.digest() else None
    return PlannedStep(id=f"{step.stage}/{target}", key=step.key, step=step, targets=(target,), toolchain=toolchain)


def _planned_target(target: Target, gpu: Gpu, backend: Backend, identifier: str) -> PlannedTarget:
    return PlannedTarget(
        name=target.name,
        gpu=gpu.name,
        backend=backend.name,
        release=backend.release(target),
        precision=target.precision,
        tensor_parallel=target.tensor_parallel,
        pipeline_parallel=target.pipeline_parallel,
        build_id=identifier,
    )


def _package_step(spec: Spec, target: Target, gpu: Gpu, engine: str, weights: str) -> Step:
    details: dict[str, JsonValue] = {
        "model": spec.name,
        "target": target.name,
        "serving": spec.serving_for(target).model_dump(mode="json"),
        "provider": "cpu" if gpu == gpus.CPU else "cuda",
        "served_models_sha256": served_models_digest(),
    }
    return Step(
        stage=Stage.PACKAGE,
        inputs={"engine": engine, "weights": weights},
        recipe=Call(function="package", version=1, parameters=details),
    )


def _release_steps(spec: Spec, target: PlannedTarget, model_repository: str, report: str, weights: str) -> list[Step]:
    """Publish and rollout, where the spec asks for them."""
    if spec.publish is None:
        return []
    inputs = {"model_repository": model_repository, "report": report, "weights": weights}
    publish = _call(Stage.PUBLISH, inputs, _publish_details(spec, spec.publish, target))
    rolled_out = spec.rollout_target()
    if spec.rollout is None or rolled_out is None or rolled_out.name != target.name:
        return [publish]
    details = _rollout_details(spec, spec.publish, spec.rollout, target)
    return [publish, _call(Stage.ROLLOUT, {"published": publish.key}, details)]


def _call(stage: Stage, inputs: dict[str, str], details: dict[str, JsonValue]) -> Step:
    return Step(stage=stage, inputs=inputs, recipe=Call(function=stage, version=1, parameters=details))


def _publish_details(spec: Spec, publish: Publish, target: PlannedTarget) -> dict[str, JsonValue]:
    return {
        "model": spec.name,
        "build_id": target.build_id,
        "target": target.model_dump(mode="json", exclude={"build_id"}),
        "to": publish.to,
        "channel": publish.channel,
        "allow_unconditional_writes": publish.allow_unconditional_writes,
    }


def _rollout_details(spec: Spec, publish: Publish, rollout: Rollout, target: PlannedTarget) -> dict[str, JsonValue]:
    return {
        "model": spec.name,
        "build_id": target.build_id,
        "endpoints": list(rollout.endpoints),
        "model_repository": rollout.model_repository or f"{publish.to.rstrip('/')}/serving/{spec.name}",
    }


def _notes(spec: Spec, chosen: list[Chosen]) -> tuple[str, ...]:
    notes = [f"{target.name}: {note}" for target, gpu, backend in chosen for note in backend.notes(spec, target, gpu)]
    if spec.publish is None:
        notes.append("no publish in the spec: the builds stay in the store")
    return tuple(notes)
