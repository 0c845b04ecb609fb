"""Requests for the backend `tensorrt`, as a plan makes them."""

from typing import Any

from enginery.backends import Chain, Request
from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.converters import LOST_BASE
from enginery.models.facts import ModelFacts
from enginery.spec import gpus
from enginery.spec.findings import Finding, stopping
from enginery.spec.spec import parse_spec
from enginery.store.steps import Command, Stage, Step
from tests.support.models.examples import FLEET, LLAMA_3_8B

WEIGHTS = "a" * 64
BUILD = {"gpt_attention_plugin": "bfloat16", "gemm_plugin": "bfloat16", "nccl_plugin": "bfloat16"}
EXAMPLES = {example.name: example for example in FLEET}


def request_of(config: dict[str, Any] | None = None, *, spec: dict[str, Any] | None = None, **target: Any) -> Request:
    """A request for a target, by default in bfloat16 for an H100. `spec` has more parts of the spec.

    The warning that 0.8.0 loses the rotary base is accepted, unless `spec` sets `force`.
    """
    asked = {"name": "one", "gpu": "H100-SXM5-80GB", "backend": "tensorrt", "precision": "bfloat16"} | target
    data = {"name": "model", "source": {"path": "model"}, "targets": [asked], "force": [LOST_BASE], **(spec or {})}
    read = parse_spec(data)
    model = ModelFacts.from_config(LLAMA_3_8B if config is None else config)
    return Request(read, read.targets[0], gpus.find(read.targets[0].gpu), model)


def fleet_request(name: str, release: str) -> Request:
    """A request for an example of the fleet and a release."""
    example = EXAMPLES[name]
    spec = example.spec_for(release).model_copy(update={"force": (LOST_BASE,)})
    return Request(spec, spec.targets[0], gpus.find(spec.targets[0].gpu), example.model)


def findings(request: Request) -> list[Finding]:
    return stopping(TensorRT().findings(request), request.spec.force)


def codes(request: Request) -> list[str]:
    """The codes of the findings that stop the plan of a target."""
    return [finding.code for finding in findings(request)]


def chain(request: Request) -> Chain:
    """The chain of a target that has no findings."""
    found = findings(request)
    assert not found, found
    return TensorRT().chain(request, WEIGHTS)


def step(request: Request, stage: Stage) -> Step:
    return next(made.step for made in chain(request).steps if made.step.stage is stage)


def command(request: Request, stage: Stage = Stage.CONVERT) -> Command:
    recipe = step(request, stage).recipe
    assert isinstance(recipe, Command)
    return recipe


def convert_argv(request: Request) -> str:
    """The arguments of the convert command, as one line."""
    return " ".join(command(request).argv)
