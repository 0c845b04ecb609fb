"""Which precisions the PyTorch backend reads, what a source is quantized to already, and ModelOpt's command."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginery.backends.modelopt import BLOCKS, DRIVER
from enginery.backends.request import Request
from enginery.model_facts import ModelFacts
from enginery.spec import Calibration, Precision

PLAIN = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16)
QUANTIZED = (Precision.FP8, Precision.NVFP4, Precision.INT4_AWQ, Precision.W4A8_AWQ)
READ = (*PLAIN, *QUANTIZED)

ALGORITHMS: Mapping[str, Precision] = {
    "FP8": Precision.FP8,
    "FP8_BLOCK_SCALES": Precision.FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": Precision.FP8,
    "NVFP4": Precision.NVFP4,
    "W4A16_AWQ": Precision.INT4_AWQ,
    "W4A8_AWQ": Precision.W4A8_AWQ,
}
"""TensorRT-LLM's names, as ModelOpt writes them into `hf_quant_config.json` and `quantization_config`."""
BLOCK_FP8 = "fp8"
"""`quant_method` of checkpoints with scales for blocks of fp8, such as DeepSeek's."""

UNDERSTOOD = "ModelOpt's fp8, nvfp4, int4_awq and w4a8_awq, and fp8 with block scales"


def said_algorithm(quantization: Mapping[str, Any]) -> str:
    """What a checkpoint says its weights are, in its own words."""
    inner = quantization.get("quantization")
    said = {**quantization, **(inner if isinstance(inner, Mapping) else {})}
    return str(said.get("quant_algo") or said.get("quant_method") or "an unnamed format")


def quantized_to(quantization: Mapping[str, Any]) -> Precision | None:
    """The precision a checkpoint is quantized to; None for one that the PyTorch backend does not read."""
    said = said_algorithm(quantization)
    return Precision.FP8 if said == BLOCK_FP8 else ALGORITHMS.get(said.upper())


def must_quantize(precision: Precision, model: ModelFacts | None) -> bool:
    """Whether ModelOpt has work to do: a quantized precision is wanted, and the source is plain."""
    return precision in QUANTIZED and not (model and model.quantization)


def uneven_sizes(request: Request) -> Iterator[tuple[str, int, int]]:
    """The model's sizes that cannot be cut into whole blocks with one scale each: name, size, block."""
    model, block = request.model, BLOCKS.get(request.target.precision, 1)
    if model is None or not must_quantize(request.target.precision, model):
        return
    rows = {
        "hidden": model.hidden_size,
        "attention": model.heads * model.head_size,
        "feed-forward": model.intermediate_size,
    }
    for name, size in rows.items():
        if size % (block * request.target.tensor_parallel):
            yield name, size, block


def quantizing_argv(request: Request) -> tuple[str, ...]:
    """The driver's command: from the weights to a Hugging Face checkpoint in the target's precision."""
    places = ("--model_dir", "{weights}", "--output_dir", "{output}", "--format", "hf")
    precision = str(request.target.precision)
    what = ("--dtype", activation_dtype(request.model), "--qformat", precision, "--kv_cache_dtype", kv_cache(request))
    calibration = (*_calibration(request.convert.calibration), "--device", device(request))
    return ("{python}", f"{{drivers}}/{DRIVER.name}", *places, *what, *calibration)


def activation_dtype(model: ModelFacts | None) -> str:
    """What a quantized model computes in: the format of its source where that is one of 16 bits."""
    own = model.dtype if model else ""
    return own if own in {Precision.FLOAT16, Precision.BFLOAT16} else str(Precision.BFLOAT16)


def kv_cache(request: Request) -> str:
    """The number format of the KV cache, as the checkpoint is to say it; `auto` for that of the activations."""
    asked = request.convert.kv_cache
    if asked == "auto" and request.target.precision in {Precision.FP8, Precision.NVFP4}:
        return "fp8"
    return asked


def device(request: Request) -> str:
    """Where to quantize."""
    return request.convert.device or "cuda"


def dataset(request: Request) -> Path | None:
    """The file of the user's with texts to calibrate with."""
    named = request.convert.calibration.dataset
    return Path(named).expanduser() if named else None


def _calibration(options: Calibration) -> Iterator[str]:
    flags = {
        "--calib_dataset": "{dataset}" if options.dataset else None,
        "--calib_size": options.size,
        "--calib_max_length": options.max_length,
        "--calib_batch_size": options.batch_size,
        "--seed": options.seed,
    }
    for flag, value in flags.items():
        if value is not None:
            yield from (flag, str(value))
