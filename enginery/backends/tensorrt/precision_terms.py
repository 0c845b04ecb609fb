"""What a precision means for a conversion: what is computed in, what the KV cache is, whether it needs calibration."""

from typing import Literal

from enginery.backends.request import Request
from enginery.gpus import Gpu
from enginery.model_facts import ModelFacts
from enginery.spec import Precision

FLOATS = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16)
WEIGHT_ONLY = {Precision.INT8_WEIGHT_ONLY: "int8", Precision.INT4_WEIGHT_ONLY: "int4"}
"""Precisions that need no calibration -> TensorRT-LLM's names for their weights."""

ALGORITHMS = {
    Precision.INT8_WEIGHT_ONLY: "W8A16",
    Precision.INT4_WEIGHT_ONLY: "W4A16",
    Precision.INT8_SMOOTHQUANT: "W8A8_SQ_PER_CHANNEL",
    Precision.FP8: "FP8",
    Precision.INT4_AWQ: "W4A16_AWQ",
    Precision.W4A8_AWQ: "W4A8_AWQ",
    Precision.NVFP4: "NVFP4",
}
"""Precision -> the algorithm that a quantized checkpoint names."""
SCRIPT_SMOOTHQUANT = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
"""The same for SmoothQuant made by a family's own converter with the options that we give it."""

KvCache = Literal["", "fp8", "int8", "nvfp4"]


def activation_dtype(precision: Precision, model: ModelFacts | None, gpu: Gpu) -> str:
    """The number format that a checkpoint computes in: its own, or for quantized weights that of the model."""
    if precision in FLOATS:
        return str(precision)
    own = model.dtype if model else ""
    if own == Precision.BFLOAT16 and gpu.supports(Precision.BFLOAT16):
        return own
    return str(Precision.FLOAT16)


def kv_cache(request: Request) -> KvCache:
    """The number format of the KV cache; empty for that of the activations."""
    asked = request.convert.kv_cache
    if asked != "auto":
        return asked
    return "fp8" if request.target.precision in {Precision.FP8, Precision.NVFP4} else ""


def calibrates(request: Request) -> bool:
    """Whether the model is measured with texts: not where only weights are quantized."""
    return bool(kv_cache(request)) or request.target.precision not in {*FLOATS, *WEIGHT_ONLY}
