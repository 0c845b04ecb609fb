"""A target of the backend `pytorch` from its plan to its model repository, with the real ModelOpt."""

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

PRECISIONS = {"fp8": "FP8", "int4_awq": "W4A16_AWQ"}


@pytest.fixture
def home_with_modelopt(own_home: Path) -> Path:
    made_in_the_checkout("modelopt-0.47")
    own_home.mkdir(parents=True, exist_ok=True)
    (own_home / "toolchains").symlink_to(SHARED_TOOLCHAINS)
    return own_home


def planned(weights: Path, precision: str) -> Plan:
    target = {"name": "h100", "gpu": "H100-SXM5-80GB", "backend": "pytorch", "precision": precision}
    convert = {"device": "cpu", "calibration": {"size": 2, "max_length": 16}}
    data: dict[str, Any] = {
        "name": "tiny",
        "source": {"path": str(weights)},
        "targets": [target],
        "convert": convert,
        "serving": {"max_batch_size": 4},
    }
    return make_plan(parse_spec(data))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_target_is_quantized_and_packaged_as_planned(
    home_with_modelopt: Path, tiny_weights: Path, tmp_path: Path, precision: str
) -> None:
    plan, store = planned(tiny_weights, precision), open_store(None)
    assert [planned.id for planned in plan.steps] == ["download", "convert/h100", "validate/h100", "package/h100"]
    outcomes = {}
    for step in ("download", "convert/h100", "package/h100"):
        outcomes[step] = run_step(plan.find(step), store, lambda _line: None)
    facts = outcomes["convert/h100"].facts
    assert facts["quant_algo"] == PRECISIONS[precision]
    assert facts["verified"] == "configuration, files and tensors"
    record = store.find(plan.find("package/h100").key)
    assert record is not None
    repository = tmp_path / "models"
    store.fetch(record, repository)
    version = repository / "tensorrt_llm" / "1"
    content = yaml.safe_load((version / "model.yaml").read_text())
    assert content["cuda_graph_config"]["batch_sizes"] == content["triton_config"]["warm_up"] == [1, 2, 4]
    said = json.loads((version / content["model"] / "hf_quant_config.json").read_text())
    assert said["quantization"]["quant_algo"] == PRECISIONS[precision]
    assert (version / content["model"] / "tokenizer.json").read_bytes() == (
        tiny_weights / "tokenizer.json"
    ).read_bytes()


def test_a_second_build_finds_everything_done(home_with_modelopt: Path, tiny_weights: Path) -> None:
    store = open_store(None)
    for first in (True, False):
        plan = planned(tiny_weights, "fp8")
        for step in ("download", "convert/h100", "package/h100"):
            assert run_step(plan.find(step), store, lambda _line: None).ran is first
