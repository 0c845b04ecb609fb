"""Finds the backend of a target. A plan loads only the backends that its targets need."""

from typing import TYPE_CHECKING

from enginery.backends.request import Backend, Request
from enginery.core.late import late
from enginery.spec import BackendName, gpus
from enginery.toolchains import Identify, identify

if TYPE_CHECKING:
    from enginery.backends import choose, onnxruntime
    from enginery.backends.pytorch import backend as pytorch
    from enginery.backends.tensorrt import backend as tensorrt
else:
    choose = late("enginery.backends.choose")
    onnxruntime = late("enginery.backends.onnxruntime")
    pytorch = late("enginery.backends.pytorch.backend")
    tensorrt = late("enginery.backends.tensorrt.backend")


def backend_for(request: Request, identify: Identify = identify) -> Backend:
    """The backend that a target names. For `auto` it is one that can build for the GPU.

    Args:
        request: the target, its GPU and the model.
        identify: returns a toolchain's identity. A plan passes a function that looks into each toolchain only once.
    """
    name = request.target.backend
    if name is BackendName.AUTO:
        name = choose.choose(request).backend
    if name is BackendName.TENSORRT:
        return tensorrt.TensorRT(identify)
    if name is BackendName.PYTORCH:
        return pytorch.PyTorch(identify)
    return onnxruntime.OnnxRuntime("cpu" if request.gpu == gpus.CPU else "cuda", identify)
