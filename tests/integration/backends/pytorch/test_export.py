"""Tests of a target of the backend `pytorch`, from plan to model repository, with the real ModelOpt."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginery.pipeline.plan import Plan, make_plan
from enginery.pipeline.run import run_step
from enginery.spec.spec import parse_spec
from enginery.store import open_store
from tests.integration.conftest import SHARED_TOOLCHAINS, made_in_the_checkout
from tests.support.plans.light import LIGHT


@pytest.fixture
def home_with_modelopt(own_home: Path) -> Path:
    made_in_the_checkout("modelopt-0.47")
    own_home.mkdir(parents=True, exist_ok=True)
    (own_home / "toolchains").symlink_to(SHARED_TOOLCHAINS)
    return own_home


def planned(weights: Path) -> Plan:
    target = {"name": "h100", "gpu": "H100-SXM5-80GB", "backend": "pytorch", "precision": "fp8"}
    convert = {"device": "cpu", "calibration": {"size": 2, "max_length": 16}}
    data: dict[str, Any] = {
        "name": "tiny",
        "source": {"path": str(weights)},
        "targets": [target],
        "convert": convert,
        "serving": {"max_batch_size": 4},
        "validation": LIGHT,
    }
    return make_plan(parse_spec(data))


def test_a_target_is_quantized_and_packaged_as_planned_and_then_found_done(
    home_with_modelopt: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    plan, store = planned(tiny_weights), open_store(None)
    after = ["validate/h100", "package/h100", "gates/h100"]
    assert [step.id for step in plan.steps] == ["download", "convert/h100", *after]
    made = ("download", "convert/h100", "package/h100")
    outcomes = {step: run_step(plan.find(step), store, lambda _line: None) for step in made}
    assert all(outcome.ran for outcome in outcomes.values())
    facts = outcomes["convert/h100"].facts
    assert facts["quant_algo"] == "FP8"
    assert facts["verified"] == "configuration, files and tensors"
    record = store.find(plan.find("package/h100").key)
    assert record is not None
    repository = tmp_path / "models"
    store.fetch(record, repository)
    version = repository / "tensorrt_llm" / "1"
    content = yaml.safe_load((version / "model.yaml").read_text())
    assert content["cuda_graph_config"]["batch_sizes"] == content["triton_config"]["warm_up"] == [1, 2, 4]
    description = json.loads((version / content["model"] / "hf_quant_config.json").read_text())
    assert description["quantization"]["quant_algo"] == "FP8"
    assert (version / content["model"] / "tokenizer.json").read_bytes() == (
        tiny_weights / "tokenizer.json"
    ).read_bytes()
    again = planned(tiny_weights)
    assert not any(run_step(again.find(step), store, lambda _line: None).ran for step in made)
