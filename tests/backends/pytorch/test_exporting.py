"""Tests of ModelOpt's export: it succeeds only if the checkpoint is complete and as planned."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.backends.checkpoints.configuration import CheckpointError
from enginery.backends.pytorch.quantize import export_checkpoint, read_quantization
from enginery.backends.quantizing import DRIVER
from enginery.core.digests import file_digest
from enginery.core.errors import CommandError, SourceError, StoreError, UsageError
from enginery.pipeline.functions import find_command_runner
from enginery.store.context import StepContext
from enginery.store.steps import Command
from enginery.toolchains.drivers import driver_sha256
from tests.support.models.checkpoints import SOURCE, fp8_layout, write_source, write_tensors
from tests.support.models.directories import exported_checkpoint
from tests.support.plans.pytorch import BACKEND, WEIGHTS, request_of

FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
FACTS = {"converter": "nvidia-modelopt 0.47.0", "seconds": {"export": 1.5}}
Export = Callable[..., Any]


def write_export(directory: Path, quantization: dict[str, Any]) -> Path:
    """Write the files that ModelOpt writes for the small model."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SOURCE))
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    write_tensors(directory / "model.safetensors", fp8_layout())
    return directory


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Runs the export with a command that copies a checkpoint and then damages it."""
    weights = write_source(tmp_path / "weights")

    def run(
        quantization: dict[str, Any] | None = None,
        *,
        spoil: str = "",
        last: str = json.dumps(FACTS),
        places: dict[str, str] | None = None,
        **parameters: Any,
    ) -> Any:
        made = write_export(tmp_path / "made", quantization or FP8)
        output = tmp_path / "output"
        output.mkdir()
        copy = f"import os, shutil; shutil.copytree({str(made)!r}, {str(output)!r}, dirs_exist_ok=True)"
        code = f"{copy}; os.chdir({str(output)!r})\n{spoil}\nprint({last!r})"
        known = {"precision": "fp8", "kv_cache": "auto", "dtype": "bfloat16", "driver_sha256": driver_sha256(DRIVER)}
        context = StepContext(
            key="k",
            parameters=known | parameters,
            inputs={"weights": weights},
            output=output,
            chain=(),
            toolchain=None,
            log=lambda _line: None,
            places=places or {},
        )
        return export_checkpoint(context, (sys.executable, "-c", code), {})

    return run


def test_the_plan_finds_the_runner_by_its_name() -> None:
    assert find_command_runner("export_checkpoint") is export_checkpoint


def test_the_plans_parameters_are_those_the_runner_reads() -> None:
    (making,) = BACKEND.chain(request_of({"precision": "nvfp4"}, gpu="B200"), WEIGHTS).making
    recipe = making.step.recipe
    assert isinstance(recipe, Command)
    expected = {"precision": "nvfp4", "kv_cache": "fp8", "dtype": "bfloat16", "driver_sha256": driver_sha256(DRIVER)}
    assert recipe.parameters == expected


def test_a_good_checkpoint_counts_with_what_the_driver_and_the_check_say(export: Export) -> None:
    facts = export()
    assert facts.items() >= FACTS.items()
    assert (facts["quant_algo"], facts["verified"]) == ("FP8", "configuration, files and tensors")


@pytest.mark.parametrize("last", ["done", "[]", ""])
def test_a_last_line_that_says_nothing_is_no_failure(export: Export, last: str) -> None:
    assert export(last=last)["quant_algo"] == "FP8"


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        ("os.remove('hf_quant_config.json')", "quant_algo is none, expected FP8"),
        ("os.remove('model.safetensors')", "no file with weights"),
        ("open('hf_quant_config.json', 'w').write('{')", "it is not JSON"),
        ("open('model.safetensors', 'r+b').truncate(100)", "model.safetensors"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(export: Export, spoil: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        export(spoil=spoil)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"precision": "nvfp4"}, "quant_algo is FP8, expected NVFP4"),
        ({"kv_cache": "fp8"}, "kv_cache_quant_algo is none, expected FP8"),
        ({"dtype": "float16"}, "dtype is bfloat16, expected float16"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(export: Export, parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        export(**parameters)


def test_a_failing_export_is_reported_and_its_output_is_not_checked(export: Export) -> None:
    with pytest.raises(CommandError):
        export(spoil="raise SystemExit(2)")


def test_weights_that_are_quantized_already_are_refused_before_anything_runs(export: Export, tmp_path: Path) -> None:
    (tmp_path / "weights" / "hf_quant_config.json").write_text("{}")
    with pytest.raises(SourceError, match="quantized already"):
        export(spoil="raise SystemExit(2)")


def test_another_driver_than_the_plans_is_refused(export: Export) -> None:
    with pytest.raises(UsageError, match="another version"):
        export(driver_sha256="0" * 64)


def test_texts_that_have_changed_since_the_plan_are_refused(export: Export, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one")
    digest = file_digest(texts)
    texts.write_text("two")
    with pytest.raises(SourceError, match="not the texts that the plan was made for"):
        export(places={"dataset": str(texts)}, dataset_sha256=digest)


def test_texts_that_are_not_on_this_machine_are_named(export: Export, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read to calibrate with"):
        export(places={"dataset": str(tmp_path / "elsewhere.txt")}, dataset_sha256="0" * 64)


def test_texts_that_are_the_plans_are_taken(export: Export, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one")
    assert export(places={"dataset": str(texts)}, dataset_sha256=file_digest(texts))["quant_algo"] == "FP8"


def test_a_quantization_in_the_models_own_configuration_is_read_too(tmp_path: Path) -> None:
    checkpoint = exported_checkpoint(tmp_path / "checkpoint")
    assert read_quantization(checkpoint) == {}
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": FP8}))
    assert read_quantization(checkpoint) == FP8


@pytest.mark.parametrize(("content", "problem"), [("{", "is not JSON"), ("[]", "is no JSON object")])
def test_a_description_that_cannot_be_read_is_named(tmp_path: Path, content: str, problem: str) -> None:
    checkpoint = exported_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "hf_quant_config.json").write_text(content)
    with pytest.raises(StoreError, match=problem) as caught:
        read_quantization(checkpoint)
    assert "hf_quant_config.json" in caught.value.subject
