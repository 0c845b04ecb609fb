"""The backend `tensorrt`: engines made by a release's own converters and `trtllm-build`."""

from enginery.backends.tensorrt.backend import TensorRT

__all__ = ["TensorRT"]
