"""The table of architectures, compared with the model builder that the toolchain has, and tried with small models."""

import ast
import json
import subprocess
from pathlib import Path

import pytest

from enginery.backends.checkpoints.onnx_weights import UNDERSTOOD, read_comparison
from enginery.backends.onnx_models import ARCHITECTURES, BUILT, FAILING, OWN_SCALINGS, READ, SCALINGS
from enginery.backends.onnx_quantization import ALGORITHMS
from enginery.backends.onnx_quantization import TRIED as QUANTIZED
from enginery.toolchains.identity import Toolchain

TRIED = ("Qwen3ForCausalLM", "GraniteForCausalLM", "Phi3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")
SPLIT = {"Phi3ForCausalLM": {"gate_proj", "up_proj"}}
"""Matrices that the builder makes from parts of one matrix of the model. They are not compared."""
TRY = Path(__file__).parents[2] / "support" / "engines" / "tiny_models.py"


@pytest.fixture(scope="session")
def builder(toolchain: Toolchain) -> Path:
    """The directory of the builder's source."""
    return next(toolchain.directory.glob("lib/python*/site-packages/onnxruntime_genai/models"))


def test_the_release_is_the_one_that_was_read(builder: Path) -> None:
    assert list(builder.parents[1].glob(f"onnxruntime_genai-{READ}.dist-info"))


def test_the_table_has_exactly_the_architectures_of_the_builder(builder: Path) -> None:
    compared = [
        node
        for node in ast.walk(ast.parse((builder / "builder.py").read_bytes()))
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "config.architectures[0]"
    ]
    named = {ast.literal_eval(right) for node in compared for right in node.comparators}
    assert named == ARCHITECTURES


def test_the_kinds_of_rotary_scaling_are_those_that_the_builders_classes_read(builder: Path) -> None:
    read = {path.stem: scalings_in(path) for path in (builder / "builders").glob("*.py")}
    assert read["base"] == {"default", *SCALINGS}
    assert read["llama"] == OWN_SCALINGS["LlamaForCausalLM"]
    assert read["hunyuan"] == OWN_SCALINGS["HunYuanDenseV1ForCausalLM"]
    assert read["phi"] == {"longrope"} <= OWN_SCALINGS["Phi3ForCausalLM"]


ASK_QUANTIZER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from quantization.quant_config import QuantConfig
found = {}
for options in json.loads(sys.argv[2]):
    weights = QuantConfig.from_extra_options(dict(one.split("=", 1) for one in options), "int4", "cpu").weights
    found[" ".join(options)] = [weights.method, sorted((o.match["preset"], o.type) for o in weights.overrides)]
print(json.dumps(found))
"""


def test_the_algorithms_of_int4_are_those_that_the_builder_reads(onnxruntime_python: Path, builder: Path) -> None:
    """The builder ignores unknown names of options, so what it makes of each is compared."""
    known = ALGORITHMS[READ]
    asked = json.dumps([list(options) for options in known.values()])
    command = [str(onnxruntime_python), "-P", "-c", ASK_QUANTIZER, str(builder), asked]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    read = {name: json.loads(done.stdout)[" ".join(options)] for name, options in known.items()}
    last, layers, linear = ["last_matmul", "int8"], ["mixed_layers", "int8"], ["linear_attn", "int8"]
    assert read == {
        "default": ["default", []],
        "rtn": ["rtn", []],
        "rtn_last": ["rtn", [last]],
        "rtn_mixed": ["rtn", [last, layers]],
        "k_quant": ["k_quant", []],
        "k_quant_last": ["k_quant", [last]],
        "k_quant_mixed": ["k_quant", [last, layers]],
        "k_quant_linear": ["k_quant", [last, linear]],
    }
    assert set(BUILT) >= QUANTIZED


def scalings_in(path: Path) -> set[str]:
    """The kinds with which `make_rope_init` compares the model's."""
    methods = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
    compared = [
        node
        for method in methods
        if method.name == "make_rope_init"
        for node in ast.walk(method)
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "config.rope_parameters['rope_type']"
    ]
    return {ast.literal_eval(right) for node in compared for right in node.comparators}


def test_accepted_models_are_built_and_run_and_refused_ones_fail(onnxruntime_python: Path, tmp_path: Path) -> None:
    """If a refused model is built one day, the table may accept it."""
    # -P: beside the script there is a module with the name of a package, onnx.
    command = [str(onnxruntime_python), "-P", str(TRY), str(tmp_path), *TRIED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name for name, problem in results.items() if not problem} == set(TRIED) & set(BUILT)
    assert {name for name, problem in results.items() if problem} == set(TRIED) & set(FAILING)
    for name in set(TRIED) & set(BUILT):
        compared = read_comparison(tmp_path / f"{name}.weights.json")
        assert compared.architecture in UNDERSTOOD
        assert compared.problems == []
        assert len(compared.compared) > 2 * 6
        assert {weight.split(".")[-2] for weight in compared.skipped} <= SPLIT.get(name, set())
