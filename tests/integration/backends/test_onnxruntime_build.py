"""Tests of engines that the real model builder of ONNX Runtime builds for a CPU."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from enginery.backends.onnxruntime import SUPPORTED
from enginery.core import process
from enginery.core.digests import file_digest
from enginery.core.errors import CommandError
from enginery.spec.types import Precision
from enginery.spec.validation import ValidationOptions
from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx

ENGINE_FILES = {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"}
SHARED = {Precision.FLOAT32: "float32_engine", Precision.INT4: "tiny_engine"}
"""Fixtures with engines that other modules use too."""

STAMP = """
import onnx, sys, onnxruntime_genai
stamped = onnx.load(sys.argv[1], load_external_data=False).producer_version
sys.exit(stamped != f"{onnxruntime_genai.__version__}+{onnxruntime_genai.__commit__[:7]}")
"""


@pytest.fixture(scope="session")
def known(tiny_weights: Path) -> ValidationOptions:
    """The known answers of the example model."""
    return ValidationOptions.model_validate(yaml.safe_load((tiny_weights.parent / "prompts.yaml").read_text("utf-8")))


def digests(directory: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in directory.iterdir()}


@pytest.mark.parametrize("precision", SUPPORTED["cpu"])
def test_each_supported_precision_builds_and_answers_right(  # noqa: PLR0913, PLR0917  fixtures
    request: pytest.FixtureRequest,
    toolchain: Toolchain,
    tiny_weights: Path,
    tmp_path: Path,
    known: ValidationOptions,
    precision: Precision,
) -> None:
    if precision in SHARED:
        engine: Path = request.getfixturevalue(SHARED[precision])
    else:
        engine = onnx.build(toolchain, tiny_weights, tmp_path / "engine", precision)
    results = onnx.ask(toolchain, engine, tiny_weights, tmp_path / "report", known)
    assert results.report.passed, results.report.misses
    assert len(results.report.results) == len(known.prompts) > 5


def test_only_the_engine_is_left_behind_with_the_same_bytes_even_inside_a_git_repository(
    toolchain: Toolchain, tiny_weights: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    home, before = tmp_path / "home", digests(tiny_weights)
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hf")}
    other = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"}
    engine = onnx.build(toolchain, tiny_weights, tmp_path / "work" / "engine", "int4", environment=places | other)
    assert {path.name for path in engine.iterdir()} == ENGINE_FILES
    assert [path.name for path in engine.parent.iterdir()] == ["engine"]
    assert list(home.rglob("*")) == []
    assert digests(tiny_weights) == before
    assert digests(engine) == digests(tiny_engine)
    # Otherwise the builder would write the commit of the repository around its environment, which is this checkout.
    process.run([str(toolchain.python), "-c", STAMP, str(engine / "model.onnx")], env=toolchain.environment)


def test_int4_options_change_the_engine_and_it_still_answers_right(
    toolchain: Toolchain, tiny_weights: Path, tiny_engine: Path, tmp_path: Path, known: ValidationOptions
) -> None:
    options = {"int4_block_size": 16, "int4_accuracy_level": 0}
    engine = onnx.build(toolchain, tiny_weights, tmp_path / "engine", "int4", **options)
    default_size, own_size = ((each / "model.onnx.data").stat().st_size for each in (tiny_engine, engine))
    assert own_size > default_size
    results = onnx.ask(toolchain, engine, tiny_weights, tmp_path / "report", known)
    assert results.report.passed, results.report.misses


def test_truncated_weights_end_in_an_error_that_shows_the_reason(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(tiny_weights, weights)
    file = weights / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CommandError) as caught:
        onnx.build(toolchain, weights, tmp_path / "engine", "float32")
    assert "SafetensorError" in caught.value.last_lines[-1]
    assert not caught.value.transient


def test_a_models_own_code_is_never_run(toolchain: Toolchain, tiny_weights: Path, tmp_path: Path) -> None:
    weights, trace = tmp_path / "weights", tmp_path / "it-ran"
    shutil.copytree(tiny_weights, weights)
    config = json.loads((weights / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (weights / "config.json").unlink()
    (weights / "config.json").write_text(json.dumps(config))
    (weights / "mine.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(CommandError) as caught:
        onnx.build(toolchain, weights, tmp_path / "engine", "float32")
    assert any("trust_remote_code" in line for line in caught.value.last_lines)
    assert not trace.exists()
