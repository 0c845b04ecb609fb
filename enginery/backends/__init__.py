"""What can build and check an engine: one backend for each runtime, all asked the same questions by the plan."""

from typing import Protocol

from enginery.backends.request import BackendStep, Chain, Request
from enginery.findings import Finding
from enginery.spec import BackendName, Target
from enginery.toolchains import Identify, identity

__all__ = ["Backend", "BackendStep", "Chain", "Request", "backend_for"]


class Backend(Protocol):
    """What the plan asks of a backend. Nothing here starts a process or touches the network."""

    @property
    def name(self) -> BackendName:
        """The backend's name; never `auto`."""

    def findings(self, request: Request) -> list[Finding]:
        """Everything that stops this target from being built or may go wrong; paths are those within the target."""

    def notes(self, request: Request) -> list[str]:
        """What was decided for the user, and settings that mean nothing here."""

    def release(self, target: Target) -> str:
        """The release that `latest` or a range comes to.

        Raises:
            PlanError: when there is none; `findings` says the same.
        """

    def chain(self, request: Request, weights: str) -> Chain:
        """The steps that make and check the engine from the weights with the key `weights`."""


def backend_for(request: Request, identify: Identify = identity) -> Backend:
    """The backend that a target asks for; `auto` takes one that can build for the GPU.

    Args:
        request: the target, its GPU and the model.
        identify: says what a toolchain is; a plan gives one that looks into each only once.
    """
    # A plan loads only the backends it needs.
    name = request.target.backend
    if name is BackendName.AUTO:
        from enginery.backends.choosing import choose  # noqa: PLC0415

        name = choose(request).backend
    if name is BackendName.TENSORRT:
        from enginery.backends.tensorrt import TensorRT  # noqa: PLC0415

        return TensorRT(identify)
    if name is BackendName.PYTORCH:
        from enginery.backends.pytorch import PyTorch  # noqa: PLC0415

        return PyTorch(identify)
    from enginery.backends.onnxruntime import OnnxRuntime  # noqa: PLC0415

    return OnnxRuntime.for_gpu(request.gpu, identify)
