"""`quantize.py`: writes a checkpoint with quantized weights, without calibration. Calibration data must exist."""

from pathlib import Path
from typing import Any

from tests.support.trtllm import home
from tests.support.trtllm.commands.command import Run
from tests.support.trtllm.files import checkpoint

ALGORITHMS = {
    "full_prec": None,
    "fp8": "FP8",
    "fp8_pc_pt": "FP8_PER_CHANNEL_PER_TOKEN",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
    "nvfp4": "NVFP4",
}


def run(run: Run) -> None:
    if run.given("device", "cuda") == "cuda" and not run.home.visible_gpus():
        raise RuntimeError("No CUDA GPUs are available")
    source_directory = Path(str(run.given("model_dir")))
    source = checkpoint.read_source(source_directory)
    chosen = ALGORITHMS[run.arguments.qformat]
    if chosen is not None:
        checkpoint.find_calibration_data(run, "cnn_dailymail")
        home.log(f"Calibrating with {run.arguments.calib_size} samples", "I", "ModelOpt")
    dtype = checkpoint.dtype_of(run.arguments.dtype, source)
    made = checkpoint.config(run, source, dtype, _quantization(run, chosen))
    # Weight-only formats are exported as they are: the build quantizes them.
    stored = None if chosen in {"W8A16", "W4A16"} else chosen
    checkpoint.write(run, source_directory, {"producer": {"name": "modelopt", "version": "0"}, **made}, stored)


def _quantization(run: Run, chosen: str | None) -> dict[str, Any]:
    kv = run.arguments.kv_cache_dtype
    found: dict[str, Any] = {"quant_algo": chosen, "kv_cache_quant_algo": kv.upper() if kv else None}
    if chosen is not None:
        found["exclude_modules"] = ["lm_head"]
    if chosen in {"W4A16_AWQ", "W4A8_AWQ"}:
        found |= {"group_size": run.arguments.awq_block_size, "has_zero_point": False, "pre_quant_scale": True}
    return found
