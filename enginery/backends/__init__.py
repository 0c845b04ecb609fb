"""What can build and check an engine: one backend for each runtime, all with the same methods for the plan.

    backend = backend_for(request)
    for finding in backend.findings(request): ...
    chain = backend.chain(request, weights_key)     # the steps that convert, build and validate

`tensorrt` builds with `trtllm-build`, `pytorch` prepares a checkpoint for the LLM API, and `onnxruntime` needs no
NVIDIA GPU at all.
"""

from enginery.backends.answers import OFFLINE
from enginery.backends.choose import choose
from enginery.backends.onnxruntime import ONNXRUNTIME_PACKAGES, OnnxRuntime
from enginery.backends.pytorch.backend import PyTorch
from enginery.backends.request import Backend, BackendStep, Chain, Request, image_findings
from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.build_defaults import EngineOptions, own_length
from enginery.backends.tensorrt.build_options import OPTIONS, RenderedOption, render_option, unset_changes
from enginery.backends.tensorrt.release import chosen_release
from enginery.spec import BackendName
from enginery.toolchains import Identify, identify

__all__ = [
    "OFFLINE",
    "ONNXRUNTIME_PACKAGES",
    "OPTIONS",
    "Backend",
    "BackendStep",
    "Chain",
    "EngineOptions",
    "RenderedOption",
    "Request",
    "backend_for",
    "chosen_release",
    "image_findings",
    "own_length",
    "render_option",
    "unset_changes",
]


def backend_for(request: Request, identify: Identify = identify) -> Backend:
    """The backend that a target names; `auto` takes one that can build for the GPU.

    Args:
        request: the target, its GPU and the model.
        identify: says what a toolchain is; a plan gives one that looks into each only once.
    """
    name = request.target.backend
    if name is BackendName.AUTO:
        name = choose(request).backend
    if name is BackendName.TENSORRT:
        return TensorRT(identify)
    if name is BackendName.PYTORCH:
        return PyTorch(identify)
    return OnnxRuntime.for_gpu(request.gpu, identify)
