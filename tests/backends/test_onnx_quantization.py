"""Tests of how the backend `onnxruntime` makes int4: the algorithm, its default, and what is found about it."""

from typing import Any

import pytest

from enginery.backends import Request, backend_for
from enginery.backends.onnx_quantization import ALGORITHMS, BEST, SECOND
from enginery.backends.onnxruntime import OnnxRuntime
from enginery.models.facts import ModelFacts
from enginery.spec import gpus
from enginery.spec.gpus import CPU
from enginery.spec.spec import parse_spec
from enginery.store.steps import Command
from tests.backends.test_onnxruntime import Pin, pin

__all__ = ["pin"]

LLAMA = ModelFacts(
    architecture="LlamaForCausalLM", model_type="llama", heads=9, head_size=64, hidden_size=576, intermediate_size=1536
)


def request_of(model: ModelFacts | None = LLAMA, target: dict[str, Any] | None = None, **build: Any) -> Request:
    data = {"name": "cpu", "gpu": "cpu", "precision": "int4", **(target or {})}
    spec = parse_spec({"name": "m", "source": {"path": "model"}, "targets": [data], "build": build})
    return Request(spec, spec.targets[0], CPU, model)


def options(request: Request) -> list[str]:
    recipe = backend_for(request).chain(request, "a" * 64).making[0].step.recipe
    assert isinstance(recipe, Command)
    return [argument for argument in recipe.argv if argument.startswith(("algo_config=", "matmul_", "block_size="))]


def findings(request: Request) -> list[str]:
    return [str(finding) for finding in backend_for(request).findings(request)]


def note(request: Request) -> str:
    return next(line for line in backend_for(request).notes(request) if line.startswith("int4_algorithm"))


def shaped(**shape: Any) -> ModelFacts:
    return ModelFacts(architecture="LlamaForCausalLM", model_type="llama", **shape)


@pytest.mark.parametrize("model", [LLAMA, None])
def test_int4_is_made_with_the_algorithm_that_was_measured_best(model: ModelFacts | None) -> None:
    assert options(request_of(model)) == ["algo_config=k_quant_mixed"]
    assert note(request_of(model)).startswith("int4_algorithm is k_quant_mixed:")


@pytest.mark.parametrize("name", list(ALGORITHMS["0.18.0"]))
def test_the_spec_chooses_the_algorithm(name: str) -> None:
    request = request_of(int4_algorithm=name, int4_block_size=32)
    assert options(request) == [*ALGORITHMS["0.18.0"][name], "block_size=32"]
    assert all("[W321]" in finding for finding in findings(request))


def test_an_unknown_algorithm_is_refused_with_those_there_are() -> None:
    (finding,) = findings(request_of(int4_algorithm="k_quant_best"))
    assert finding == (
        "build.int4_algorithm: the builder of 0.18.0 has no algorithm k_quant_best; use one of "
        f"{', '.join(ALGORITHMS['0.18.0'])} [E320]"
    )


@pytest.mark.parametrize("block", [64, 128])
def test_a_model_with_an_odd_number_of_blocks_is_made_in_another_way(block: int) -> None:
    request = request_of(int4_block_size=block)
    assert options(request)[:2] == [*ALGORITHMS["0.18.0"][SECOND]]
    assert note(request).endswith(f"and the model has rows of 576 with blocks of {block}")
    assert findings(request) == []
    (finding,) = findings(request_of(int4_block_size=block, int4_algorithm="k_quant"))
    assert "k_quant needs an even number of blocks in a row" in finding
    assert finding.endswith("; use rtn_mixed, or another int4_block_size [E322]")


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_size": 96, "heads": 2, "head_size": 64, "intermediate_size": 256},
        {"hidden_size": 128, "heads": 3, "head_size": 32, "intermediate_size": 256},
        {"hidden_size": 128, "heads": 2, "head_size": 64, "intermediate_size": 65},
    ],
)
def test_each_kind_of_row_is_counted(shape: dict[str, int]) -> None:
    assert options(request_of(shaped(**shape))) == [*ALGORITHMS["0.18.0"][SECOND]]


def test_what_was_not_tried_is_left_to_the_builder() -> None:
    model = ModelFacts(architecture="GptOssForCausalLM", model_type="gpt_oss", hidden_size=64)
    assert options(request_of(model)) == []
    assert note(request_of(model)) == (
        "int4_algorithm is the builder's default, since k_quant_mixed was not tried with GptOssForCausalLM"
    )


def test_quantized_weights_stay_as_they_are() -> None:
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128}
    model = shaped(hidden_size=128, quantization=quantization)
    assert options(request_of(model)) == []
    assert note(request_of(model)) == "int4_algorithm has no effect, since the weights are quantized already"
    assert findings(request_of(model, int4_algorithm=BEST)) == [
        "build.int4_algorithm: the weights are quantized already, and stay as they are; leave it out [E321]"
    ]


def test_a_release_that_was_not_read_gets_a_warning_and_no_default(pin: Pin) -> None:
    pin("0.19.0")
    assert options(request_of()) == []
    assert note(request_of()).endswith("since k_quant_mixed was not tried with release 0.19.0")
    (finding,) = [one for one in findings(request_of(int4_algorithm="rtn")) if "int4_algorithm" in one]
    assert finding.startswith("build.int4_algorithm: the algorithms of release 0.19.0 are not recorded")
    assert finding.endswith("0.18.0, or accept it with --force W320 [W320]")
    assert options(request_of(int4_algorithm="rtn")) == ["algo_config=rtn"]


def test_an_algorithm_without_effect_on_the_model_is_warned_of() -> None:
    (finding,) = findings(request_of(int4_algorithm="k_quant_linear"))
    assert "the same as k_quant_last; use k_quant_mixed, or accept it with --force W321" in finding


def test_it_means_nothing_in_other_precisions_and_backends() -> None:
    (finding,) = findings(request_of(target={"precision": "int8", "build": {"int4_algorithm": "rtn"}}))
    assert finding.startswith("build.int4_algorithm: it means nothing in int8")
    assert options(request_of(target={"precision": "int8"}, int4_algorithm="rtn")) == []


@pytest.mark.parametrize(("architecture", "fused"), [("LlamaForCausalLM", True), ("Gemma2ForCausalLM", False)])
def test_on_a_gpu_a_gated_mlp_is_built_with_one_matrix_product_where_that_was_tried(
    architecture: str, *, fused: bool
) -> None:
    plain = request_of(ModelFacts(architecture=architecture, hidden_size=64))
    target = plain.target.model_copy(update={"backend": "onnxruntime"})
    on_gpu = Request(plain.spec, target, gpus.find("H100-SXM5-80GB"), plain.model)
    for request, expected in ((on_gpu, fused), (plain, False)):
        recipe = OnnxRuntime("cuda" if request is on_gpu else "cpu").chain(request, "a" * 64).making[0].step.recipe
        assert isinstance(recipe, Command)
        assert ("fuse_mlp_gate_up=true" in recipe.argv) is expected
