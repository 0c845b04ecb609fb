"""The tensors of a checkpoint: those that its files have, and those that it must have.

Only headers of safetensors files are read, no weights. What a checkpoint must have is known for the families that are
laid out like Llama; of others only configuration and files are checked.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from enginery.backends.checkpoints.configuration import CheckpointExpectation, section
from enginery.sources import LENGTH_BYTES, ModelFacts, safetensors_problem

ITEM_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16}
"""Bits of one number; all other formats have 8."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats of weights that are not quantized."""

FP8 = frozenset({"F8_E4M3", "I8"})
"""Some releases write the same bytes as int8."""
INT8 = frozenset({"I8"})
BYTES = frozenset({"U8", "I8"})

WEIGHT_ONLY = {"W8A16": 1, "W4A16": 2}
"""Algorithm -> weights in one byte."""
AWQ_GROUP = 128
NVFP4_GROUP = 16

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


@dataclass(frozen=True)
class Tensor:
    """A tensor as a header describes it.

    Attributes:
        dtype: safetensors' name of its number format, such as `BF16` or `F8_E4M3`.
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that its numbers take."""
        return prod(self.shape) * ITEM_BITS.get(self.dtype, 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_tensors(path: Path) -> dict[str, Tensor] | str:
    """The tensors of a safetensors file by name, or what is wrong with the file, as text."""
    if not path.is_file():
        return "it is missing"
    problem = safetensors_problem(path)
    return problem or _described(path)


def read_all(directory: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of all safetensors files of a directory, and a sentence for each file that cannot be read."""
    tensors: dict[str, Tensor] = {}
    problems = []
    for path in sorted(directory.glob("*.safetensors")):
        found = read_tensors(path)
        if isinstance(found, str):
            problems.append(f"{path.name}: {found}")
        else:
            tensors.update(found)
    return tensors, problems


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
        """What is wrong with what was found; None when it is as expected."""
        if found is None:
            return "is missing"
        if found.dtype not in self.dtypes:
            return f"is {found}, expected {' or '.join(sorted(self.dtypes))}"
        if self.shape is None or found.shape == self.shape:
            return None
        if self.reordered and found.size == Tensor(found.dtype, self.shape).size:
            return None
        return f"is {found}, expected the shape {list(self.shape)}"


def is_known(model: ModelFacts) -> bool:
    """Whether the tensors of the model's family are known."""
    return model.architecture in LLAMA_LIKE


@dataclass(frozen=True)
class Linear:
    """A layer's matrix on one rank.

    Attributes:
        name: its name without `.weight`.
        rows: size of its output.
        columns: size of its input.
    """

    name: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Decoder:
    """A decoder, split as a checkpoint is.

    Attributes:
        model: its shape.
        source: its Hugging Face configuration.
        config: the checkpoint's configuration.
        expected: what the checkpoint is to be.
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


def linear_tensors(
    layer: Linear, algorithm: str | None, found: dict[str, Tensor], *, modelopt: bool
) -> Iterator[tuple[str, Expected]]:
    """The tensors of a quantized matrix.

    Args:
        layer: the matrix.
        algorithm: TensorRT-LLM's name of the algorithm; None where the matrix is not quantized.
        found: what the file has: some converters leave quantizing to the loader.
        modelopt: whether ModelOpt wrote it; the releases' own converters name and pack some of it differently.
    """
    shape = (layer.rows, layer.columns)
    weight = found.get(f"{layer.name}.weight")
    if algorithm is None or (algorithm in WEIGHT_ONLY and weight is not None and weight.dtype in FLOATS):
        yield f"{layer.name}.weight", Expected(FLOATS, shape)
    elif algorithm in WEIGHT_ONLY:
        packed = (layer.columns, layer.rows // WEIGHT_ONLY[algorithm])
        yield f"{layer.name}.weight", Expected(INT8, packed, reordered=True)
        yield f"{layer.name}.per_channel_scale", Expected(FLOATS, (layer.rows,), reordered=True)
    elif algorithm == "FP8":
        yield f"{layer.name}.weight", Expected(FP8, shape)
        yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor")
    elif modelopt:
        yield from _of_modelopt(layer, algorithm)
    else:
        yield f"{layer.name}.weight", Expected(FLOATS | FP8 | BYTES)


def _described(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    described = {name: value for name, value in header.items() if name != "__metadata__"}
    return {name: Tensor(str(value["dtype"]), tuple(value["shape"])) for name, value in described.items()}


def _of_modelopt(layer: Linear, algorithm: str) -> Iterator[tuple[str, Expected]]:
    rows, columns = layer.rows, layer.columns
    weight, scale = f"{layer.name}.weight", f"{layer.name}.weights_scaling_factor"
    if algorithm == "W8A8_SQ_PER_CHANNEL":
        yield weight, Expected(INT8, (rows, columns))
        yield scale, Expected(FLOATS, (rows,))
        yield from _scales(layer, "activation_scaling_factor", "prequant_scaling_factor")
    elif algorithm in ("W4A16_AWQ", "W4A8_AWQ"):
        yield weight, Expected(BYTES, (rows // 2, columns))
        yield scale, Expected(FLOATS, (rows, columns // AWQ_GROUP))
        yield f"{layer.name}.prequant_scaling_factor", Expected(FLOATS, (columns,))
        if algorithm == "W4A8_AWQ":
            yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor_2")
    elif algorithm == "NVFP4":
        yield weight, Expected(BYTES, (rows, columns // 2))
        yield scale, Expected(FP8, (rows, columns // NVFP4_GROUP))
        yield from _scales(layer, "activation_scaling_factor", "weights_scaling_factor_2")
    else:
        yield weight, Expected(FLOATS | FP8 | BYTES)


def _scales(layer: Linear, *names: str) -> Iterator[tuple[str, Expected]]:
    for name in names:
        yield f"{layer.name}.{name}", Expected(FLOATS)
