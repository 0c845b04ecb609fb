"""Compares a checkpoint's `config.json` with the model it was made from, and with what was asked.

A converter that loses one number here makes an engine that builds, loads and talks nonsense.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from enginery.backends.checkpoints.quantized import BYTES, FLOATS, FP8, Expected, Linear, Tensor, linear_tensors
from enginery.core.errors import EngineryError
from enginery.sources import DEFAULT_ROPE_THETA, ModelFacts

# What a checkpoint is expected to be, besides faithful to its model.


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


LONG_ROPE = ("longrope", "su")
ROPE_SCALING_TYPES = ("rope_type", "type")
NEAR = 1e-4
"""How far a number may be off, relatively: some converters write what float32 makes of it."""


def config_differences(
    config: Mapping[str, Any], model: ModelFacts, expected: CheckpointExpectation, *, strict: bool
) -> list[str]:
    """One sentence for each field of a checkpoint's configuration that is not as it should be.

    Args:
        config: the checkpoint's `config.json`.
        model: what the source's `config.json` says.
        expected: what was asked for.
        strict: whether every field must be there, as in the families that are well known.
    """
    return [
        *_shape_differences(config, model, strict=strict),
        *_rope_differences(config, model),
        *_embedding_differences(config, model),
        *_asked_differences(config, expected),
    ]


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the configuration; empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _shape_differences(config: Mapping[str, Any], model: ModelFacts, *, strict: bool) -> Iterator[str]:
    wanted = {
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
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


def _head_size_difference(config: Mapping[str, Any], model: ModelFacts) -> Iterator[str]:
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    usual = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    found = config.get("head_size") or usual  # TensorRT-LLM takes the usual one where none is said
    if model.head_size and found is not None and found != model.head_size:
        yield f"config.json: head_size is {found}, the model has {model.head_size}"


def _rope_differences(config: Mapping[str, Any], model: ModelFacts) -> Iterator[str]:
    base = config.get("rotary_base")
    found = DEFAULT_ROPE_THETA if base is None else base  # what TensorRT-LLM takes where none is said
    if not _same(found, model.rope_theta):
        said = f"is {base}" if base is not None else f"is missing (TensorRT-LLM would take {found:g})"
        yield f"config.json: rotary_base {said}, the model's rope_theta is {model.rope_theta:g}"
    wanted, scaling = rope_scaling(model.rope_scaling), rope_scaling(config.get("rotary_scaling"))
    if wanted.get("type") in LONG_ROPE and config.get("position_embedding_type") == "long_rope":
        return  # its factors are tensors of their own
    if not _same_scaling(scaling, wanted):
        yield f"config.json: rotary_scaling is {scaling or 'none'}, the model's rope_scaling is {wanted or 'none'}"


def rope_scaling(value: object) -> dict[str, Any]:
    """How rotary embeddings are stretched, with its kind as `type` whatever it is called; empty for not at all."""
    if not isinstance(value, Mapping):
        return {}
    kind = next((value[name] for name in ROPE_SCALING_TYPES if value.get(name)), None)
    numbers = {name: number for name, number in value.items() if name not in (*ROPE_SCALING_TYPES, "rope_theta")}
    return {"type": kind, **numbers} if kind not in (None, "default") else {}


def _same_scaling(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return (
        found.keys() >= wanted.keys()
        and bool(found) == bool(wanted)
        and all(_same(found[name], value) for name, value in wanted.items())
    )


def _embedding_differences(config: Mapping[str, Any], model: ModelFacts) -> Iterator[str]:
    if config.get("share_embedding_table") and not model.tied_embeddings:
        yield "config.json: share_embedding_table is true, but the model's first and last layer differ"


def _asked_differences(config: Mapping[str, Any], expected: CheckpointExpectation) -> Iterator[str]:
    mapping, quantization = section(config, "mapping"), section(config, "quantization")
    asked = {
        "dtype": (config.get("dtype"), expected.dtype or config.get("dtype")),
        "mapping.world_size": (mapping.get("world_size", 1), expected.world_size),
        "mapping.tp_size": (mapping.get("tp_size", 1), expected.tensor_parallel),
        "mapping.pp_size": (mapping.get("pp_size", 1), expected.pipeline_parallel),
        "quantization.quant_algo": (quantization.get("quant_algo"), expected.quant_algo),
        "quantization.kv_cache_quant_algo": (quantization.get("kv_cache_quant_algo"), expected.kv_cache_quant_algo),
    }
    for name, (found, wanted) in asked.items():
        if found != wanted:
            yield f"config.json: {name} is {_said(found)}, asked was {_said(wanted)}"


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=NEAR if isinstance(wanted, float) else 0)
    return found == wanted


# The tensors that each rank of a decoder's checkpoint must hold, and their shapes.
#
# Known for the families that are laid out like Llama; of others only their configuration and files are checked.


LLAMA_LIKE = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
)
WITH_QKV_BIAS = ("Qwen2ForCausalLM",)
WITH_QUERY_KEY_NORMS = ("Qwen3ForCausalLM",)
FLOAT_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def is_known(model: ModelFacts) -> bool:
    """Whether the tensors of the model's family are known."""
    return model.architecture in LLAMA_LIKE


@dataclass(frozen=True)
class Decoder:
    """A decoder, split as a checkpoint is.

    Attributes:
        model: its shape.
        source: its Hugging Face configuration.
        config: the checkpoint's configuration.
        expected: what was asked for.
    """

    model: ModelFacts
    source: Mapping[str, Any]
    config: Mapping[str, Any]
    expected: CheckpointExpectation

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share each layer."""
        return self.expected.tensor_parallel

    def differences(self, rank: int, found: dict[str, Tensor]) -> Iterator[str]:
        """One sentence for each tensor of a rank that is missing or has another shape or format."""
        for name, expected in self._tensors(rank, found):
            problem = expected.difference(found.get(name))
            if problem:
                yield f"rank{rank}.safetensors: {name} {problem}"

    def _tensors(self, rank: int, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        stage = rank // self.tensor_parallel
        hidden = (self.model.hidden_size,)
        if stage == 0:
            yield "transformer.vocab_embedding.weight", Expected(self._floats, self._embedding_shape())
        for layer in range(self.model.layers // self.expected.pipeline_parallel):
            yield from self._layer(f"transformer.layers.{layer}", found)
        if stage == self.expected.pipeline_parallel - 1:
            yield "transformer.ln_f.weight", Expected(self._floats, hidden)
            if not self.config.get("share_embedding_table"):
                yield "lm_head.weight", Expected(self._floats, (self._vocabulary(), *hidden))

    def _layer(self, prefix: str, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        norm = Expected(self._floats, (self.model.hidden_size,))
        yield f"{prefix}.input_layernorm.weight", norm
        yield f"{prefix}.post_layernorm.weight", norm
        yield from self._attention(f"{prefix}.attention", found)
        if self.model.experts:
            yield from self._experts(f"{prefix}.mlp")
        else:
            yield from self._feed_forward(f"{prefix}.mlp", found)

    def _attention(self, prefix: str, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        model, shared = self.model, self.tensor_parallel
        queries = model.heads // shared * model.head_size
        rows = queries + 2 * max(1, model.kv_heads // shared) * model.head_size
        yield from self._linear(Linear(f"{prefix}.qkv", rows, model.hidden_size), found)
        yield from self._linear(Linear(f"{prefix}.dense", model.hidden_size, queries), found)
        if self.source.get("attention_bias") or model.architecture in WITH_QKV_BIAS:
            yield f"{prefix}.qkv.bias", Expected(self._floats, (rows,))
        if model.architecture in WITH_QUERY_KEY_NORMS:
            yield f"{prefix}.q_layernorm.weight", Expected(self._floats, (model.head_size,))
            yield f"{prefix}.k_layernorm.weight", Expected(self._floats, (model.head_size,))
        if self.expected.kv_cache_quant_algo and f"{prefix}.k_cache_scaling_factor" not in found:
            yield f"{prefix}.kv_cache_scaling_factor", Expected(FLOATS)

    def _feed_forward(self, prefix: str, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        hidden, inner = self.model.hidden_size, self.model.intermediate_size // self.tensor_parallel
        for name, rows, columns in (("fc", inner, hidden), ("gate", inner, hidden), ("proj", hidden, inner)):
            yield from self._linear(Linear(f"{prefix}.{name}", rows, columns), found)
            if self.source.get("mlp_bias"):
                yield f"{prefix}.{name}.bias", Expected(self._floats, (rows,))

    def _experts(self, prefix: str) -> Iterator[tuple[str, Expected]]:
        hidden, mapping = self.model.hidden_size, section(self.config, "mapping")
        groups = max(1, mapping.get("moe_ep_size") or 1)
        split = mapping.get("moe_tp_size") or 0
        inner = self.model.intermediate_size // (split if split > 0 else self.tensor_parallel // groups)
        experts = self.model.experts // groups
        yield f"{prefix}.router.weight", Expected(FLOATS, (self.model.experts, hidden))
        for name, shape in (("fc", (experts, 2 * inner, hidden)), ("proj", (experts, hidden, inner))):
            quantized = self._algorithm(f"{prefix}.{name}")
            known = quantized in (None, "FP8")
            dtypes = self._floats if quantized is None else FP8 if known else FLOATS | FP8 | BYTES
            yield f"{prefix}.{name}.weight", Expected(dtypes, shape if known else None)
            if quantized == "FP8":
                yield f"{prefix}.{name}.weights_scaling_factor", Expected(FLOATS)

    def _linear(self, layer: Linear, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        algorithm = self._algorithm(layer.name)
        if algorithm is None:
            yield f"{layer.name}.weight", Expected(self._floats, (layer.rows, layer.columns))
            return
        made_by_modelopt = section(self.config, "producer").get("name") == "modelopt"
        yield from linear_tensors(layer, algorithm, found, modelopt=made_by_modelopt)

    def _algorithm(self, name: str) -> str | None:
        excluded = section(self.config, "quantization").get("exclude_modules") or ()
        return None if any(fnmatchcase(name, pattern) for pattern in excluded) else self.expected.quant_algo

    @property
    def _floats(self) -> frozenset[str]:
        known = FLOAT_NAMES.get(self.expected.dtype)
        return frozenset({known}) if known else FLOATS

    def _vocabulary(self) -> int:
        return -(-self.model.vocab_size // self.tensor_parallel)

    def _embedding_shape(self) -> tuple[int, int]:
        hidden = self.model.hidden_size
        if not self.config.get("use_parallel_embedding"):
            return self.model.vocab_size, hidden
        if self.config.get("embedding_sharding_dim"):
            return self.model.vocab_size, hidden // self.tensor_parallel
        return self._vocabulary(), hidden


# The error of a checkpoint that is not what it should be.


class CheckpointError(EngineryError):
    """A converted checkpoint that differs from its model or from what was asked; an engine of it would be wrong.

    Attributes:
        differences: one sentence for each difference.
    """

    exit_code = 6

    def __init__(self, differences: Sequence[str], *, subject: str, remedy: str) -> None:
        self.differences = tuple(differences)
        count = f"{len(self.differences)} differences" if len(self.differences) > 1 else "1 difference"
        listed = "".join(f"\n  - {difference}" for difference in self.differences)
        super().__init__(f"this checkpoint is not to be used: {count}{listed}", subject=subject, remedy=remedy)
