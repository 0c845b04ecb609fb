"""Tests of what is recorded of models, against the transformers of a toolchain."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from enginery.models import defaults
from enginery.models.defaults import STRUCTURES
from enginery.models.facts import ModelFacts
from enginery.models.size import weights_of
from tests.support.models import __file__ as support

pytestmark = pytest.mark.integration

NOT_MADE = {"hunyuan_v1_dense", "hunyuan_v1_moe", "dots1", "ministral", "dbrx", "nemotron"}
"""Their configuration classes have defaults from which no model can be made."""
NO_DECODER = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
PARTS = {"qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "mllama_text_model"}


def printed(python: Path, script: str, *arguments: str) -> Any:
    command = [str(python), str(Path(support).parent / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_recorded_defaults_are_those_of_the_installed_classes(onnxruntime_python: Path) -> None:
    recorded = json.loads(Path(defaults.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert printed(onnxruntime_python, "class_defaults.py") == recorded


def test_the_recorded_structures_are_those_of_the_models(onnxruntime_python: Path) -> None:
    """The number of weights within 0.05%, which biases there are, and whether feed-forward blocks have a gate."""
    recorded = json.loads(Path(defaults.__file__).with_suffix(".json").read_text(encoding="utf-8"))["classes"]
    names = sorted(set(STRUCTURES).intersection(recorded) - NOT_MADE - NO_DECODER - PARTS)
    made = printed(onnxruntime_python, "class_weights.py", *names)
    assert len(made) > 50
    for name, model in made.items():
        facts = ModelFacts.from_config({"model_type": name})
        assert weights_of(facts).total == pytest.approx(model.pop("weights"), rel=5e-4), name
        assert {key: getattr(facts, key) for key in model} == model, name
