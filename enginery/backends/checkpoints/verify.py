"""Checks a checkpoint for `trtllm-build` against the model it was made from, before an engine is built of it.

Headers and configurations are read, no weights: it takes milliseconds for any size.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginery.backends.checkpoints.configuration import (
    CheckpointError,
    CheckpointExpectation,
    config_differences,
    section,
)
from enginery.backends.checkpoints.tensors import Decoder, Tensor, is_known, read_all, read_tensors
from enginery.core.progress import Facts
from enginery.sources import ModelFacts

RANK_FILE = re.compile(r"rank(\d+)\.safetensors")
REMEDY = "convert again; if it comes out the same, the converter does not fit this model: try another one or release"


def verify_checkpoint(checkpoint: Path, weights: Path, expected: CheckpointExpectation) -> Facts:
    """Make sure that a checkpoint is whole, fits its model, and is what is expected.

    Args:
        checkpoint: the directory with `config.json` and `rank<N>.safetensors`.
        weights: the Hugging Face model it was made from.
        expected: what the checkpoint is to be.

    Returns:
        What was found: ranks, tensors, bytes, algorithms, and how much could be checked.

    Raises:
        CheckpointError: when it is not; all differences are listed.
    """
    config, source = read_config(checkpoint), read_config(weights)
    model = replace(ModelFacts.from_config(source), tied_embeddings=_is_tied(source, weights))
    known = is_known(model)
    differences = config_differences(config, model, expected, strict=known)
    ranks, problems = _read_ranks(checkpoint, expected.world_size)
    differences += problems
    if known and _dividable(model, expected):
        decoder = Decoder(model, source, config, expected)
        for rank, tensors in ranks.items():
            differences += decoder.differences(rank, tensors)
    if differences:
        raise CheckpointError(differences, subject=str(checkpoint), remedy=REMEDY)
    return _facts(checkpoint, config, ranks, known=known)


def read_config(directory: Path) -> dict[str, Any]:
    """A directory's `config.json`.

    Raises:
        CheckpointError: when there is none that can be read.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(["config.json: it is missing"], subject=str(directory), remedy=REMEDY) from error
    except ValueError as error:
        problem = f"config.json: it is not JSON ({error})"
        raise CheckpointError([problem], subject=str(directory), remedy=REMEDY) from error
    if not isinstance(config, dict):
        raise CheckpointError(["config.json: it is no JSON object"], subject=str(directory), remedy=REMEDY)
    return config


def _is_tied(source: Mapping[str, Any], weights: Path) -> bool:
    """Whether the last layer shares the first one's weights. Some families only show it by having no last layer."""
    if "tie_word_embeddings" in source:
        return bool(source["tie_word_embeddings"])
    tensors, _ = read_all(weights)
    return bool(tensors) and "lm_head.weight" not in tensors


def _read_ranks(checkpoint: Path, world_size: int) -> tuple[dict[int, dict[str, Tensor]], list[str]]:
    ranks: dict[int, dict[str, Tensor]] = {}
    problems = []
    for rank in range(world_size):
        found = read_tensors(checkpoint / f"rank{rank}.safetensors")
        if isinstance(found, str):
            problems.append(f"rank{rank}.safetensors: {found}")
        else:
            ranks[rank] = found
    numbers = sorted(int(match[1]) for path in checkpoint.iterdir() if (match := RANK_FILE.fullmatch(path.name)))
    problems += [f"rank{n}.safetensors: there should be {world_size} ranks only" for n in numbers if n >= world_size]
    return ranks, problems


def _dividable(model: ModelFacts, expected: CheckpointExpectation) -> bool:
    """Whether all shapes are known: not where the model's configuration leaves sizes out."""
    sizes = (model.layers, model.heads, model.head_size, model.hidden_size, model.intermediate_size, model.vocab_size)
    return all(sizes) and not model.layers % expected.pipeline_parallel and not model.heads % expected.tensor_parallel


def _facts(
    checkpoint: Path, config: Mapping[str, Any], ranks: Mapping[int, Mapping[str, Tensor]], *, known: bool
) -> Facts:
    producer, quantization = section(config, "producer"), section(config, "quantization")
    return {
        "architecture": config.get("architecture"),
        "dtype": config.get("dtype"),
        "quant_algo": quantization.get("quant_algo"),
        "kv_cache_quant_algo": quantization.get("kv_cache_quant_algo"),
        "producer": " ".join(str(part) for part in producer.values()) or None,
        "ranks": len(ranks),
        "tensors": sum(len(tensors) for tensors in ranks.values()),
        "bytes": sum((checkpoint / f"rank{rank}.safetensors").stat().st_size for rank in ranks),
        "verified": "configuration, files and tensors" if known else "configuration and files",
    }
