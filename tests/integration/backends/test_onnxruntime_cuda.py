"""Tests of engines that the support table refuses for a CPU, and of engines for CUDA. Building needs no GPU."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from enginery.backends.onnxruntime import BUILDER_NAMES, ENVIRONMENT, SUPPORTED
from enginery.core import process
from enginery.core.errors import CommandError
from enginery.spec.types import Precision
from enginery.spec.validation import ValidationOptions
from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx

REFUSED_BUT_BUILDABLE = sorted(set(BUILDER_NAMES) - set(SUPPORTED["cpu"]))
CUDA, CPU = "cuda", "cpu"

BUILD_ALL = """
import json, onnx, runpy, sys
for path, argv in json.loads(sys.argv[1]).items():
    sys.argv = ["builder", *argv]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    graph = onnx.load(f"{path}/model.onnx", load_external_data=False).graph
    made = {name for node in graph.node for name in node.output}
    loose = [output.name for output in graph.output if output.name not in made]
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        json.dump(loose, file)
"""


@dataclass
class Built:
    """A directory of engines from the builder itself."""

    directory: Path

    def engine(self, execution: str, precision: Precision) -> Path:
        return self.directory / f"{execution}-{precision.value}"

    def loose_outputs(self, execution: str, precision: Precision) -> list[str]:
        """The graph's outputs that no node produces."""
        path = f"{self.engine(execution, precision)}.json"
        outputs: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
        return outputs


@pytest.fixture(scope="module")
def built(toolchain: Toolchain, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All engines of this module. One process builds them, because its imports take longer than its work."""
    made = Built(tmp_path_factory.mktemp("built"))
    wanted = [(CUDA, precision) for precision in BUILDER_NAMES]
    wanted += [(CPU, precision) for precision in REFUSED_BUT_BUILDABLE]
    jobs = {}
    for execution, precision in wanted:
        engine = str(made.engine(execution, precision))
        places = ["-i", str(tiny_weights), "-o", engine, "-c", f"{engine}.cache"]
        jobs[engine] = [*places, "-e", execution, "-p", BUILDER_NAMES[precision]]
    argv = [str(toolchain.python), "-c", BUILD_ALL, json.dumps(jobs)]
    process.run(argv, env={**toolchain.environment, **ENVIRONMENT})
    return made


@pytest.mark.parametrize("precision", BUILDER_NAMES)
def test_what_is_supported_on_cuda_is_built_as_a_whole_graph(built: Built, precision: Precision) -> None:
    loose = built.loose_outputs(CUDA, precision)
    assert (loose == []) == (precision in SUPPORTED["cuda"]), loose
    text = (built.engine(CUDA, precision) / "genai_config.json").read_text(encoding="utf-8")
    described = json.loads(text)["model"]["decoder"]
    assert [list(options) for options in described["session_options"]["provider_options"]] == [["cuda"]]


@pytest.mark.parametrize("precision", REFUSED_BUT_BUILDABLE)
def test_what_is_refused_for_a_cpu_does_not_run_there(
    toolchain: Toolchain, tiny_weights: Path, tmp_path: Path, built: Built, precision: Precision
) -> None:
    text = (tiny_weights.parent / "prompts.yaml").read_text(encoding="utf-8")
    options = ValidationOptions.model_validate(yaml.safe_load(text))
    with pytest.raises(CommandError):
        onnx.ask(toolchain, built.engine(CPU, precision), tiny_weights, tmp_path / "report", options)
