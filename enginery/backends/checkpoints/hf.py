"""Checks an exported Hugging Face checkpoint against the model it was made from.

Every tensor of the source must be there under its own name, with the shape that its quantization gives it, and the
configuration must still describe the same model.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from enginery.backends.checkpoints.configuration import CheckpointError, HfExpectation, rope_scaling, section
from enginery.backends.checkpoints.tensors import (
    AWQ_GROUP,
    BYTES,
    FLOATS,
    FP8,
    INT8,
    NVFP4_GROUP,
    Expected,
    Tensor,
    read_all,
)
from enginery.backends.checkpoints.verify import REMEDY, read_config
from enginery.core.progress import Facts
from enginery.sources import ModelFacts

QUANT_CONFIG = "hf_quant_config.json"
MAY_CHANGE = frozenset({"dtype", "quantization", "weight_bytes", "rope_scaling"})
"""Facts of a model that exporting may change, or that are compared on their own."""

LINEAR = re.compile(r"\.(q|k|v|o|qkv|gate|up|down|gate_up)_proj\.weight$|\.w[123]\.weight$")
"""Matrices that every algorithm quantizes unless they are excluded."""

MATRIX = 2
HAVE_INPUT_SCALE = ("FP8", "NVFP4", "W4A8_AWQ", "W8A8_SQ_PER_CHANNEL")


def verify_hf_checkpoint(checkpoint: Path, weights: Path, expected: HfExpectation) -> Facts:
    """Make sure that an exported checkpoint is whole, is still the same model, and is quantized as expected.

    Args:
        checkpoint: the exported Hugging Face directory.
        weights: the Hugging Face model it was made from.
        expected: what the checkpoint is to be.

    Raises:
        CheckpointError: when it is not; all differences are listed.
    """
    config, source = read_config(checkpoint), read_config(weights)
    quantization = _quantization(checkpoint)
    tensors, problems = read_all(checkpoint)
    originals, source_problems = read_all(weights)
    differences = [
        *_config_differences(config, source, expected),
        *_quantization_differences(quantization, expected),
        *problems,
        *([f"the source's {problem}" for problem in source_problems]),
        *([] if tensors else ["there is no file with weights (*.safetensors)"]),
        *_tensor_differences(tensors, originals, ModelFacts.from_config(source), quantization),
    ]
    if differences:
        raise CheckpointError(differences, subject=str(checkpoint), remedy=REMEDY)
    return {
        "quant_algo": quantization.get("quant_algo"),
        "kv_cache_quant_algo": quantization.get("kv_cache_quant_algo"),
        "tensors": len(tensors),
        "bytes": sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        "verified": "configuration, files and tensors" if originals else "configuration and files",
    }


def _quantization(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / QUANT_CONFIG
    if not path.is_file():
        return {}
    try:
        return section(json.loads(path.read_text(encoding="utf-8")), "quantization")
    except (ValueError, AttributeError) as error:
        problem = f"{QUANT_CONFIG}: it cannot be read ({error})"
        raise CheckpointError([problem], subject=str(checkpoint), remedy=REMEDY) from error


def _config_differences(config: Mapping[str, Any], source: Mapping[str, Any], expected: HfExpectation) -> Iterator[str]:
    found, wanted = asdict(ModelFacts.from_config(config)), asdict(ModelFacts.from_config(source))
    for name, value in wanted.items():
        if name not in MAY_CHANGE and found[name] != value:
            yield f"config.json: {name} is {found[name]}, the model has {value}"
    scaling, original = rope_scaling(found["rope_scaling"]), rope_scaling(wanted["rope_scaling"])
    if scaling != original:
        yield f"config.json: rope_scaling is {scaling or 'none'}, the model has {original or 'none'}"
    if expected.dtype and found["dtype"] != expected.dtype:
        yield f"config.json: dtype is {found['dtype'] or 'missing'}, expected {expected.dtype}"


def _quantization_differences(quantization: Mapping[str, Any], expected: HfExpectation) -> Iterator[str]:
    wanted_algorithms = {"quant_algo": expected.quant_algo, "kv_cache_quant_algo": expected.kv_cache_quant_algo}
    for name, wanted in wanted_algorithms.items():
        found = quantization.get(name)
        if found != wanted:
            yield f"{QUANT_CONFIG}: {name} is {found or 'none'}, expected {wanted or 'none'}"


def _tensor_differences(
    tensors: Mapping[str, Tensor],
    originals: Mapping[str, Tensor],
    model: ModelFacts,
    quantization: Mapping[str, Any],
) -> Iterator[str]:
    for name, original in originals.items():
        if name == "lm_head.weight" and model.tied_embeddings and name not in tensors:
            continue
        for wanted, expected in _wanted(name, original, tensors.get(name), quantization):
            problem = expected.difference(tensors.get(wanted))
            if problem:
                yield f"{wanted} {problem}"
    if quantization.get("kv_cache_quant_algo"):
        yield from _missing_cache_scales(tensors, originals)


def _wanted(
    name: str, original: Tensor, found: Tensor | None, quantization: Mapping[str, Any]
) -> Iterator[tuple[str, Expected]]:
    algorithm = quantization.get("quant_algo")
    layer = name.removesuffix(".weight")
    if not algorithm or not _is_quantized(name, original, found, quantization):
        yield name, Expected(FLOATS, original.shape)
        return
    yield name, _packed(algorithm, original.shape)
    yield f"{layer}.weight_scale", _scale(algorithm, original.shape)
    if algorithm in HAVE_INPUT_SCALE:
        yield f"{layer}.input_scale", Expected(FLOATS)
    if algorithm in ("NVFP4", "W4A8_AWQ"):
        yield f"{layer}.weight_scale_2", Expected(FLOATS)


def _is_quantized(name: str, original: Tensor, found: Tensor | None, quantization: Mapping[str, Any]) -> bool:
    """Whether a tensor must be quantized by its name, or is so by its own format."""
    excluded = quantization.get("exclude_modules") or ()
    if any(fnmatchcase(name.removesuffix(".weight"), pattern) for pattern in excluded):
        return False
    of_its_own = found is not None and found.dtype not in FLOATS and len(original.shape) == MATRIX
    return bool(LINEAR.search(name)) or of_its_own


def _packed(algorithm: str, shape: tuple[int, ...]) -> Expected:
    rows, columns = shape
    known = {
        "FP8": Expected(FP8, shape),
        "W8A8_SQ_PER_CHANNEL": Expected(INT8, shape),
        "W8A16": Expected(INT8, shape),
        "NVFP4": Expected(BYTES, (rows, columns // 2)),
        "W4A16_AWQ": Expected(BYTES, (rows // 2, columns)),
        "W4A8_AWQ": Expected(BYTES, (rows // 2, columns)),
    }
    return known.get(algorithm, Expected(FP8 | BYTES))


def _scale(algorithm: str, shape: tuple[int, ...]) -> Expected:
    rows, columns = shape
    if algorithm == "NVFP4":
        return Expected(FP8, (rows, columns // NVFP4_GROUP))
    if algorithm in ("W4A16_AWQ", "W4A8_AWQ"):
        return Expected(FLOATS, (rows, columns // AWQ_GROUP))
    return Expected(FLOATS)


def _missing_cache_scales(tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> Iterator[str]:
    for kind in ("k", "v"):
        for name in originals:
            scale = name.replace(f".{kind}_proj.weight", f".{kind}_proj.{kind}_scale")
            if scale != name and scale not in tensors:
                yield f"{scale} is missing"
