"""From a spec to a plan: all steps with their keys, known before anything runs."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import Field, JsonValue, model_validator

from enginery.backends import (
    Backend,
    BackendStep,
    Checks,
    Request,
    backend_for,
    check_findings,
    image_findings,
    plan_checks,
)
from enginery.core.errors import PlanError, SourceError, UsageError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import Log, no_log
from enginery.models import ModelFacts, chat_findings, chat_notes
from enginery.pipeline.preflight import estimate_findings, estimate_notes, weight_bytes
from enginery.pipeline.targets import rollout_repository, target_steps
from enginery.sources import ResolvedSource, parameters, resolve
from enginery.spec import BackendName, Finding, Gpu, Precision, Source, Spec, Target, gpus, stopping
from enginery.store import Call, Stage, Step
from enginery.toolchains import ToolchainIdentity, identify

if TYPE_CHECKING:
    from enginery import triton
else:
    triton = late("enginery.triton")

PLAN_SCHEMA = 1
MIN_KEY_DIGITS = 6

MACHINE_WARNINGS = frozenset({"W202", "W203"})
"""Codes of warnings about one machine's memory and disk. The machine that makes the plan may not have the problem."""

Resolver = Callable[[Source], ResolvedSource]


class Chosen(NamedTuple):
    """A target with the backend chosen for it, the warnings that the spec accepts, and how its build is checked."""

    request: Request
    backend: Backend
    accepted: tuple[Finding, ...] = ()
    checks: Checks = Checks()


class Machine:
    """What a plan needs to know about this machine. Slow look-ups are done once for each plan.

    Attributes:
        detect: `gpus.detect`, cached.
        identify: `toolchains.identify`, cached.
    """

    def __init__(self) -> None:
        self.detect = cache(gpus.detect)
        self.identify = cache(identify)
        self._backends: dict[Backend, Backend] = {}

    def gpu_of(self, target: Target) -> Gpu:
        """The GPU of a target; for `auto`, the GPU of this machine, or `CPU` if it has none."""
        return (self.detect() or gpus.CPU) if target.gpu == "auto" else gpus.find(target.gpu)

    def backend_of(self, request: Request) -> Backend:
        """The backend of a target. Equal backends are one object, which does each look-up once."""
        found = backend_for(request, self.identify)
        return self._backends.setdefault(found, found)


class PlannedStep(Frozen):
    """A step of a plan.

    Attributes:
        id: its name within the plan, such as `download` or `build/cpu-int4`.
        targets: the names of the targets that need it.
        toolchain: the environment its commands run in.
        places: placeholder of the command -> file or directory of the user; not part of the key.
        estimated_bytes: estimated size of its output; 0 if it is small.
    """

    id: str
    key: str
    step: Step
    targets: tuple[str, ...]
    toolchain: ToolchainIdentity | None = None
    places: Mapping[str, str] = Field(default_factory=dict)
    estimated_bytes: int = 0

    @model_validator(mode="after")
    def _key_is_the_steps(self) -> Self:
        if self.key != self.step.key:
            raise ValueError(
                f"{self.id} has another key than its step: another version of Enginery made the plan, or it was edited"
            )
        return self

    @property
    def label(self) -> str:
        """A name for people, such as `build cpu-int4`."""
        return self.id.replace("/", " ")


class PlannedTarget(Frozen):
    """A target of the spec, with everything decided that the spec leaves open."""

    name: str
    gpu: str
    backend: str
    release: str
    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    build_id: str


class Plan(Frozen):
    """All steps of a spec. Each step comes after the steps it needs.

    Attributes:
        notes: sentences for the reader of the plan, such as defaults that were filled in.
    """

    plan_schema: int = PLAN_SCHEMA
    spec: Spec
    source: ResolvedSource
    targets: tuple[PlannedTarget, ...]
    steps: tuple[PlannedStep, ...]
    notes: tuple[str, ...] = ()

    def find(self, reference: str) -> PlannedStep:
        """The step with that id, or with a key that begins with `reference`.

        Raises:
            PlanError: when there is no such step.
        """
        for planned in self.steps:
            if reference == planned.id or (len(reference) >= MIN_KEY_DIGITS and planned.key.startswith(reference)):
                return planned
        known = ", ".join(planned.id for planned in self.steps)
        raise PlanError([f"no step {reference!r}; there are {known}"], subject="plan")


def make_plan(spec: Spec, resolver: Resolver | None = None, log: Log = no_log) -> Plan:
    """Plan a spec: decide what it leaves open, resolve its source, and compute the key of every step.

    Args:
        spec: the spec.
        resolver: finds the files of the source; by default `resolve`.
        log: takes a line when the Hub asks to wait.

    Raises:
        PlanError: with everything in the spec that cannot be built.
        SourceError: when the source cannot be reached or holds no usable model.
    """
    machine = Machine()
    source = _resolved(spec, resolver or partial(resolve, log=log), machine)
    model = ModelFacts.from_config(source.config, weight_bytes=source.weight_bytes)
    chosen = _choose(spec, model, machine, source)
    call = Call(function="download", version=1, parameters=parameters(source, spec.source))
    download = Step(stage=Stage.DOWNLOAD, recipe=call)
    names = tuple(target.name for target in spec.targets)
    size = _download_bytes(source, model)
    first = PlannedStep(id="download", key=download.key, step=download, targets=names, estimated_bytes=size)
    targets, steps = [], [first]
    chosen = [_with_checks(one, download.key, source, machine) for one in chosen]
    for one in chosen:
        target, more = _target_steps(one, download.key, machine)
        targets.append(target)
        steps += more
    return Plan(
        spec=spec,
        source=source,
        targets=tuple(targets),
        steps=_merge_equal_steps(steps),
        notes=(*source.notes, *_notes(spec, chosen, source.chat_template)),
    )


def _download_bytes(source: ResolvedSource, model: ModelFacts) -> int:
    """The size of the download. If the source does not say it, it is estimated from the model's shape."""
    return max(source.size, int(weight_bytes(model, Precision.BFLOAT16))) if source.unsized else source.size


def _resolved(spec: Spec, resolver: Resolver, machine: Machine) -> ResolvedSource:
    """The source. If it cannot be resolved, the error also lists the other mistakes of the spec."""
    try:
        return resolver(spec.source)
    except SourceError as error:
        model = ModelFacts.from_config(error.config) if error.config else None
        try:
            _choose(spec, model, machine)
        except PlanError as others:
            raise PlanError([*others.mistakes, f"source: {error}"], subject=spec.name) from error
        raise


def _merge_equal_steps(steps: list[PlannedStep]) -> tuple[PlannedStep, ...]:
    """Merge steps with the same key into one step, which several targets need."""
    unique: dict[str, PlannedStep] = {}
    for step in steps:
        known = unique.get(step.key)
        targets = known.targets + step.targets if known else step.targets
        unique[step.key] = (known or step).model_copy(update={"targets": targets})
    return tuple(unique.values())


def _choose(
    spec: Spec, model: ModelFacts | None, machine: Machine, source: ResolvedSource | None = None
) -> list[Chosen]:
    """Choose the GPU and the backend of each target. One error lists everything that stops a target."""
    chosen: list[Chosen] = []
    problems: list[str] = []
    for index, target in enumerate(spec.targets):
        prefix = f"targets.{index} ({target.name})."
        try:
            request = Request(spec, target, machine.gpu_of(target), model)
        except UsageError as error:
            problems.append(f"{prefix}{error}")
            continue
        backend = machine.backend_of(request)
        estimated = estimate_findings(request, local=_is_local(request))
        chats = chat_findings(request.validation, source.chat_template) if source else ()
        findings = [
            *image_findings(target),
            *backend.findings(request),
            *check_findings(request, machine.identify),
            *chats,
            *estimated,
        ]
        stops = stopping(findings, spec.force)
        problems += [str(finding.under(prefix)) for finding in stops]
        chosen.append(Chosen(request, backend, tuple(finding for finding in findings if finding not in stops)))
    problems += _serving_mistakes(spec, chosen, [file.name for file in source.files] if source else ())
    if problems:
        raise PlanError(problems, subject=spec.name)
    return chosen


def _serving_mistakes(spec: Spec, chosen: list[Chosen], files: Collection[str]) -> list[str]:
    """The mistakes because of which Triton cannot serve an engine of TensorRT-LLM."""
    engines = [one.request.target for one in chosen if one.backend.name is BackendName.TENSORRT]
    if not engines:
        return []
    found = triton.tokenizer_problems(files)
    if spec.rollout_target() in engines:
        found += triton.rollout_problems(spec.rollout, rollout_repository(spec, BackendName.TENSORRT))
    return [str(finding) for finding in found]


def _is_local(request: Request) -> bool:
    """Whether a target is built on this machine, as far as the spec shows."""
    return request.gpu == gpus.CPU or request.target.gpu == "auto"


def _with_checks(chosen: Chosen, weights: str, source: ResolvedSource, machine: Machine) -> Chosen:
    """Decide how a target's build is checked, and compared with what."""
    checks = plan_checks(chosen.request, weights, source, machine.identify)
    key = checks.reference.step.key if checks.reference else None
    return chosen._replace(checks=checks, request=replace(chosen.request, reference=key))


def _target_steps(chosen: Chosen, weights: str, machine: Machine) -> tuple[PlannedTarget, list[PlannedStep]]:
    request, wanted = chosen.request, chosen.request.target
    about: dict[str, JsonValue] = {
        "name": wanted.name,
        "gpu": request.gpu.name,
        "backend": chosen.backend.name,
        "release": chosen.backend.release(wanted),
        "precision": wanted.precision,
        "tensor_parallel": wanted.tensor_parallel,
        "pipeline_parallel": wanted.pipeline_parallel,
    }
    made = target_steps(request, chosen.backend, weights, about, chosen.checks, machine.identify)
    size = int(weight_bytes(request.model, wanted.precision)) if request.model else 0
    target = PlannedTarget.model_validate({**about, "build_id": made.build_id})
    return target, [_planned_step(step, target.name, size) for step in made.steps]


def _planned_step(made: BackendStep, target: str, size: int) -> PlannedStep:
    name = made.step.recipe.parameters.get("name") if made.step.stage is Stage.EVALUATE else None
    return PlannedStep(
        id=f"{made.step.stage}/{target}" + (f"/{name}" if name else ""),
        key=made.step.key,
        step=made.step,
        targets=(target,),
        toolchain=made.toolchain,
        places=dict(made.places),
        estimated_bytes=size if made.step.stage in {Stage.CONVERT, Stage.BUILD} else 0,
    )


def _notes(spec: Spec, chosen: list[Chosen], template: str) -> tuple[str, ...]:
    notes = [
        f"{request.target.name}: {note}"
        for request, backend, accepted, checks in chosen
        for note in [
            *(f"accepted: {finding.path}: {finding.problem} [{finding.code}]" for finding in accepted),
            *backend.notes(request),
            *chat_notes(request.validation, template),
            *checks.notes,
            *estimate_notes(request, local=_is_local(request)),
        ]
    ]
    unused = set(spec.force) - MACHINE_WARNINGS - {finding.code for one in chosen for finding in one.accepted}
    notes += [f"{code} in force accepts nothing: this plan does not warn of it" for code in sorted(unused)]
    if spec.publish is None:
        notes.append("no publish in the spec: the builds stay in the store")
    return tuple(notes)
