"""What a checkpoint is expected to be, and how its `config.json` differs from that and from its model.

If a converter loses one number of this file, the engine still builds and loads, but its answers are nonsense.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enginery.core.errors import EngineryError
from enginery.models import DEFAULT_ROPE_THETA, ModelFacts

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
"""`--qformat` of the ModelOpt driver -> `quant_algo` in its checkpoint for TensorRT-LLM."""

HF_ALGORITHMS = {**MODELOPT_ALGORITHMS, "int4_wo": "W4A16_AWQ"}
"""The same for a Hugging Face checkpoint. There ModelOpt uses one name for both kinds of int4 weights."""

KV_CACHE_ALGORITHMS = {"auto": None, "fp8": "FP8", "int8": "INT8", "nvfp4": "NVFP4"}
"""`--kv_cache_dtype` of the driver -> `kv_cache_quant_algo` in the checkpoint."""
CHATGLM = "chatglm"
QWEN = "qwen"
"""The first Qwen. Its configuration, and so its checkpoint's, has the width of two matrices together."""
LONG_ROPE = ("longrope", "su")
ROPE_SCALING_TYPES = ("rope_type", "type")

TOLERANCE = 1e-4
"""Relative tolerance for numbers: some converters round them to float32."""


class CheckpointError(EngineryError):
    """A converted checkpoint differs from its model or from what is expected. Its engine would be wrong."""

    exit_code = 6

    def __init__(self, differences: Sequence[str], *, subject: str, remedy: str) -> None:
        self.differences = tuple(differences)
        count = f"{len(self.differences)} differences" if len(self.differences) > 1 else "1 difference"
        listed = "".join(f"\n  - {difference}" for difference in self.differences)
        super().__init__(f"this checkpoint cannot be used: {count}{listed}", subject=subject, remedy=remedy)


@dataclass(frozen=True)
class HfExpectation:
    """What an exported Hugging Face checkpoint is expected to be.

    Attributes:
        dtype: number format of tensors that are not quantized, such as `bfloat16`; empty if every format is accepted.
        quant_algo: TensorRT-LLM's name of the algorithm that quantizes the weights; None if they are not quantized.
        kv_cache_quant_algo: the same for the KV cache.
    """

    dtype: str = ""
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None


@dataclass(frozen=True)
class CheckpointExpectation(HfExpectation):
    """What a checkpoint for `trtllm-build` is expected to be.

    Attributes:
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups of GPUs that share the layers.
        accepted_rope_theta: the rotary base that is expected instead of the model's; None if the model's is expected.
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    accepted_rope_theta: float | None = None

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.tensor_parallel * self.pipeline_parallel


def config_differences(
    config: Mapping[str, Any], model: ModelFacts, expected: CheckpointExpectation, *, strict: bool
) -> list[str]:
    """One sentence for each wrong field of a checkpoint's configuration.

    Args:
        config: the checkpoint's `config.json`.
        model: what the source's `config.json` says.
        expected: what the checkpoint is expected to be.
        strict: whether a missing field is wrong, too; true for the model families in `LLAMA_LIKE`.
    """
    return [
        *_shape_differences(config, model, strict=strict),
        *_rope_differences(config, model),
        *_expectation_differences(config, expected),
    ]


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object with this name in the configuration; empty if there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def rope_scaling(value: object) -> dict[str, Any]:
    """How rotary embeddings are scaled, with the kind under the key `type`; empty if they are not scaled."""
    if not isinstance(value, Mapping):
        return {}
    kind = next((value[name] for name in ROPE_SCALING_TYPES if value.get(name)), None)
    numbers = {name: number for name, number in value.items() if name not in (*ROPE_SCALING_TYPES, "rope_theta")}
    return {"type": kind, **numbers} if kind not in (None, "default") else {}


def _shape_differences(config: Mapping[str, Any], model: ModelFacts, *, strict: bool) -> Iterator[str]:
    wanted = {
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size * (2 if model.language_type == QWEN else 1),
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_positions,
        "norm_epsilon": model.norm_eps,
    }
    for name, value in wanted.items():
        if not value:
            continue
        if config.get(name) is None:
            if strict:
                yield f"config.json: {name} is missing, the model has {value}"
        elif not _same(config[name], value):
            yield f"config.json: {name} is {config[name]}, the model has {value}"
    yield from _head_size_difference(config, model)
    if config.get("share_embedding_table") and model.tied_embeddings is False:
        yield "config.json: share_embedding_table is true, but the model's first and last layer differ"


def _head_size_difference(config: Mapping[str, Any], model: ModelFacts) -> Iterator[str]:
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    usual = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    found = config.get("head_size") or usual  # TensorRT-LLM's default
    if model.head_size and found is not None and found != model.head_size:
        yield f"config.json: head_size is {found}, the model has {model.head_size}"


def _rope_differences(config: Mapping[str, Any], model: ModelFacts) -> Iterator[str]:
    if model.language_type == CHATGLM and _same_chatglm(config, model):
        return
    base = config.get("rotary_base")
    found = DEFAULT_ROPE_THETA if base is None else base
    if model.rope_theta is not None and not _same(found, model.rope_theta):
        problem = f"is {base}" if base is not None else f"is missing (TensorRT-LLM would take {found:g})"
        yield f"config.json: rotary_base {problem}, the model's rope_theta is {model.rope_theta:g}"
    wanted, scaling = rope_scaling(model.rope_scaling), rope_scaling(config.get("rotary_scaling"))
    if wanted.get("type") in LONG_ROPE and config.get("position_embedding_type") == "long_rope":
        return  # the factors are stored as tensors
    if not _same_scaling(scaling, wanted):
        yield f"config.json: rotary_scaling is {scaling or 'none'}, the model's rope_scaling is {wanted or 'none'}"


def _same_chatglm(config: Mapping[str, Any], model: ModelFacts) -> bool:
    """Whether a checkpoint has ChatGLM's base: as it is, or as the ratio or the linear scaling that make it.

    Which of them is right depends on the version of ChatGLM, which only its release's converter knows.
    """
    base, scaling = config.get("rotary_base", DEFAULT_ROPE_THETA), rope_scaling(config.get("rotary_scaling"))
    ratio = scaling.get("factor", 1.0) if scaling.get("type") == "linear" else config.get("rope_ratio", 1.0)
    numbers = isinstance(base, int | float) and isinstance(ratio, int | float)
    return numbers and _same(base * ratio, model.rope_theta) and (not scaling or scaling.get("type") == "linear")


def _same_scaling(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return (
        found.keys() >= wanted.keys()
        and bool(found) == bool(wanted)
        and all(_same(found[name], value) for name, value in wanted.items())
    )


def _expectation_differences(config: Mapping[str, Any], expected: CheckpointExpectation) -> Iterator[str]:
    mapping, quantization = section(config, "mapping"), section(config, "quantization")
    pairs = {
        "dtype": (config.get("dtype"), expected.dtype or config.get("dtype")),
        "mapping.world_size": (mapping.get("world_size", 1), expected.world_size),
        "mapping.tp_size": (mapping.get("tp_size", 1), expected.tensor_parallel),
        "mapping.pp_size": (mapping.get("pp_size", 1), expected.pipeline_parallel),
        "quantization.quant_algo": (quantization.get("quant_algo"), expected.quant_algo),
        "quantization.kv_cache_quant_algo": (quantization.get("kv_cache_quant_algo"), expected.kv_cache_quant_algo),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            yield f"config.json: {name} is {found or 'none'}, expected {wanted or 'none'}"


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=TOLERANCE if isinstance(wanted, float) else 0)
    return found == wanted
