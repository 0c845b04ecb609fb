"""What a backend is given and what it returns: one target, and the steps that make its engine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from enginery.models import ModelFacts
from enginery.spec import (
    BackendName,
    BuildOptions,
    ConvertOptions,
    Finding,
    Gpu,
    ServingOptions,
    Spec,
    Target,
    ValidationOptions,
)
from enginery.store import Call, Command, Stage, Step
from enginery.toolchains import Identify, ToolchainIdentity, toolchain_name


@dataclass(frozen=True)
class Request:
    """One target of a spec, with what is known of its GPU and of the model.

    Attributes:
        gpu: the target's GPU; never `auto`.
        model: the model's shape; None if the source could not be read.
        reference: the key of the reference step; None without one.
    """

    spec: Spec
    target: Target
    gpu: Gpu
    model: ModelFacts | None = None
    reference: str | None = None

    @property
    def convert(self) -> ConvertOptions:
        """How the weights are to be converted."""
        return self.spec.convert_for(self.target)

    @property
    def build(self) -> BuildOptions:
        """How the engine is to be built."""
        return self.spec.build_for(self.target)

    @property
    def llm(self) -> dict[str, JsonValue]:
        """The arguments of the LLM API."""
        return self.spec.llm_for(self.target)

    @property
    def serving(self) -> ServingOptions:
        """How the engine is to be served."""
        return self.spec.serving_for(self.target)

    @property
    def validation(self) -> ValidationOptions:
        """The prompts to send to the engine, and how to judge its answers."""
        return self.spec.validation_for(self.target)

    def toolchain(self, release: str, identify: Identify) -> ToolchainIdentity:
        """The toolchain in which the commands of a TensorRT-LLM release run for this target.

        Raises:
            UsageError: when nothing is known of the release.
            ToolchainError: when the release has no such toolchain, or this machine lacks it.
        """
        return identify(toolchain_name(release), self.target.toolchain, self.target.image or "")

    def checked(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """The inputs of the validation: what is run, and the reference if there is one."""
        return {**inputs, **({"reference": self.reference} if self.reference else {})}

    @property
    def world_size(self) -> int:
        """The number of GPUs that one engine uses."""
        return self.target.tensor_parallel * self.target.pipeline_parallel


def image_findings(target: Target) -> Iterator[Finding]:
    """A finding if the target names an image that its toolchain does not use."""
    if target.image and target.toolchain != "container":
        problem = f"an image is named, and the toolchain is {target.toolchain}"
        yield Finding("E181", "image", problem, "set toolchain: container, or leave image out")


class BackendStep(NamedTuple):
    """A step, and what it needs to run that its key does not contain.

    Attributes:
        toolchain: the environment that its commands run in; None if it needs none.
        places: placeholder in its command, such as `examples` or `dataset` -> path of the user's file or directory.
    """

    step: Step
    toolchain: ToolchainIdentity | None = None
    places: Mapping[str, str] = MappingProxyType({})


class Chain(NamedTuple):
    """The steps from the weights to a checked engine in a model repository.

    Attributes:
        making: the steps that make the engine, in order; may be empty.
        validate: the step that sends the prompts and the reference's texts to the engine.
        package: the step that writes the model repository.
        bench: the step that measures the speed; None if the spec asks for none.
    """

    making: tuple[BackendStep, ...]
    validate: BackendStep
    package: BackendStep
    bench: BackendStep | None = None

    @property
    def steps(self) -> tuple[BackendStep, ...]:
        """All steps, in order."""
        return (*self.making, self.validate, *([self.bench] if self.bench else []), self.package)


class Backend(Protocol):
    """The methods of a backend that a plan calls. No method starts a process or uses the network."""

    @property
    def name(self) -> BackendName:
        """The backend's name; never `auto`."""

    def findings(self, request: Request) -> list[Finding]:
        """Everything that stops the build of this target or may go wrong. Paths of findings begin at the target."""

    def notes(self, request: Request) -> list[str]:
        """Notes on what was decided for the user, and on settings that have no effect in this backend."""

    def release(self, target: Target) -> str:
        """The release that is chosen for the target's `release`: a version, a range or `latest`.

        Raises:
            PlanError: when no release can be chosen; `findings` reports the same.
        """

    def chain(self, request: Request, weights: str) -> Chain:
        """The steps that make and check the engine from the weights with the key `weights`."""


def command_step(
    stage: Stage,
    inputs: Mapping[str, str],
    recipe: Command | Call,
    toolchain: ToolchainIdentity,
    runs_on: str,
) -> BackendStep:
    """A step whose commands run in a toolchain. `runs_on` is a GPU's name, `ANY_GPU`, or `any` for any machine."""
    step = Step(stage=stage, inputs=inputs, recipe=recipe, toolchain=toolchain.digest(), runs_on=runs_on)
    return BackendStep(step, toolchain)
