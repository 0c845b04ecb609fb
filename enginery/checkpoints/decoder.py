"""The tensors that each rank of a decoder's checkpoint must hold, and their shapes.

Known for the families that are laid out like Llama; of others only their configuration and files are checked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from enginery.checkpoints.configuration import section
from enginery.checkpoints.expectation import CheckpointExpectation
from enginery.checkpoints.headers import FLOATS, Tensor
from enginery.checkpoints.quantized import BYTES, FP8, Expected, Linear, linear_tensors
from enginery.model_facts import ModelFacts

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
