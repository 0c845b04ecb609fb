"""What a backend is given and what it returns: one target, and the steps that make its engine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from enginery.sources import ModelFacts
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
        gpu: the GPU it comes to.
        model: the model's shape; None where the source could not be read.
    """

    spec: Spec
    target: Target
    gpu: Gpu
    model: ModelFacts | None = None

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
        """What the engine must answer."""
        return self.spec.validation_for(self.target)

    def toolchain(self, release: str, identify: Identify) -> ToolchainIdentity:
        """Where the commands of a release of TensorRT-LLM run for this target.

        Raises:
            UsageError: when nothing is known of the release.
            ToolchainError: when this machine, or the release, has no such toolchain.
        """
        return identify(toolchain_name(release), self.target.toolchain, self.target.image or "")

    @property
    def world_size(self) -> int:
        """GPUs that one engine takes."""
        return self.target.tensor_parallel * self.target.pipeline_parallel


def image_findings(target: Target) -> Iterator[Finding]:
    """An image that would not be used."""
    if target.image and target.toolchain != "container":
        problem = f"an image is named, and the toolchain is {target.toolchain}"
        yield Finding("E181", "image", problem, "set toolchain: container, or leave image out")


class BackendStep(NamedTuple):
    """A step, and what it needs to run that is no part of its key.

    Attributes:
        toolchain: the environment its commands run in; None where it needs none.
        places: placeholders of its command -> files and directories of the user's, such as `examples` and `dataset`.
    """

    step: Step
    toolchain: ToolchainIdentity | None = None
    places: Mapping[str, str] = MappingProxyType({})


class Chain(NamedTuple):
    """The steps from the weights to a checked engine in a model repository.

    Attributes:
        making: those that make the engine, in order; may be none.
        validate: runs the prompts and judges the answers.
        package: writes the model repository.
    """

    making: tuple[BackendStep, ...]
    validate: BackendStep
    package: BackendStep

    @property
    def steps(self) -> tuple[BackendStep, ...]:
        """All of them, in order."""
        return (*self.making, self.validate, self.package)


class Backend(Protocol):
    """What a plan needs of a backend. No method starts a process or uses the network."""

    @property
    def name(self) -> BackendName:
        """The backend's name; never `auto`."""

    def findings(self, request: Request) -> list[Finding]:
        """Everything that stops this target from being built or may go wrong; paths are those within the target."""

    def notes(self, request: Request) -> list[str]:
        """What was decided for the user, and settings that have no effect in this backend."""

    def release(self, target: Target) -> str:
        """The release that `latest` or a range comes to.

        Raises:
            PlanError: when there is none; `findings` says the same.
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
    """A step whose commands run in a toolchain, on a GPU by its name, on `ANY_GPU` or on `any` machine."""
    step = Step(stage=stage, inputs=inputs, recipe=recipe, toolchain=toolchain.digest(), runs_on=runs_on)
    return BackendStep(step, toolchain)
