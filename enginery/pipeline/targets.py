"""The steps of one target: what its backend makes of the weights, the checks, and then registry and rollout."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from enginery.backends import Backend, BackendStep, Chain, Checks, Request, evaluation_steps, gates_step_of
from enginery.builds import build_id
from enginery.spec import BackendName, GateName, Spec
from enginery.store import Call, Stage, Step
from enginery.toolchains import Identify


class TargetSteps(NamedTuple):
    """The steps of a target, each after the steps that it needs, and the id of the build that they make."""

    build_id: str
    steps: tuple[BackendStep, ...]


def target_steps(  # noqa: PLR0913, PLR0917  all of it decides about the steps
    request: Request, backend: Backend, weights: str, about: Mapping[str, JsonValue], checks: Checks, identify: Identify
) -> TargetSteps:
    """Plan the steps of one target.

    Args:
        request: the target.
        backend: the backend that was chosen for it.
        weights: the key of the download.
        about: the target as its build describes it.
        checks: how its build is checked.
        identify: returns a toolchain's identity.
    """
    chain = backend.chain(request, weights)
    if not checks.has(GateName.SPEED):
        chain = chain._replace(bench=None)
    evaluations = evaluation_steps(request, chain, checks, identify)
    gates = gates_step_of(request, chain, evaluations, checks)
    made = build_id(request.target.name, chain.package.step.key, gates.step.key)
    inputs = _published(request, chain, gates, weights)
    build = {"model": request.spec.name, "build_id": made}
    channel_gate = request.validation.gates.written_channel_gate()
    more = _publish_steps(request.spec, build, about, inputs, channel_gate)
    first = [checks.reference] if checks.reference else []
    return TargetSteps(made, (*first, *chain.steps, *evaluations.values(), gates, *map(BackendStep, more)))


def _published(request: Request, chain: Chain, gates: BackendStep, weights: str) -> dict[str, str]:
    """The inputs of the publish step: everything that becomes a part of the build."""
    inputs = {
        "model_repository": chain.package.step.key,
        "report": chain.validate.step.key,
        "gates": gates.step.key,
        "weights": weights,
    }
    if request.reference:
        inputs["reference"] = request.reference
    if chain.bench:
        inputs["bench"] = chain.bench.step.key
    return inputs


def _publish_steps(
    spec: Spec,
    build: Mapping[str, JsonValue],
    target: Mapping[str, JsonValue],
    inputs: Mapping[str, str],
    channel_gate: dict[str, JsonValue],
) -> Iterator[Step]:
    """The publish step and the rollout step of a target, if the spec asks for them."""
    if spec.publish is None:
        return
    to_publish = {
        **build,
        **spec.publish.model_dump(mode="json", include={"to", "channel", "allow_unconditional_writes"}),
    }
    to_publish["target"] = dict(target)
    if channel_gate:
        to_publish["channel_gate"] = channel_gate
    publish = Step(
        stage=Stage.PUBLISH, inputs=inputs, recipe=Call(function="publish", version=1, parameters=to_publish)
    )
    yield publish
    rolled_out = spec.rollout_target()
    if spec.rollout is None or rolled_out is None or rolled_out.name != target["name"]:
        return
    place = rollout_repository(spec, str(target["backend"]))
    to_roll_out: dict[str, JsonValue] = {
        **build,
        "endpoints": list(spec.rollout.endpoints),
        "model_repository": place,
    }
    call = Call(function="rollout", version=1, parameters=to_roll_out)
    yield Step(stage=Stage.ROLLOUT, inputs={"published": publish.key}, recipe=call)


def rollout_repository(spec: Spec, backend: str) -> str:
    """The model repository of a rollout; empty without a rollout. TensorRT-LLM's engines need a local directory."""
    target = spec.rollout_target()
    if spec.rollout is None or spec.publish is None or target is None:
        return ""
    if spec.rollout.model_repository:
        return spec.rollout.model_repository
    if backend == BackendName.TENSORRT:
        return spec.serving_for(target).mount
    return f"{spec.publish.to.rstrip('/')}/serving/{spec.name}"
