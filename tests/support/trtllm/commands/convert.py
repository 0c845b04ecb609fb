"""`convert_checkpoint.py` of llama-like families."""

from pathlib import Path
from typing import Any

from tests.support.trtllm import facts
from tests.support.trtllm.commands.command import Run
from tests.support.trtllm.files import checkpoint

WEIGHT_ONLY = {"int8": "W8A16", "int4": "W4A16"}
SMOOTH = {
    (False, False): "W8A8_SQ_PER_TENSOR_PLUGIN",
    (False, True): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    (True, False): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    (True, True): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
}
BY_SWITCH = {
    "enable_fp8": "FP8",
    "use_fp8": "FP8",
    "use_fp8_rowwise": "FP8_PER_CHANNEL_PER_TOKEN",
    "use_nvfp4": "NVFP4",
}


def run(run: Run) -> None:
    if not facts.at_least(run.release, "0.9.0"):
        print(run.release, flush=True)  # noqa: T201  as the script does
    if run.given("model_dir") is None:
        raise NotImplementedError("the stand-in converts from --model_dir only")
    source_directory = Path(str(run.given("model_dir")))
    source = checkpoint.read_source(source_directory)
    if run.given("smoothquant") is not None or run.given("int8_kv_cache"):
        checkpoint.find_calibration_data(run, "ccdv/cnn_dailymail")
    dtype = checkpoint.dtype_of(str(run.given("dtype", "float16")), source)
    chosen: dict[str, Any] = {"quant_algo": algorithm(run), "kv_cache_quant_algo": kv_algorithm(run)}
    chosen |= {"exclude_modules": ["lm_head"]} if chosen["quant_algo"] else {}
    checkpoint.write(run, source_directory, checkpoint.config(run, source, dtype, chosen), chosen["quant_algo"])


def algorithm(run: Run) -> str | None:
    """The quantization that the flags ask for, as the release names it."""
    if run.given("use_weight_only"):
        precision: Any = run.given("weight_only_precision", "int8")
        if precision not in WEIGHT_ONLY:
            raise NotImplementedError(f"the stand-in does not read {precision} checkpoints")
        return WEIGHT_ONLY[precision]
    if run.given("smoothquant") is not None:
        return SMOOTH[bool(run.given("per_channel")), bool(run.given("per_token"))]
    return next((name for switch, name in BY_SWITCH.items() if run.given(switch)), None)


def kv_algorithm(run: Run) -> str | None:
    """The type of the KV cache that the flags ask for."""
    return "INT8" if run.given("int8_kv_cache") else "FP8" if run.given("fp8_kv_cache") else None
