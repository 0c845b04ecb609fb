"""Compares a converted checkpoint with its model, before an engine is built from the checkpoint or it is served.

First come headers and configurations, which takes milliseconds for any size. An exported Hugging Face checkpoint must
have every tensor of the source under its own name, with the shape that the quantization gives it. Then the weights are
compared by value (`values`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.backends.checkpoints.configuration import (
    CheckpointError,
    CheckpointExpectation,
    HfExpectation,
    config_differences,
    rope_scaling,
    section,
)
from enginery.backends.checkpoints.tensors import (
    INPUT_SCALE,
    LLAMA_LIKE,
    MORE_SCALES,
    SECOND_SCALE,
    Decoder,
    Expected,
    quantized_matrix,
)
from enginery.core.late import late
from enginery.core.progress import Facts
from enginery.models import CONFIG, FLOATS, MODELOPT_FILE, ModelFacts, Tensor, read_all, read_tensors

if TYPE_CHECKING:
    from enginery.backends.checkpoints import values
else:
    values = late("enginery.backends.checkpoints.values")

NOT_COMPARED = frozenset(
    {"dtype", "quantization", "weight_bytes", "rope_scaling", "only_new_rope", "rope_by_layer_type"}
)
"""Facts of a model that the export may change, or that are compared separately."""
UNKNOWN = (None, "", ())
"""Values of facts that neither a model's configuration nor its class says."""
NO_ROPE = {("rope_theta", positions) for positions in ("learned", "alibi", "none")}

LINEAR = re.compile(r"\.(q|k|v|o|qkv|gate|up|down|gate_up)_proj\.weight$|\.w[123]\.weight$")
"""Matrices that every algorithm quantizes unless they are excluded."""
MATRIX_DIMENSIONS = 2
HF_SCALES = {INPUT_SCALE: "input_scale", SECOND_SCALE: "weight_scale_2"}
RANK_FILE = re.compile(r"rank(\d+)\.safetensors")
UNCOMPARED: Facts = {"values_not_compared": "weights of this architecture"}
REMEDY = "convert again; if the differences remain, use another converter or release: this one does not fit the model"


def verify_checkpoint(checkpoint: Path, weights: Path, expected: CheckpointExpectation) -> Facts:
    """Make sure that a checkpoint is complete, fits its model, and is as expected.

    Args:
        checkpoint: the directory with `config.json` and `rank<N>.safetensors`.
        weights: the Hugging Face model it was made from.
        expected: what the checkpoint is expected to be.

    Returns:
        What was found: ranks, tensors, bytes, algorithms, and how much could be checked.

    Raises:
        CheckpointError: when something differs; the error lists all differences.
    """
    config, source = read_config(checkpoint), read_config(weights)
    model = ModelFacts.from_config(source)
    model = replace(model, tied_embeddings=_is_tied(model, weights))
    if expected.accepted_rope_theta is not None:
        model = replace(model, rope_theta=expected.accepted_rope_theta)
    known = model.architecture in LLAMA_LIKE
    differences = config_differences(config, model, expected, strict=known)
    ranks, problems = _read_ranks(checkpoint, expected.world_size)
    differences += problems
    if known and _can_be_split(model, expected):
        decoder = Decoder(model, config, expected)
        for rank, tensors in ranks.items():
            differences += decoder.differences(rank, tensors)
    if differences:
        raise CheckpointError(differences, subject=str(checkpoint), remedy=REMEDY)
    comparable = known and _can_be_split(model, expected)
    given = (checkpoint, weights, config, model, expected)
    different, facts = values.checkpoint_values(*given) if comparable else ([], UNCOMPARED)
    if different:
        raise CheckpointError(different, subject=str(checkpoint), remedy=REMEDY)
    return {**_facts(checkpoint, config, ranks, known=known), **_not_compared(model), **facts}


def verify_hf_checkpoint(checkpoint: Path, weights: Path, expected: HfExpectation) -> Facts:
    """Make sure that an exported checkpoint is complete, is still the same model, and is quantized as expected.

    Raises:
        CheckpointError: when something differs; the error lists all differences.
    """
    config, source = read_config(checkpoint), read_config(weights)
    described = read_config(checkpoint, MODELOPT_FILE) if (checkpoint / MODELOPT_FILE).is_file() else {}
    quantization = section(described, "quantization")
    tensors, problems = read_all(checkpoint)
    originals, source_problems = read_all(weights)
    differences = [
        *_hf_config_differences(config, source, expected),
        *_quantization_differences(quantization, expected),
        *problems,
        *([f"the source's {problem}" for problem in source_problems]),
        *([] if tensors else ["there is no file with weights (*.safetensors)"]),
        *_tensor_differences(tensors, originals, ModelFacts.from_config(source), quantization),
    ]
    if differences:
        raise CheckpointError(differences, subject=str(checkpoint), remedy=REMEDY)
    different, facts = values.export_values(checkpoint, weights)
    if different:
        raise CheckpointError(different, subject=str(checkpoint), remedy=REMEDY)
    return {
        **facts,
        "quant_algo": quantization.get("quant_algo"),
        "kv_cache_quant_algo": quantization.get("kv_cache_quant_algo"),
        "tensors": len(tensors),
        "bytes": sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        "verified": "configuration, files and tensors" if originals else "configuration and files",
    }


def read_config(directory: Path, name: str = CONFIG) -> dict[str, Any]:
    """The content of a directory's `config.json`, or of another JSON file.

    Raises:
        CheckpointError: when the file is missing, or is not a JSON object.
    """
    try:
        config = json.loads((directory / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "it is missing"
    except ValueError as error:
        problem = f"it is not JSON ({error})"
    else:
        if isinstance(config, dict):
            return config
        problem = "it is no JSON object"
    raise CheckpointError([f"{name}: {problem}"], subject=str(directory), remedy=REMEDY)


def _is_tied(model: ModelFacts, weights: Path) -> bool | None:
    """Whether the last layer shares the first one's weights. For unknown models only a missing last layer shows it."""
    if model.tied_embeddings is not None:
        return model.tied_embeddings
    tensors, _ = read_all(weights)
    return "lm_head.weight" not in tensors if tensors else None


def _not_compared(model: ModelFacts) -> Facts:
    """What could not be compared, because neither the model's configuration nor its class says it."""
    facts = {"rope_theta": model.rope_theta, "tied_embeddings": model.tied_embeddings}
    unknown = [name for name, value in facts.items() if value is None and (name, model.positions) not in NO_ROPE]
    return {"not_compared": ", ".join(unknown)} if unknown else {}


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


def _can_be_split(model: ModelFacts, expected: CheckpointExpectation) -> bool:
    """Whether all sizes of the model are known, and its layers and heads can be split evenly."""
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


def _hf_config_differences(
    config: Mapping[str, Any], source: Mapping[str, Any], expected: HfExpectation
) -> Iterator[str]:
    found, wanted = asdict(ModelFacts.from_config(config)), asdict(ModelFacts.from_config(source))
    for name, value in wanted.items():
        if name not in NOT_COMPARED and value not in UNKNOWN and found[name] != value:
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
            yield f"{MODELOPT_FILE}: {name} is {found or 'none'}, expected {wanted or 'none'}"


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
    weight, scale = quantized_matrix(algorithm, original.shape)
    yield name, weight
    yield f"{layer}.weight_scale", scale
    for more in MORE_SCALES.get(algorithm, ()):
        if more in HF_SCALES:
            yield f"{layer}.{HF_SCALES[more]}", Expected(FLOATS)


def _is_quantized(name: str, original: Tensor, found: Tensor | None, quantization: Mapping[str, Any]) -> bool:
    """Whether a tensor must be quantized because of its name, or is quantized as its number format shows."""
    excluded = quantization.get("exclude_modules") or ()
    if any(fnmatchcase(name.removesuffix(".weight"), pattern) for pattern in excluded):
        return False
    found_quantized = found is not None and found.dtype not in FLOATS and len(original.shape) == MATRIX_DIMENSIONS
    return bool(LINEAR.search(name)) or found_quantized


def _missing_cache_scales(tensors: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> Iterator[str]:
    for kind in ("k", "v"):
        for name in originals:
            scale = name.replace(f".{kind}_proj.weight", f".{kind}_proj.{kind}_scale")
            if scale != name and scale not in tensors:
                yield f"{scale} is missing"
