"""What the builder writes for CUDA, which needs no GPU: the support table must agree with it."""

import json
from pathlib import Path

import pytest

from enginery.backends.onnxruntime import BUILDER_NAMES, ENVIRONMENT, SUPPORTED
from enginery.core import process
from enginery.spec.types import Precision
from enginery.store.steps import Command
from enginery.toolchains.identity import Toolchain
from tests.support import onnx_engines

LOOSE_OUTPUTS = """
import json, onnx, sys
graph = onnx.load(sys.argv[1], load_external_data=False).graph
made = {name for node in graph.node for name in node.output}
print("LOOSE " + json.dumps([output.name for output in graph.output if output.name not in made]))
"""


@pytest.mark.parametrize("precision", BUILDER_NAMES)
def test_what_is_supported_on_cuda_is_built_as_a_whole_graph(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path, precision: Precision
) -> None:
    recipe = Command(
        argv=(
            *("{python}", "-m", "onnxruntime_genai.models.builder", "-i", "{weights}", "-o", "{output}"),
            *("-c", "{output}.cache", "-e", "cuda", "-p", BUILDER_NAMES[precision]),
        ),
        environment=ENVIRONMENT,
    )
    engine = onnx_engines.run_recipe(recipe, toolchain, tiny_weights, tmp_path / "engine", {})
    lines = process.run([str(toolchain.python), "-c", LOOSE_OUTPUTS, str(engine / "model.onnx")]).last_lines
    loose = json.loads(lines[-1].removeprefix("LOOSE "))
    assert (loose == []) == (precision in SUPPORTED["cuda"]), loose
    described = json.loads((engine / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    assert [list(options) for options in described["session_options"]["provider_options"]] == [["cuda"]]
