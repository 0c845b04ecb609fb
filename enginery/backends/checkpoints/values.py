"""Compares the weights of a checkpoint with those of its model, by value, before an engine is built from it.

A converter that exchanges two tensors, loses a scale or forgets one matrix writes a checkpoint of the right names and
shapes. Here each tensor is dequantized and compared with the source, the part of each rank by itself.
What cannot be undone is not compared, and the facts of the step say so.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from enginery.backends.checkpoints.configuration import CheckpointExpectation, section
from enginery.backends.checkpoints.stored import (
    HUGGING_FACE,
    SCALE,
    TENSORRT_LLM,
    Files,
    Floats,
    Limits,
    Matrix,
    Rows,
    plain,
    quantized,
    row_scales,
)
from enginery.backends.checkpoints.tensors import WEIGHT_ONLY
from enginery.core.progress import Facts
from enginery.core.threads import side_by_side
from enginery.models import FLOATS, ModelFacts
from enginery.toolchains import MOST_VALUES, likeness, neighbours, relative, worst_block

LARGEST = {1: 128.0, 2: 8.0}
"""Weights in a byte -> what a weight-only scale is multiplied with to give the largest value of its row."""
MOST_NAMED = 8
"""How many names of what was not compared are said."""
NORMS_PLUS_ONE = ("GemmaForCausalLM",)
"""Models that add one to the values of their norms. Converters may store the sums."""
MATRIX = 2
FOLDED = "scales that ModelOpt folds into the layers before and after"


class Part(NamedTuple):
    """A part of a source's tensor, and where it is in the checkpoint.

    Attributes:
        name: the source's name.
        rows: which rows of it.
        columns: which columns.
        where: the rank, for people; empty if there is one.
    """

    name: str
    rows: slice = slice(None)
    columns: slice = slice(None)
    where: str = ""


@dataclass(frozen=True)
class Pair:
    """A part of the source, and the same part in the checkpoint.

    Attributes:
        part: the part.
        ours: the checkpoint's matrix; None if its format is not known.
        start: the first row of the part in that matrix.
        scaled: whether the checkpoint may have it with other scales of rows and columns.
        maxima: whether the checkpoint has only the largest value of each row.
        plus_one: whether it may have a norm's values with the one that the model adds to them.
    """

    part: Part
    ours: Matrix | None
    start: int = 0
    scaled: bool = False
    maxima: bool = False
    plus_one: bool = False


class Finding(NamedTuple):
    """What came of one comparison.

    Attributes:
        problem: a sentence; empty if the part is as it should be.
        error: the relative error; None if it was not compared.
        sampled: the share of rows that were compared.
        skipped: the source's name, if it was not compared.
    """

    problem: str = ""
    error: float | None = None
    sampled: float = 1.0
    skipped: str = ""


class Source:
    """The weights of the model."""

    def __init__(self, directory: Path) -> None:
        self.files = Files(sorted(directory.glob("*.safetensors")))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None if there is no such tensor, or it is quantized."""
        if name not in self.files or self.files.tensor(name).dtype not in FLOATS:
            return None
        return self.files.tensor(name).shape

    def read(self, part: Part, rows: Rows | None = None) -> Floats:
        """The chosen rows of a part; all rows if none are given."""
        array = self.files.array(part.name)
        if array.ndim < MATRIX:
            return np.asarray(array[part.rows]).astype(np.float32)
        chosen = np.arange(array.shape[0])[part.rows]
        return np.asarray(array[chosen if rows is None else chosen[rows]][:, part.columns]).astype(np.float32)


def checkpoint_values(
    checkpoint: Path, weights: Path, config: Mapping[str, Any], model: ModelFacts, expected: CheckpointExpectation
) -> tuple[list[str], Facts]:
    """The differences of a checkpoint for `trtllm-build` from its model, by value, and what was compared."""
    ranks = [Files([checkpoint / f"rank{rank}.safetensors"]) for rank in range(expected.world_size)]
    layout = Layout(ranks, config, model, expected)
    return compare(list(layout.pairs()), Source(weights), layout.skipped)


def export_values(checkpoint: Path, weights: Path) -> tuple[list[str], Facts]:
    """The differences of an exported Hugging Face checkpoint from its model, by value, and what was compared."""
    files, source = Files(sorted(checkpoint.glob("*.safetensors"))), Source(weights)
    pairs = [_exported(files, name) for name in source.files.names() if name in files]
    return compare(pairs, source, [FOLDED] if any(pair.scaled for pair in pairs) else [])


def compare(pairs: Sequence[Pair], source: Source, skipped: Sequence[str]) -> tuple[list[str], Facts]:
    """Compare all pairs; returns a sentence for each difference, and the facts."""
    began = time.monotonic()
    found = list(side_by_side(partial(_compared, source=source), pairs))
    errors = [one.error for one in found if one.error is not None]
    names = [*skipped, *dict.fromkeys(one.skipped for one in found if one.skipped)]
    facts: dict[str, Any] = {
        "values_compared": len(errors),
        "values_error": round(max(errors), 6) if errors else None,
        "values_seconds": round(time.monotonic() - began, 3),
    }
    if any(one.sampled < 1 for one in found):
        share = min(one.sampled for one in found)
        facts["values_sample"] = f"of the largest matrices {share:.0%} of the rows, at even distances"
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        facts["values_not_compared"] = ", ".join(names[:MOST_NAMED]) + more
    return [one.problem for one in found if one.problem], facts


def _compared(pair: Pair, source: Source) -> Finding:
    shape = source.shape(pair.part.name)
    if pair.ours is None or shape is None:
        return Finding(skipped=pair.part.name)
    if pair.maxima:
        return _compared_maxima(pair, pair.ours, source)
    rows = len(range(shape[0])[pair.part.rows])
    values = rows * pair.ours.shape[-1] if len(shape) > 1 else 1
    step = max(1, math.ceil(values / MOST_VALUES))
    chosen = np.arange(0, rows, step)
    ours, original = pair.ours.read(chosen + pair.start), source.read(pair.part, chosen)
    if len(shape) == 1:
        ours = ours[pair.start : pair.start + len(original)]
        if pair.plus_one and np.abs(ours - original - 1).max() < np.abs(ours - original).max():
            original = original + 1
    if ours.shape != original.shape:
        return Finding(f"{_named(pair)} has the shape {list(ours.shape)}, the model's {list(original.shape)}")
    if pair.scaled:
        ours = _unscaled(ours, original)
    others = partial(_others, pair, source, chosen)
    return _judged(pair, pair.ours.limits, ours, original, others, len(chosen) / rows, step)


def _compared_maxima(pair: Pair, ours: Matrix, source: Source) -> Finding:
    """Compare the largest value of each row: the weights themselves are packed for a GPU."""
    original = np.abs(source.read(pair.part)).max(axis=1)
    found = ours.read(np.arange(0))[pair.start : pair.start + len(original)]
    return _judged(pair, SCALE, found, original, lambda: iter(()), 1.0, 1)


def _judged(  # noqa: PLR0913, PLR0917  all of it is one comparison
    pair: Pair,
    limits: Limits,
    ours: Floats,
    original: Floats,
    others: Callable[[], Iterator[tuple[str, Callable[[], Floats]]]],
    share: float,
    step: int,
) -> Finding:
    error = relative(ours, original)
    block = pair.ours.block if pair.ours else 1
    worst, (row, first, last) = worst_block(ours, original, block)
    if error > limits.whole:
        looks = likeness(ours, original, others(), whole=step == 1)
        told = f"{looks}; " if looks else ""
        problem = f"{_named(pair)} is not the model's: {told}relative error {error:.3g}, at most {limits.whole:g}"
        return Finding(problem, error, share)
    if worst > limits.block:
        place = f"row {row * step}, columns {first} to {last}" if ours.ndim > 1 else f"values {first} to {last}"
        problem = (
            f"{_named(pair)} differs from the model's in {place}: relative error {worst:.3g}, at most {limits.block:g}"
        )
        return Finding(problem, error, share)
    return Finding("", error, share)


def _named(pair: Pair) -> str:
    return f"{pair.part.name}{f' on {pair.part.where}' if pair.part.where else ''}"


def _others(pair: Pair, source: Source, rows: Rows) -> Iterator[tuple[str, Callable[[], Floats]]]:
    """What may be there in place of a tensor: the same of another layer, or another of the same layer."""
    shape = source.shape(pair.part.name)
    own = pair.part.name.rpartition("layers.")[2].partition(".")[0]
    beside = (name for name in source.files.names() if f"layers.{own}." in name and name != pair.part.name)
    for name in (*neighbours(pair.part.name), *beside):
        if source.shape(name) == shape:
            yield name, partial(source.read, pair.part._replace(name=name), rows)


def _unscaled(ours: Floats, original: Floats) -> Floats:
    """Take out the factor of each row and column that brings the values nearest to the original's."""
    if ours.ndim < MATRIX:
        return original
    found = ours
    for axis in (0, 1):
        weight = (original * original).sum(axis=axis, keepdims=True)
        factor = (found * original).sum(axis=axis, keepdims=True) / np.where(weight > 0, weight, 1.0)
        found = np.asarray(found / np.where(np.abs(factor) > 0, factor, 1.0))
    return found


def _exported(files: Files, name: str) -> Pair:
    layer = name.removesuffix(".weight")
    ours = quantized(files, layer, HUGGING_FACE) if name.endswith(".weight") else plain(files, name)
    norm = name.endswith("norm.weight") and any(_is_awq(files, other) for other in files.names())
    return Pair(Part(name), ours, scaled=norm or _is_awq(files, name))


def _is_awq(files: Files, name: str) -> bool:
    """Whether a matrix is stored in int4, whose smoothing may be folded into norms and other matrices."""
    scale = f"{name}_scale"
    packed = scale in files and files.tensor(name).dtype in {"U8", "I8"}
    return packed and files.tensor(scale).dtype in FLOATS and len(files.tensor(scale).shape) == MATRIX


class Layout:
    """Where the parts of a model laid out like Llama are in a checkpoint for `trtllm-build`.

    Attributes:
        skipped: what is not compared.
    """

    def __init__(
        self, ranks: Sequence[Files], config: Mapping[str, Any], model: ModelFacts, expected: CheckpointExpectation
    ) -> None:
        self.ranks, self.config, self.model, self.expected = ranks, config, model, expected
        self.shared = expected.tensor_parallel
        self.by_modelopt = section(config, "producer").get("name") == "modelopt"
        self.skipped: list[str] = []

    def pairs(self) -> Iterator[Pair]:
        """Every part, with its place in the source."""
        stages = self.expected.pipeline_parallel
        per_stage = self.model.layers // stages
        for rank, files in enumerate(self.ranks):
            stage, place = divmod(rank, self.shared)
            where = f"rank {rank}" if len(self.ranks) > 1 else ""
            if stage == 0:
                yield from self._embedding(files, place, where)
            if stage == stages - 1:
                yield from self._head(files, place, where)
            for number in range(per_stage):
                there = f"model.layers.{stage * per_stage + number}"
                yield from self._layer(files, f"transformer.layers.{number}", there, place, where)

    def _embedding(self, files: Files, place: int, where: str) -> Iterator[Pair]:
        name, stored = "model.embed_tokens.weight", "transformer.vocab_embedding.weight"
        if not self.config.get("use_parallel_embedding") or self.shared == 1:
            yield Pair(Part(name, where=where), plain(files, stored))
        elif self.config.get("embedding_sharding_dim"):
            yield Pair(
                Part(name, columns=self._share(self.model.hidden_size, place), where=where), plain(files, stored)
            )
        else:
            yield Pair(Part(name, rows=self._words(place), where=where), plain(files, stored))

    def _head(self, files: Files, place: int, where: str) -> Iterator[Pair]:
        yield self._norm(files, "transformer.ln_f", Part("model.norm.weight", where=where))
        if "lm_head.weight" in files:
            tied = self.model.tied_embeddings
            name = "model.embed_tokens.weight" if tied else "lm_head.weight"
            yield Pair(
                Part(name, rows=self._words(place), where=f"{where} (lm_head)".strip() if tied else where),
                self._matrix(files, "lm_head"),
            )

    def _layer(self, files: Files, here: str, there: str, place: int, where: str) -> Iterator[Pair]:
        for stored, name in (("input_layernorm", "input_layernorm"), ("post_layernorm", "post_attention_layernorm")):
            yield self._norm(files, f"{here}.{stored}", Part(f"{there}.{name}.weight", where=where))
        yield from self._attention(files, f"{here}.attention", f"{there}.self_attn", place, where)
        if self.model.experts:
            self.skipped.append(f"the experts of {there}")
            return
        inner = self._share(self.model.intermediate_size, place)
        for stored, name in (("fc", "gate_proj"), ("gate", "up_proj")):
            yield self._rows(files, f"{here}.mlp.{stored}", Part(f"{there}.mlp.{name}.weight", rows=inner, where=where))
        yield self._rows(files, f"{here}.mlp.proj", Part(f"{there}.mlp.down_proj.weight", columns=inner, where=where))

    def _attention(self, files: Files, here: str, there: str, place: int, where: str) -> Iterator[Pair]:
        model = self.model
        heads = self._share(model.heads * model.head_size, place)
        kv_heads = max(1, model.kv_heads // self.shared)
        first = place * model.kv_heads // self.shared
        kv = slice(first * model.head_size, (first + kv_heads) * model.head_size)
        start = 0
        for letter, rows in (("q", heads), ("k", kv), ("v", kv)):
            part = Part(f"{there}.{letter}_proj.weight", rows=rows, where=where)
            yield self._rows(files, f"{here}.qkv", part, start)
            if model.attention_bias:
                bias = part._replace(name=f"{there}.{letter}_proj.bias")
                yield Pair(bias, plain(files, f"{here}.qkv.bias"), start)
            start += rows.stop - rows.start
        yield self._rows(files, f"{here}.dense", Part(f"{there}.o_proj.weight", columns=heads, where=where))
        for letter in ("q", "k"):
            if f"{here}.{letter}_layernorm.weight" in files:
                norm = plain(files, f"{here}.{letter}_layernorm.weight")
                yield Pair(Part(f"{there}.{letter}_norm.weight", where=where), norm)

    def _norm(self, files: Files, layer: str, part: Part) -> Pair:
        return Pair(part, plain(files, f"{layer}.weight"), plus_one=self.model.architecture in NORMS_PLUS_ONE)

    def _rows(self, files: Files, layer: str, part: Part, start: int = 0) -> Pair:
        """A matrix of a layer. Of weights that are packed for a GPU, only the scales can be compared."""
        packed = WEIGHT_ONLY.get(self.expected.quant_algo or "")
        weight = f"{layer}.weight"
        if packed and weight in files and files.tensor(weight).dtype not in FLOATS:
            return Pair(part, row_scales(files, layer, LARGEST[packed]), start, maxima=True)
        return Pair(part, self._matrix(files, layer), start)

    def _matrix(self, files: Files, layer: str) -> Matrix | None:
        """A matrix of a layer; None if it is packed in a way that only its own release knows."""
        algorithm = self.expected.quant_algo or ""
        fp8 = algorithm.startswith("FP8")
        if algorithm and not fp8 and algorithm not in WEIGHT_ONLY and not self.by_modelopt and layer != "lm_head":
            return None
        return quantized(files, layer, TENSORRT_LLM, fp8_in_bytes=fp8)

    def _share(self, size: int, place: int) -> slice:
        part = size // self.shared
        return slice(place * part, (place + 1) * part)

    def _words(self, place: int) -> slice:
        """The tokens of one rank. The last rank may have rows that stand for no token."""
        part = -(-self.model.vocab_size // self.shared)
        return slice(place * part, min((place + 1) * part, self.model.vocab_size))
