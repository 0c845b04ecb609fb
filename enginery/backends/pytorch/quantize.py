"""Quantized checkpoints for the PyTorch backend: which ones it reads, and the step that makes one with ModelOpt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginery.backends.checkpoints.configuration import HF_ALGORITHMS, KV_CACHE_ALGORITHMS, HfExpectation
from enginery.backends.checkpoints.verify import verify_hf_checkpoint
from enginery.backends.quantizing import DRIVER, calibration_arguments, driver_facts, require_same_texts
from enginery.backends.request import Request
from enginery.core.errors import SourceError, StoreError, UsageError
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.models import CONFIG, MODELOPT_FILE, ModelFacts
from enginery.spec import FLOATS, Precision
from enginery.store import StepContext
from enginery.toolchains import driver_sha256

QUANTIZED = (Precision.FP8, Precision.NVFP4, Precision.INT4_AWQ, Precision.W4A8_AWQ)
READABLE = (*FLOATS, *QUANTIZED)

ALGORITHMS: Mapping[str, Precision] = {
    "FP8": Precision.FP8,
    "FP8_BLOCK_SCALES": Precision.FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": Precision.FP8,
    "NVFP4": Precision.NVFP4,
    "W4A16_AWQ": Precision.INT4_AWQ,
    "W4A8_AWQ": Precision.W4A8_AWQ,
}
"""TensorRT-LLM's name, as ModelOpt writes it into `hf_quant_config.json` and `quantization_config` -> precision."""

BLOCK_FP8 = "fp8"
"""`quant_method` of fp8 checkpoints with one scale for each block of weights, such as DeepSeek's."""
FP8_BLOCK = [128, 128]
"""The one `weight_block_size` that the backend takes. Without any, it reads fp8 numbers as if they had no scales."""
READABLE_FORMATS = "ModelOpt's fp8, nvfp4, int4_awq and w4a8_awq, and fp8 with a scale for each block of 128 x 128"


def algorithm_name(quantization: Mapping[str, Any]) -> str:
    """The name that a checkpoint gives to its quantization."""
    inner = quantization.get("quantization")
    merged = {**quantization, **(inner if isinstance(inner, Mapping) else {})}
    return str(merged.get("quant_algo") or merged.get("quant_method") or "an unnamed format")


def quantized_to(quantization: Mapping[str, Any]) -> Precision | None:
    """The precision that a checkpoint is quantized to; None if Enginery serves no such checkpoint."""
    name = algorithm_name(quantization)
    if name == BLOCK_FP8:
        return Precision.FP8 if quantization.get("weight_block_size") == FP8_BLOCK else None
    return ALGORITHMS.get(name.upper())


def must_quantize(precision: Precision, model: ModelFacts | None) -> bool:
    """Whether ModelOpt must quantize the source: the precision is a quantized one, and the source is not quantized."""
    return precision in QUANTIZED and not (model and model.quantization)


def read_quantization(checkpoint: Path) -> dict[str, Any]:
    """How a checkpoint is quantized, from its `hf_quant_config.json` or else `config.json`; empty if it is not.

    Raises:
        StoreError: when one of these files is not a JSON object.
    """
    own = _read(checkpoint / MODELOPT_FILE)
    found = own.get("quantization") or _read(checkpoint / CONFIG).get("quantization_config") or {}
    return dict(found) if isinstance(found, Mapping) else {}


def quantizing_argv(request: Request) -> tuple[str, ...]:
    """The driver's command: from the weights to a Hugging Face checkpoint in the target's precision."""
    places = ("--model_dir", "{weights}", "--output_dir", "{output}", "--format", "hf")
    precision = str(request.target.precision)
    what = ("--dtype", activation_dtype(request.model), "--qformat", precision, "--kv_cache_dtype", kv_cache(request))
    calibration = (*calibration_arguments(request.convert.calibration), "--device", device(request))
    return ("{python}", f"{{drivers}}/{DRIVER.name}", *places, *what, *calibration)


def activation_dtype(model: ModelFacts | None) -> str:
    """The number format of the activations: that of the source if it has 16 bits, else bfloat16."""
    own = model.dtype if model else ""
    return own if own in {Precision.FLOAT16, Precision.BFLOAT16} else str(Precision.BFLOAT16)


def kv_cache(request: Request) -> str:
    """The number format of the KV cache; `auto` means that of the activations."""
    kind = request.convert.kv_cache
    return "fp8" if kind == "auto" and request.target.precision in {Precision.FP8, Precision.NVFP4} else kind


def device(request: Request) -> str:
    """The device that quantizes: `cuda` or `cpu`."""
    return request.convert.device or "cuda"


def dataset(request: Request) -> Path | None:
    """The user's file with texts to calibrate with; None if the spec names none."""
    named = request.convert.calibration.dataset
    return Path(named).expanduser() if named else None


class ExportParameters(Frozen):
    """The parameters of the step that quantizes.

    Attributes:
        precision: what the weights are quantized to.
        kv_cache: what the KV cache is quantized to; `auto` if it is not quantized.
        dtype: the number format of tensors that are not quantized.
        driver_sha256: digest of the driver that the plan was made with.
        dataset_sha256: digest of the user's own texts to calibrate with; empty for built-in texts.
    """

    precision: str
    kv_cache: str
    dtype: str
    driver_sha256: str
    dataset_sha256: str = ""


def export_checkpoint(context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str]) -> Facts:
    """Quantize the weights and check the result. The command runner `export_checkpoint`.

    Raises:
        UsageError: when the plan was made with another driver.
        SourceError: when the texts are not those of the plan, or the weights are quantized already.
        CommandError: when ModelOpt fails.
        CheckpointError: when the checkpoint is not complete, not quantized as planned, or no longer the same model.
    """
    parameters = ExportParameters.model_validate(dict(context.parameters))
    _require_as_planned(context, parameters)
    done = context.run(argv, environment)
    algorithm, kv_cache_algorithm = HF_ALGORITHMS[parameters.precision], KV_CACHE_ALGORITHMS[parameters.kv_cache]
    expected = HfExpectation(parameters.dtype, algorithm, kv_cache_algorithm)
    found = verify_hf_checkpoint(context.output, context.inputs["weights"], expected)
    return {**driver_facts(done.last_lines), **found}


def _read(path: Path) -> dict[str, Any]:
    remedy = "see the log of the step that made it"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise StoreError(f"is not JSON: {error}", subject=str(path), remedy=remedy) from error
    if not isinstance(content, dict):
        raise StoreError("is no JSON object", subject=str(path), remedy=remedy)
    return content


def _require_as_planned(context: StepContext, parameters: ExportParameters) -> None:
    if parameters.driver_sha256 != driver_sha256(DRIVER):
        problem = "the plan was made with another version of Enginery's driver"
        raise UsageError(problem, remedy="make the plan again with this version")
    if parameters.dataset_sha256:
        require_same_texts(Path(context.places.get("dataset", "")), parameters.dataset_sha256)
    if (context.inputs["weights"] / MODELOPT_FILE).is_file():
        problem = f"the weights are quantized already: they have a {MODELOPT_FILE}"
        raise SourceError(problem, subject="source", remedy="use the model they were made from")
