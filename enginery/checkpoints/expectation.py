"""What a checkpoint is expected to be, besides faithful to its model."""

from dataclasses import dataclass

MODELOPT_ALGORITHMS = {
    "full_prec": None,
    "fp8": "FP8",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "nvfp4": "NVFP4",
}
"""`--qformat` of the ModelOpt driver -> the algorithm that its checkpoint for TensorRT-LLM names."""

HF_ALGORITHMS = {**MODELOPT_ALGORITHMS, "int4_wo": "W4A16_AWQ"}
"""The same for a Hugging Face checkpoint: ModelOpt has no other name there for int4 weights."""

KV_CACHE_ALGORITHMS = {"auto": None, "fp8": "FP8", "int8": "INT8", "nvfp4": "NVFP4"}
"""`--kv_cache_dtype` of the driver -> the algorithm that the checkpoint names."""


@dataclass(frozen=True)
class CheckpointExpectation:
    """What a checkpoint for `trtllm-build` is expected to be.

    Attributes:
        dtype: number format of what is not quantized, as TensorRT-LLM names it, such as `bfloat16`; empty for any.
        quant_algo: TensorRT-LLM's name of the algorithm the weights are quantized with; None for none.
        kv_cache_quant_algo: the same for the KV cache.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups of GPUs that share the layers.
    """

    dtype: str
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def world_size(self) -> int:
        """How many ranks it has."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class HfExpectation:
    """What an exported Hugging Face checkpoint is expected to be.

    Attributes:
        dtype: number format of what is not quantized; empty for any.
        quant_algo: the algorithm that `hf_quant_config.json` names; None for none.
        kv_cache_quant_algo: the same for the KV cache.
    """

    dtype: str = ""
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
