"""What can build and check an engine: one backend for each runtime, all asked the same questions by the plan."""

from typing import Protocol

from enginery.backends.onnxruntime import OnnxRuntime
from enginery.errors import UsageError
from enginery.gpus import Gpu
from enginery.spec import BackendName, Spec, Target
from enginery.steps import Step
from enginery.toolchains import Identify, identity

__all__ = ["Backend", "backend_for"]


class Backend(Protocol):
    """What the plan asks of a backend. Nothing here starts a process or touches the network."""

    @property
    def name(self) -> BackendName:
        """The backend's name; never `auto`."""

    def problems(self, spec: Spec, target: Target, gpu: Gpu) -> list[str]:
        """Every reason this target cannot be built, each beginning with the path of a field within the target."""

    def notes(self, spec: Spec, target: Target, gpu: Gpu) -> list[str]:
        """What was decided for the user, and settings that mean nothing here."""

    def release(self, target: Target) -> str:
        """The release that `latest` or a range comes to.

        Raises:
            PlanError: when there is none; `problems` says the same.
        """

    def toolchain(self, release: str) -> str:
        """The name of the toolchain in which the release's commands run."""

    def build_step(self, spec: Spec, target: Target, gpu: Gpu, weights: str) -> Step:
        """The step that makes the engine from the weights with the key `weights`."""

    def validate_step(self, spec: Spec, target: Target, gpu: Gpu, engine: str, weights: str) -> Step:
        """The step that asks the engine with the key `engine` the target's validation prompts."""


def backend_for(target: Target, gpu: Gpu, identify: Identify = identity) -> Backend:
    """The backend that a target asks for; `auto` takes one that can build for the GPU.

    Args:
        target: the target.
        gpu: the GPU it comes to.
        identify: says what a toolchain is; a plan gives one that looks into each only once.

    Raises:
        UsageError: when this version of Enginery does not have it.
    """
    if target.backend not in {BackendName.AUTO, BackendName.ONNXRUNTIME}:
        raise UsageError(
            f"{target.backend} is not in this version of Enginery, which builds with onnxruntime only",
            subject="backend",
            remedy="use backend: onnxruntime (precisions and options differ), or a version of Enginery that has it",
        )
    return OnnxRuntime.for_gpu(gpu, identify)
