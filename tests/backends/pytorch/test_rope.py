"""Tests of rotary settings in a form that a release's LLM API does not read."""

from typing import Any

import pytest

from enginery.models.facts import ModelFacts
from tests.support.models.examples import LLAMA_3_8B
from tests.support.plans.pytorch import findings

OLD = {name: value for name, value in LLAMA_3_8B.items() if name not in {"rope_theta", "rope_scaling"}}
NEW = OLD | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
BY_LAYER = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
}


def codes(config: dict[str, Any], release: str, precision: str = "bfloat16") -> set[str]:
    target = {"release": release, "precision": precision}
    return {found.code for found in findings(target, model=ModelFacts.from_config(config))} & {"W191"}


@pytest.mark.parametrize(
    ("config", "release", "warned"),
    [
        (NEW, "1.2.1", {"W191"}),
        (NEW, "1.0.0", {"W191"}),
        (NEW, "1.3.0rc3", set()),
        (NEW | {"rope_theta": 500000.0}, "1.2.1", set()),
        (LLAMA_3_8B, "1.2.1", set()),
        (BY_LAYER, "1.2.1", set()),
        (BY_LAYER, "1.3.0rc3", {"W191"}),
    ],
)
def test_the_form_that_a_release_does_not_read_is_warned_of(
    config: dict[str, Any], release: str, warned: set[str]
) -> None:
    assert codes(config, release) == warned


def test_a_checkpoint_that_modelopt_writes_has_the_old_form() -> None:
    assert codes(NEW, "1.2.1", "fp8") == set()
