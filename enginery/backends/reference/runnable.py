"""Which models the toolchain of transformers can run as a reference. It runs no code that comes with a model."""

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from enginery.models import ANSWERS_NO_TEXT, SAID_IN, ModelFacts, ModelKind

MODEL_TYPES = Path(__file__).with_name("model_types.json")
"""The models that transformers runs, as `tests/support/models/model_types.py` lists them."""
DEQUANTIZED = frozenset({"fp8", "mxfp4"})
"""Quantized sources whose weights transformers itself turns back into plain ones, without another library."""
WEIGHT_FILES = (".safetensors", ".bin")


def reference_problem(model: ModelFacts | None, config: Mapping[str, Any], files: Collection[str] = ()) -> str | None:
    """Why the original weights cannot be run as a reference; None if they can.

    Args:
        model: the model's shape; None if its source could not be read.
        config: the content of its `config.json`.
        files: the names of its files, to see in which format the weights are; empty if they are not known.
    """
    if model is None:
        return "the model is not known"
    return _kind_problem(model) or _class_problem(model, config) or _weights_problem(model, files)


def _kind_problem(model: ModelFacts) -> str | None:
    if model.kind in ANSWERS_NO_TEXT or model.kind is ModelKind.ENCODER_DECODER:
        return f"{model.architecture or 'the model'} is {model.kind}"
    return None


def _class_problem(model: ModelFacts, config: Mapping[str, Any]) -> str | None:
    recorded = _recorded()
    own_code = bool(config.get("auto_map")) and model.architecture not in recorded["classes"]
    if model.model_type in recorded["types"] and not own_code:
        return None
    version = recorded["transformers"]
    if own_code:
        return f"the model brings its own code, which Enginery does not run; transformers {version} has none for it"
    return f"transformers {version} has no model of type {model.model_type!r}"


def _weights_problem(model: ModelFacts, files: Collection[str]) -> str | None:
    quantization = model.quantization
    if quantization and (quantization.get("quant_method") not in DEQUANTIZED or SAID_IN in quantization):
        method = quantization.get("quant_method") or quantization.get("quant_algo") or "in an unnamed format"
        return f"the source is quantized ({method}), and transformers alone cannot run it"
    if files and not any(name.endswith(WEIGHT_FILES) for name in files):
        return "the source has no weights in files that transformers reads"
    return None


@cache
def _recorded() -> Mapping[str, Any]:
    recorded: Mapping[str, Any] = json.loads(MODEL_TYPES.read_text(encoding="utf-8"))
    return recorded
