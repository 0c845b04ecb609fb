"""Tests of what is known of weights against the real transformers, and of what its loader reports."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from enginery.core import process
from enginery.core.errors import CommandError, SourceError
from enginery.models.headers import Tensor
from enginery.models.tensors import LAYOUTS, architecture_faults
from enginery.pipeline import perform as performing
from enginery.pipeline.plan import Plan, make_plan
from enginery.spec.spec import parse_spec
from enginery.store.context import StepContext
from enginery.toolchains.identity import Toolchain
from tests.support.models.checkpoints import read_header, rewritten
from tests.support.paths import shared_by_workers

SCRIPT = Path(__file__).parents[2] / "support" / "models" / "saved_models.py"
LEFT_OPEN = {
    "opt": {"model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.weight"},
    "opt, no biases": {"model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.weight"},
    "opt, projected": {"model.decoder.project_in.weight", "model.decoder.project_out.weight"},
}
"""Tensors that OPT's settings allow or need in ways that are not recorded."""
LOST = "model.layers.1.mlp.down_proj.weight"

Saved = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="session")
def saved(onnxruntime_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Small models as the toolchain's transformers saves them. They are made once for all workers."""
    made = shared_by_workers(tmp_path_factory) / "saved-models.json"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            process.run([str(onnxruntime_python), str(SCRIPT), str(made)])
    found: Saved = json.loads(made.read_text())
    return found


def tensors_of(model: Mapping[str, Any], kind: str = "tensors") -> dict[str, Tensor]:
    return {name: Tensor("BF16", tuple(shape)) for name, shape in model[kind].items()}


def faults(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    return [fault.problem for fault in architecture_faults(config, tensors)]


def test_every_known_architecture_is_among_the_saved_models(saved: Saved) -> None:
    assert {model["config"]["architectures"][0] for model in saved.values()} == set(LAYOUTS)


def test_what_transformers_saves_is_accepted_with_every_setting_written_and_with_defaults_left_out(
    saved: Saved,
) -> None:
    for name, model in saved.items():
        for config in (model["config"], model["short_config"]):
            for kind in ("tensors", "in_memory"):
                assert faults(config, tensors_of(model, kind)) == [], (name, kind)


def test_each_missing_tensor_is_named(saved: Saved) -> None:
    for name, model in saved.items():
        tensors = tensors_of(model)
        for lost in tensors.keys() - LEFT_OPEN.get(name, set()):
            rest = {one: tensor for one, tensor in tensors.items() if one != lost}
            assert lost in "".join(faults(model["config"], rest)), name


def test_each_matrix_of_another_shape_is_named(saved: Saved) -> None:
    for name, model in saved.items():
        tensors = tensors_of(model)
        for changed, tensor in tensors.items():
            if len(tensor.shape) > 1 and changed not in LEFT_OPEN.get(name, ()):
                larger = Tensor("BF16", tuple(size + 1 for size in tensor.shape))
                assert changed in "".join(faults(model["config"], {**tensors, changed: larger})), name


def test_files_without_the_models_prefix_are_accepted_as_transformers_accepts_them(saved: Saved) -> None:
    for name, model in saved.items():
        base = LAYOUTS[model["config"]["architectures"][0]][0].base
        tensors = {one.removeprefix(base): tensor for one, tensor in tensors_of(model).items()}
        assert faults(model["config"], tensors) == [], name


def test_layers_that_the_configuration_does_not_count_are_reported(saved: Saved) -> None:
    for name, model in saved.items():
        setting = next((one for one in ("num_hidden_layers", "n_layer") if one in model["config"]), None)
        found = faults({**model["config"], str(setting): 2}, tensors_of(model))
        predicts_more = model["config"].get("num_nextn_predict_layers")
        assert any("nothing would read layer 2" in one for one in found) == bool(setting and not predicts_more), name


@pytest.fixture
def plan(tiny_weights: Path, shared_toolchains: Path) -> Plan:
    target = {"name": "cpu", "gpu": "cpu", "backend": "onnxruntime", "precision": "float32"}
    return make_plan(parse_spec({"name": "m", "source": {"path": str(tiny_weights)}, "targets": [target]}))


def build(plan: Plan, toolchain: Toolchain, weights: Path, output: Path) -> None:
    """Run the real build step with these weights, which no check of the source has seen."""
    output.mkdir()
    planned = plan.find("build/cpu")
    inputs = {"weights": weights}
    context = StepContext(planned.key, {}, inputs, output, (), toolchain, lambda _line: None)
    performing.perform(planned, context)


def test_a_builder_that_fills_in_random_numbers_and_leaves_tensors_out_fails_the_step_with_their_names(
    plan: Plan, toolchain: Toolchain, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    names = {name: name for name in read_header(weights) if name not in {LOST, "lm_head.weight"}}
    unread = "model.layers.0.mlp.up_proj.weight_scale_inv"
    rewritten(weights / "model.safetensors", names | {unread: "model.norm.weight"})
    monkeypatch.setattr(performing, "require_whole", lambda *_: None)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    with pytest.raises(CommandError) as caught:
        build(plan, toolchain, weights, tmp_path / "output")
    assert re.search(
        rf"random numbers.*: {LOST}, lm_head.weight|random numbers.*: lm_head.weight, {LOST}", str(caught.value)
    )
    assert f"not in the model: {unread}" in str(caught.value)
    assert (caught.value.cause, caught.value.exit_code) == ("weights", 6)


def test_what_older_checkpoints_have_beside_the_weights_fails_no_step(
    plan: Plan, toolchain: Toolchain, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    names = {name: name for name in read_header(weights)}
    rewritten(weights / "model.safetensors", names | {"model.layers.0.self_attn.rotary_emb.inv_freq": LOST})
    build(plan, toolchain, weights, tmp_path / "output")
    assert (tmp_path / "output" / "model.onnx").exists()


def test_a_step_with_weights_that_are_not_complete_starts_no_command(
    plan: Plan, toolchain: Toolchain, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    rewritten(weights / "model.safetensors", {name: name for name in read_header(weights) if name != LOST})
    with pytest.raises(SourceError, match=LOST):
        build(plan, toolchain, weights, tmp_path / "output")
    assert list((tmp_path / "output").iterdir()) == []
