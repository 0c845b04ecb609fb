import json
import shutil
from pathlib import Path

import pytest
import yaml

from enginery.backends.onnxruntime import BUILDER_NAMES, ENVIRONMENT, SUPPORTED
from enginery.core import process
from enginery.core.digests import file_digest
from enginery.core.errors import CommandError
from enginery.spec.spec import ValidationOptions
from enginery.spec.types import Precision
from enginery.store.steps import Command
from enginery.toolchains.identity import Toolchain
from tests.support import onnx_engines

ENGINE_FILES = {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"}
REFUSED_BUT_BUILDABLE = sorted(set(BUILDER_NAMES) - set(SUPPORTED["cpu"]))

STAMP = """
import onnx, sys, onnxruntime_genai
stamped = onnx.load(sys.argv[1], load_external_data=False).producer_version
sys.exit(stamped != f"{onnxruntime_genai.__version__}+{onnxruntime_genai.__commit__[:7]}")
"""


@pytest.fixture(scope="session")
def known(tiny_weights: Path) -> ValidationOptions:
    """What the example model answers."""
    return ValidationOptions.model_validate(yaml.safe_load((tiny_weights.parent / "prompts.yaml").read_text("utf-8")))


def digests(directory: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in directory.iterdir()}


@pytest.mark.parametrize("precision", SUPPORTED["cpu"])
def test_each_supported_precision_builds_and_answers_right(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path, known: ValidationOptions, precision: Precision
) -> None:
    engine = onnx_engines.build(toolchain, tiny_weights, tmp_path / "engine", precision)
    asked = onnx_engines.ask(toolchain, engine, tiny_weights, tmp_path / "report", known)
    assert asked.report.passed, asked.report.misses
    assert len(asked.report.results) == len(known.prompts) > 5


@pytest.mark.parametrize("precision", REFUSED_BUT_BUILDABLE)
def test_what_is_refused_for_a_cpu_does_not_run_there(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path, known: ValidationOptions, precision: Precision
) -> None:
    recipe = Command(
        argv=(
            *("{python}", "-m", "onnxruntime_genai.models.builder", "-i", "{weights}", "-o", "{output}"),
            *("-c", "{output}.cache", "-e", "cpu", "-p", BUILDER_NAMES[precision]),
        ),
        environment=ENVIRONMENT,
    )
    engine = onnx_engines.run_recipe(recipe, toolchain, tiny_weights, tmp_path / "engine", {})
    with pytest.raises(CommandError):
        onnx_engines.ask(toolchain, engine, tiny_weights, tmp_path / "report", known)


def test_only_the_engine_is_left_behind(toolchain: Toolchain, tiny_weights: Path, tmp_path: Path) -> None:
    home, before = tmp_path / "home", digests(tiny_weights)
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hf")}
    engine = onnx_engines.build(toolchain, tiny_weights, tmp_path / "work" / "engine", "int4", environment=places)
    assert {path.name for path in engine.iterdir()} == ENGINE_FILES
    assert [path.name for path in engine.parent.iterdir()] == ["engine"]
    assert list(home.rglob("*")) == []
    assert digests(tiny_weights) == before


def test_the_same_build_gives_the_same_bytes_even_inside_a_git_repository(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path
) -> None:
    one, other = (
        onnx_engines.build(
            toolchain,
            tiny_weights,
            tmp_path / seed / "engine",
            "int4",
            environment={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
        )
        for seed in ("1", "2")
    )
    assert digests(one) == digests(other)
    # The builder would otherwise stamp the commit of the repository its environment lies in: here, of this checkout.
    process.run([str(toolchain.python), "-c", STAMP, str(one / "model.onnx")], env=toolchain.environment)


@pytest.mark.parametrize(("size", "level", "larger"), [(16, 0, True), (64, 3, False)])
def test_int4_options_change_the_engine_and_it_still_answers_right(  # noqa: PLR0913, PLR0917  fixtures
    toolchain: Toolchain,
    tiny_weights: Path,
    tiny_engine: Path,
    tmp_path: Path,
    known: ValidationOptions,
    size: int,
    level: int,
    larger: bool,  # noqa: FBT001  a case of the table above
) -> None:
    options = {"int4_block_size": size, "int4_accuracy_level": level}
    engine = onnx_engines.build(toolchain, tiny_weights, tmp_path / "engine", "int4", **options)
    default_size, own_size = ((each / "model.onnx.data").stat().st_size for each in (tiny_engine, engine))
    assert (own_size > default_size) is larger
    asked = onnx_engines.ask(toolchain, engine, tiny_weights, tmp_path / "report", known)
    assert asked.report.passed, asked.report.misses


def test_truncated_weights_end_in_an_error_that_shows_the_reason(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(tiny_weights, weights)
    file = weights / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CommandError) as caught:
        onnx_engines.build(toolchain, weights, tmp_path / "engine", "float32")
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
        onnx_engines.build(toolchain, weights, tmp_path / "engine", "float32")
    assert any("trust_remote_code" in line for line in caught.value.last_lines)
    assert not trace.exists()
