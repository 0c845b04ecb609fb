"""The tensors that a checkpoint must have.

They are known for model families that are laid out like Llama. For other families only the configuration and the files
are checked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from enginery.backends.checkpoints.configuration import CheckpointExpectation, section
from enginery.models import FLOATS, ModelFacts, Tensor

FP8 = frozenset({"F8_E4M3", "I8"})
"""Formats of fp8 weights. Some releases write the same bytes as int8."""
INT8 = frozenset({"I8"})
BYTES = frozenset({"U8", "I8"})

WEIGHT_ONLY = {"W8A16": 1, "W4A16": 2}
"""Algorithm -> number of weights in one byte."""
AWQ = ("W4A16_AWQ", "W4A8_AWQ")
AWQ_GROUP = 128
NVFP4_GROUP = 16
INPUT_SCALE = "activation_scaling_factor"
SECOND_SCALE = "weights_scaling_factor_2"
PREQUANT_SCALE = "prequant_scaling_factor"

MORE_SCALES: Mapping[str, tuple[str, ...]] = {
    "FP8": (INPUT_SCALE,),
    "W8A8_SQ_PER_CHANNEL": (INPUT_SCALE, PREQUANT_SCALE),
    "W4A16_AWQ": (PREQUANT_SCALE,),
    "W4A8_AWQ": (PREQUANT_SCALE, INPUT_SCALE, SECOND_SCALE),
    "NVFP4": (INPUT_SCALE, SECOND_SCALE),
}
"""Algorithm -> scales of a matrix besides those of its weights, as a checkpoint for `trtllm-build` names them."""

LLAMA_LIKE = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
)

WITH_QUERY_KEY_NORMS = ("Qwen3ForCausalLM",)
FLOAT_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class Expected:
    """A tensor that must be there.

    Attributes:
        dtypes: the number formats it may have.
        shape: its shape; None for any.
        reordered: whether its numbers may be laid out in another shape of the same size.
    """

    dtypes: frozenset[str]
    shape: tuple[int, ...] | None = None
    reordered: bool = False

    def difference(self, found: Tensor | None) -> str | None:
        """What is wrong with the tensor that was found; None if it is as expected."""
        if found is None:
            return "is missing"
        if found.dtype not in self.dtypes:
            return f"is {found}, expected {' or '.join(sorted(self.dtypes))}"
        if self.shape is None or found.shape == self.shape:
            return None
        if self.reordered and found.size == Tensor(found.dtype, self.shape).size:
            return None
        return f"is {found}, expected the shape {list(self.shape)}"


def quantized_matrix(algorithm: str, shape: tuple[int, ...]) -> tuple[Expected, Expected]:
    """What ModelOpt writes for a matrix of this shape: the quantized weights, and their scales."""
    rows, columns = shape
    if algorithm == "NVFP4":
        return Expected(BYTES, (rows, columns // 2)), Expected(FP8, (rows, columns // NVFP4_GROUP))
    if algorithm in AWQ:
        return Expected(BYTES, (rows // 2, columns)), Expected(FLOATS, (rows, columns // AWQ_GROUP))
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        return Expected(INT8, shape), Expected(FLOATS, (rows,), reordered=True)
    weights = {"FP8": Expected(FP8, shape), "W8A16": Expected(INT8, shape)}
    return weights.get(algorithm, Expected(FP8 | BYTES)), Expected(FLOATS)


@dataclass(frozen=True)
class Decoder:
    """The tensors that each rank of a decoder's checkpoint must have.

    Attributes:
        config: the checkpoint's configuration.
        expected: what the checkpoint is expected to be.
    """

    model: ModelFacts
    config: Mapping[str, Any]
    expected: CheckpointExpectation

    def differences(self, rank: int, found: dict[str, Tensor]) -> Iterator[str]:
        """One sentence for each tensor of a rank that is missing or has another shape or format."""
        for name, expected in self._tensors(rank, found):
            problem = expected.difference(found.get(name))
            if problem:
                yield f"rank{rank}.safetensors: {name} {problem}"

    def _tensors(self, rank: int, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        stage = rank // self.expected.tensor_parallel
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
        model, shared = self.model, self.expected.tensor_parallel
        queries = model.heads // shared * model.head_size
        rows = queries + 2 * max(1, model.kv_heads // shared) * model.head_size
        yield from self._linear(f"{prefix}.qkv", (rows, model.hidden_size), found)
        yield from self._linear(f"{prefix}.dense", (model.hidden_size, queries), found)
        if model.attention_bias:
            yield f"{prefix}.qkv.bias", Expected(self._floats, (rows,))
        if model.architecture in WITH_QUERY_KEY_NORMS:
            yield f"{prefix}.q_layernorm.weight", Expected(self._floats, (model.head_size,))
            yield f"{prefix}.k_layernorm.weight", Expected(self._floats, (model.head_size,))
        if self.expected.kv_cache_quant_algo and f"{prefix}.k_cache_scaling_factor" not in found:
            yield f"{prefix}.kv_cache_scaling_factor", Expected(FLOATS)

    def _feed_forward(self, prefix: str, found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        hidden, inner = self.model.hidden_size, self.model.intermediate_size // self.expected.tensor_parallel
        for name, rows, columns in (("fc", inner, hidden), ("gate", inner, hidden), ("proj", hidden, inner)):
            yield from self._linear(f"{prefix}.{name}", (rows, columns), found)
            if self.model.mlp_bias:
                yield f"{prefix}.{name}.bias", Expected(self._floats, (rows,))

    def _experts(self, prefix: str) -> Iterator[tuple[str, Expected]]:
        hidden, mapping = self.model.hidden_size, section(self.config, "mapping")
        groups = max(1, mapping.get("moe_ep_size") or 1)
        split = mapping.get("moe_tp_size") or 0
        inner = self.model.moe_intermediate_size // (split if split > 0 else self.expected.tensor_parallel // groups)
        experts = self.model.experts // groups
        yield f"{prefix}.router.weight", Expected(FLOATS, (self.model.experts, hidden))
        for name, shape in (("fc", (experts, 2 * inner, hidden)), ("proj", (experts, hidden, inner))):
            quantized = self._algorithm(f"{prefix}.{name}")
            known = quantized in (None, "FP8")
            dtypes = self._floats if quantized is None else FP8 if known else FLOATS | FP8 | BYTES
            yield f"{prefix}.{name}.weight", Expected(dtypes, shape if known else None)
            if quantized == "FP8":
                yield f"{prefix}.{name}.weights_scaling_factor", Expected(FLOATS)

    def _linear(self, name: str, shape: tuple[int, int], found: dict[str, Tensor]) -> Iterator[tuple[str, Expected]]:
        """The tensors of a matrix on one rank. Some converters write plain weights, and the loader quantizes them."""
        algorithm, weight = self._algorithm(name), found.get(f"{name}.weight")
        if algorithm is None:
            yield f"{name}.weight", Expected(self._floats, shape)
        elif algorithm in WEIGHT_ONLY and weight is not None and weight.dtype in FLOATS:
            yield f"{name}.weight", Expected(FLOATS, shape)
        elif algorithm in WEIGHT_ONLY:
            yield f"{name}.weight", Expected(INT8, (shape[1], shape[0] // WEIGHT_ONLY[algorithm]), reordered=True)
            yield f"{name}.per_channel_scale", Expected(FLOATS, (shape[0],), reordered=True)
        else:
            yield from self._quantized(name, algorithm, shape)

    def _quantized(self, name: str, algorithm: str, shape: tuple[int, int]) -> Iterator[tuple[str, Expected]]:
        """The tensors of a quantized matrix. Releases' own scripts name and pack some of them in other ways."""
        by_modelopt = section(self.config, "producer").get("name") == "modelopt"
        if algorithm != "FP8" and not (by_modelopt and algorithm in MORE_SCALES):
            yield f"{name}.weight", Expected(FLOATS | FP8 | BYTES)
            return
        weight, scale = quantized_matrix(algorithm, shape)
        yield f"{name}.weight", weight
        yield f"{name}.weights_scaling_factor", scale
        for more in MORE_SCALES[algorithm]:
            by_column = more == PREQUANT_SCALE and algorithm in AWQ
            yield f"{name}.{more}", Expected(FLOATS, (shape[1],) if by_column else None)

    def _algorithm(self, name: str) -> str | None:
        excluded = section(self.config, "quantization").get("exclude_modules") or ()
        return None if any(fnmatchcase(name, pattern) for pattern in excluded) else self.expected.quant_algo

    @property
    def _floats(self) -> frozenset[str]:
        known = FLOAT_NAMES.get(self.expected.dtype)
        return frozenset({known}) if known else FLOATS

    def _vocabulary(self) -> int:
        return -(-self.model.vocab_size // self.expected.tensor_parallel)

    def _embedding_shape(self) -> tuple[int, int]:
        hidden = self.model.hidden_size
        if not self.config.get("use_parallel_embedding"):
            return self.model.vocab_size, hidden
        if self.config.get("embedding_sharding_dim"):
            return self.model.vocab_size, hidden // self.expected.tensor_parallel
        return self._vocabulary(), hidden
