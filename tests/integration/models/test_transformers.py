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
from tests.support.engines import run_driver
from tests.support.models import __file__ as support

RUN_SCRIPTS = Path(run_driver.__file__)
pytestmark = pytest.mark.integration

NOT_MADE = {"hunyuan_v1_dense", "hunyuan_v1_moe", "dots1", "ministral", "dbrx", "nemotron"}
"""Their configuration classes have defaults from which no model can be made."""
NO_DECODER = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
PARTS = {"qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "mllama_text_model"}


RECORDED = json.loads(Path(defaults.__file__).with_suffix(".json").read_text(encoding="utf-8"))
NAMES = sorted(set(STRUCTURES).intersection(RECORDED["classes"]) - NOT_MADE - NO_DECODER - PARTS)


@pytest.fixture(scope="module")
def printed(onnxruntime_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the two scripts print, in one process: to import transformers takes longer than their work."""
    directory, scripts = tmp_path_factory.mktemp("scripts"), Path(support).parent
    jobs = {"defaults": [scripts / "class_defaults.py"], "weights": [scripts / "class_weights.py", *NAMES]}
    (directory / "jobs.json").write_text(json.dumps(jobs, default=str), encoding="utf-8")
    command = [onnxruntime_python, RUN_SCRIPTS, directory / "jobs.json", directory / "runs.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=480)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = json.loads((directory / "runs.json").read_text(encoding="utf-8"))
    assert {run["status"] for run in runs.values()} == {0}, runs
    return {name: json.loads(run["printed"]) for name, run in runs.items()}


def test_the_recorded_defaults_are_those_of_the_installed_classes(printed: dict[str, Any]) -> None:
    assert printed["defaults"] == RECORDED


def test_the_recorded_structures_are_those_of_the_models(printed: dict[str, Any]) -> None:
    """The number of weights within 0.05%, which biases there are, and whether feed-forward blocks have a gate."""
    made = printed["weights"]
    assert len(made) > 50
    for name, model in made.items():
        facts = ModelFacts.from_config({"model_type": name})
        assert weights_of(facts).total == pytest.approx(model.pop("weights"), rel=5e-4), name
        assert {key: getattr(facts, key) for key in model} == model, name
