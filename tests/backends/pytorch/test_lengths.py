"""Tests of lengths that are too long for the model, or leave no room for an answer, with the LLM API."""

from typing import Any

import pytest

from enginery.models.facts import ModelFacts
from tests.support.models.examples import LLAMA_2_7B
from tests.support.plans.pytorch import findings


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"llm": {"max_seq_len": 5000}}, "llm.max_seq_len"),
        ({"build": {"max_seq_len": 5000}}, "build.max_seq_len"),
        ({"build": {"max_input_len": 4000, "max_output_len": 1000}}, "build.max_output_len"),
    ],
)
def test_sequences_beyond_the_model_are_warned_of_at_their_field(more: dict[str, Any], path: str) -> None:
    (found,) = findings(model=ModelFacts.from_config(LLAMA_2_7B), **more)
    assert (found.code, found.path, found.level) == ("W151", path, "warning")
    assert "longer than the 4096" in found.problem


def test_lengths_within_the_model_are_fine() -> None:
    assert findings(model=ModelFacts.from_config(LLAMA_2_7B), llm={"max_seq_len": 4096}) == []


def test_answers_need_room_for_a_prompt() -> None:
    prompts = [{"prompt": "x", "max_tokens": 200}]
    (found,) = findings(llm={"max_seq_len": 200}, validation={"prompts": prompts})
    assert (found.code, found.path) == ("E153", "validation.prompts.0.max_tokens")
    assert found.remedy == "use fewer, or a larger llm.max_seq_len"


def test_a_length_that_is_no_number_is_reported_once() -> None:
    assert [one.code for one in findings(llm={"max_seq_len": "long"})] == ["E404"]
