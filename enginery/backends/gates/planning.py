"""How a target's build is checked: the reference step, the mode of each gate, and the step that judges them all."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import JsonValue

from enginery.backends.bench.step import SHARE_OF_BUILD
from enginery.backends.evaluate.findings import evaluation_findings, evaluation_notes
from enginery.backends.evaluate.step import evaluate_call, evaluation_places
from enginery.backends.gates.modes import mode_notes, modes_of, wants_reference
from enginery.backends.reference.cost import reference_cost
from enginery.backends.reference.recipe import planned_reference, reference_findings, toolchain_problem
from enginery.backends.reference.runnable import reference_problem
from enginery.backends.request import BackendStep, Chain, Request
from enginery.models import weights_of
from enginery.sources import ResolvedSource
from enginery.spec import Finding, GateName, Mode, Precision, gpus
from enginery.store import Call, Stage, Step
from enginery.toolchains import Identify

FUNCTION_VERSION = 1
EVALUATION = "evaluation-"
"""The beginning of the names of the inputs with the results of evaluations."""


class Checks(NamedTuple):
    """How the build of a target is checked.

    Attributes:
        modes: the mode of each gate; a gate without one is off.
        reference: the step that asks the original weights; None without one.
        notes: sentences for the reader of the plan.
    """

    modes: Mapping[GateName, Mode] = {}
    reference: BackendStep | None = None
    notes: tuple[str, ...] = ()

    def has(self, name: GateName) -> bool:
        """Whether this gate is judged."""
        return self.modes.get(name, Mode.OFF) is not Mode.OFF


def plan_checks(request: Request, weights: str, source: ResolvedSource, identify: Identify) -> Checks:
    """Plan how a target's build is checked.

    Args:
        request: the target.
        weights: the key of the download.
        source: the model's files.
        identify: returns a toolchain's identity.
    """
    options = request.validation
    wanted = wants_reference(options)
    problem = _problem(request, source, identify) if wanted else None
    reference = (
        planned_reference(request, weights, identify, longest_input(request)) if wanted and not problem else None
    )
    without = dict(_without(request, problem))
    modes = modes_of(options, without)
    cost = filter(None, [reference_cost(request) if reference else "", _bench_cost(modes)])
    notes = (*mode_notes(options, modes, without), *cost, *evaluation_notes(options.gates.evaluation))
    return Checks(modes, reference, notes)


def _bench_cost(modes: Mapping[GateName, Mode]) -> str:
    if modes[GateName.SPEED] is Mode.OFF:
        return ""
    return f"speed: measured alone on the machine, for about {SHARE_OF_BUILD:.0%} of the time of convert and build"


def check_findings(request: Request, identify: Identify) -> Iterator[Finding]:
    """Everything that stops the checks of a target."""
    options = request.validation
    if wants_reference(options):
        yield from reference_findings(request)
    if options.gates.evaluation.mode is not Mode.OFF:
        yield from evaluation_findings(options.gates.evaluation, identify)


NOT_JUDGED: dict[str, Any] = {
    "channel": True,
    "speed": {"slower_percent": True},
    "evaluation": {"run": {"__all__": {"script": True}}},
}
"""Settings that this step does not use, so that they change neither its key nor the build's id. A build is compared
with the one on its channel later, and a script is part of its evaluation by its digest, wherever it lies."""


def gates_step_of(
    request: Request, chain: Chain, evaluations: Mapping[str, BackendStep], checks: Checks
) -> BackendStep:
    """The step that judges the gates of a target."""
    inputs = {"report": chain.validate.step.key}
    if request.reference:
        inputs["reference"] = request.reference
    if chain.bench:
        inputs["bench"] = chain.bench.step.key
    inputs |= {f"{EVALUATION}{name}": made.step.key for name, made in evaluations.items()}
    return BackendStep(
        Step(stage=Stage.GATES, inputs=inputs, recipe=gates_call(request, checks.modes, _float_bits(request, chain)))
    )


def gates_call(request: Request, modes: Mapping[GateName, Mode], float_bits: int) -> Call:
    """The recipe of the gates step: the limits, the mode of each gate, and what the engine should be.

    Args:
        request: the target.
        modes: the mode of each gate.
        float_bits: the bits of the engine's weights that are not quantized.
    """
    parameters: dict[str, JsonValue] = {
        "precision": str(request.target.precision),
        "modes": {str(name): str(mode) for name, mode in modes.items() if name is not GateName.CHANNEL},
        "gates": request.validation.gates.model_dump(mode="json", exclude_none=True, exclude=NOT_JUDGED),
        "weights": asdict(weights_of(request.model)) if request.model else {},
        "float_bits": float_bits,
        "ranks": request.world_size,
    }
    return Call(function="gates", version=FUNCTION_VERSION, parameters=parameters)


def evaluation_steps(request: Request, chain: Chain, checks: Checks, identify: Identify) -> dict[str, BackendStep]:
    """The steps of the spec's evaluations, by their names. They run where the validation runs, on the same inputs."""
    if not checks.has(GateName.EVALUATION):
        return {}
    validate = chain.validate
    inputs = {name: key for name, key in validate.step.inputs.items() if name != "reference"}
    found = {}
    for one in request.validation.gates.evaluation.run:
        toolchain = identify(one.toolchain) if one.toolchain else validate.toolchain
        digest = toolchain.digest() if toolchain else None
        step = Step(
            stage=Stage.EVALUATE,
            inputs=inputs,
            recipe=evaluate_call(one),
            toolchain=digest,
            runs_on=validate.step.runs_on,
        )
        found[one.name] = BackendStep(step, toolchain, {**validate.places, **evaluation_places(one)})
    return found


def _float_bits(request: Request, chain: Chain) -> int:
    """The bits of weights that are not quantized: engines for a CPU keep them in float32, and others in 16 bits.

    Weights that are served as they are keep their own bits. A runtime makes them wider only when it loads them.
    """
    if not chain.making and request.model is not None and request.model.dtype:
        return 32 if request.model.dtype == Precision.FLOAT32 else 16
    kept = request.target.precision is Precision.FLOAT32 or request.gpu == gpus.CPU
    return 32 if kept else 16


def longest_input(request: Request) -> int:
    """The longest prompt that the spec lets the engine take, in tokens; 0 if it does not say. One token must follow."""
    options = request.build
    room = options.max_seq_len - 1 if options.max_seq_len else None
    return min((length for length in (options.max_input_len, room) if length), default=0)


def _problem(request: Request, source: ResolvedSource, identify: Identify) -> str | None:
    if request.validation.reference.use != "weights":
        return None
    files = [file.name for file in source.files]
    return reference_problem(request.model, source.config, files) or toolchain_problem(identify)


def _without(request: Request, problem: str | None) -> Iterator[tuple[GateName, str]]:
    """The gates that cannot be judged for this target, and why."""
    if request.validation.reference.use == "off":
        yield GateName.DISTRIBUTION, "there is no reference (validation.reference.use: off)"
    elif problem:
        yield GateName.DISTRIBUTION, f"there is no reference: {problem}"
    elif request.validation.run_script:
        yield GateName.DISTRIBUTION, "the release's run.py (validation.run_script) gives no probabilities"
