"""What is said of the compared weights of an engine."""

from pathlib import Path
from typing import Any

import pytest

from enginery.backends.checkpoints.onnx_weights import (
    LIMITS,
    ComparedWeight,
    WeightComparison,
    WeightsError,
    judge_weights,
)
from enginery.store.context import StepContext

NAME = "model.layers.3.mlp.down_proj.weight"


def weight(**fields: Any) -> ComparedWeight:
    good = {"name": NAME, "bits": 4, "error": 0.1, "worst": 0.2, "block": "row 3, columns 32 to 63", "share": 1.0}
    return ComparedWeight.model_validate({**good, **fields})


def judged(
    *weights: ComparedWeight, architecture: str = "LlamaForCausalLM", **fields: Any
) -> tuple[dict[str, Any], list[str]]:
    logged: list[str] = []
    nowhere = Path("nowhere")
    context = StepContext("0" * 64, {}, {}, nowhere, (), None, logged.append)
    compared = WeightComparison(architecture=architecture, compared=weights, **fields)
    return dict(judge_weights(compared, "the engine", context)), logged


def test_good_weights_are_counted_with_the_largest_error() -> None:
    facts, logged = judged(weight(), weight(error=0.12), skipped=("a",))
    assert facts == {"weights_compared": 2, "weights_skipped": 1, "weights_error": 0.12}
    assert logged == []


def test_every_other_weight_is_named_with_what_it_looks_like_and_its_error() -> None:
    with pytest.raises(WeightsError) as caught:
        judged(weight(error=1.0, looks="all zero"), weight(name="lm_head.weight", error=1.4, looks="other values"))
    text = str(caught.value)
    assert f"{NAME} is not the model's: all zero; relative error 1, at most 0.35" in text
    assert "lm_head.weight is not the model's: other values; relative error 1.4" in text
    assert len(caught.value.differences) == 2


def test_a_wrong_block_of_a_weight_is_named() -> None:
    with pytest.raises(WeightsError, match=r"down_proj\.weight differs from the model's in row 3, columns 32 to 63"):
        judged(weight(worst=3.0))


def test_a_layer_that_is_not_in_the_engine_is_named() -> None:
    with pytest.raises(WeightsError, match="layer 7 of the model is not in the engine"):
        judged(weight(), lost_layers=(7,))


def test_a_wrong_rotary_base_is_named_and_one_of_16_bits_is_close_enough() -> None:
    base = {"name": "rotary base", "bits": 32, "block": ""}
    judged(weight(**base, error=0.03, worst=0.03, looks="9700 in place of 10000"))
    with pytest.raises(WeightsError, match="the rotary base is 100000 in place of 10000"):
        judged(weight(**base, error=9.0, worst=9.0, looks="100000 in place of 10000"))


@pytest.mark.parametrize("bits", LIMITS)
def test_fewer_bits_may_have_larger_errors(bits: int) -> None:
    limits = LIMITS[bits]
    assert weight(bits=bits, error=limits.whole, worst=limits.block).problem == ""
    assert weight(bits=bits, error=limits.whole * 1.01).problem != ""
    assert weight(bits=bits, error=0, worst=limits.block * 1.01).problem != ""


def test_differences_of_an_architecture_that_was_not_tried_are_only_logged() -> None:
    facts, logged = judged(weight(error=1.0, looks="all zero"), architecture="NewForCausalLM")
    assert facts["weights_error"] == 1.0
    problem = f"{NAME} is not the model's: all zero; relative error 1, at most 0.35"
    assert logged == [f"NewForCausalLM may be built in another form: {problem}"]


def test_a_comparison_of_a_sample_is_logged() -> None:
    _, logged = judged(weight(share=0.25))
    assert logged == [f"compared in a sample: {NAME} (25% of its rows)"]
