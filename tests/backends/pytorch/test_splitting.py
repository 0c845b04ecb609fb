"""A model that cannot be split over the target's GPUs is refused before the LLM API loads it."""

from typing import Any

import pytest

from enginery.models.facts import ModelFacts
from enginery.spec.findings import Finding
from tests.support.models.examples import LLAMA_3_8B, MIXTRAL_8X7B, QWEN2_7B
from tests.support.plans.pytorch import findings


def found(config: dict[str, Any], target: dict[str, Any], **more: Any) -> list[Finding]:
    return findings(target, model=ModelFacts.from_config(config), **more)


def test_heads_and_feed_forward_layers_that_do_not_come_out_even_are_refused() -> None:
    heads, feed_forward = found(LLAMA_3_8B, {"tensor_parallel": 3})
    assert (heads.code, heads.path) == ("E140", "tensor_parallel")
    assert heads.problem == "32 attention heads cannot be split evenly over 3 GPUs"
    assert heads.remedy == "use one of 1, 2, 4"
    assert (feed_forward.code, feed_forward.remedy) == ("E142", "use one of 1, 2, 4")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_numbers_that_are_suggested_fit(number: int) -> None:
    assert found(LLAMA_3_8B, {"tensor_parallel": number}) == []


def test_heads_stay_whole_where_each_gpu_has_requests_of_its_own() -> None:
    target = {"tensor_parallel": 8}
    assert [one.code for one in found(QWEN2_7B, target)] == ["E140"]
    assert found(QWEN2_7B, target, llm={"enable_attention_dp": True}) == []


def test_experts_are_shared_in_their_own_ways() -> None:
    assert found(MIXTRAL_8X7B | {"intermediate_size": 14337}, {"tensor_parallel": 2}) == []


def test_stages_need_not_be_alike_but_none_may_be_empty() -> None:
    assert found(LLAMA_3_8B, {"pipeline_parallel": 5}) == []
    (finding,) = found(LLAMA_3_8B, {"pipeline_parallel": 33})
    assert (finding.code, finding.path, finding.remedy) == ("E143", "pipeline_parallel", "use at most 32")


def test_a_shape_that_is_not_known_is_not_judged() -> None:
    assert findings({"tensor_parallel": 3}, model=None) == []
