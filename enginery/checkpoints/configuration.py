"""Compares a checkpoint's `config.json` with the model it was made from, and with what was asked.

A converter that loses one number here makes an engine that builds, loads and talks nonsense.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from enginery.checkpoints.expectation import CheckpointExpectation
from enginery.model_facts import DEFAULT_ROPE_THETA, ModelFacts

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
