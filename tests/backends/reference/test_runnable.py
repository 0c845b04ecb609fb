from typing import Any

import pytest

from enginery.backends.reference.runnable import reference_problem
from enginery.models import ModelFacts

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
OWN_CODE = {"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}}


def problem(config: dict[str, Any], files: tuple[str, ...] = ("model.safetensors",)) -> str | None:
    return reference_problem(ModelFacts.from_config(config), config, files)


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        LLAMA | OWN_CODE,  # its code is for older versions of transformers, which now has the class itself
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"},
        {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"},
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        LLAMA | {"quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_models_that_transformers_has_can_be_run(config: dict[str, Any]) -> None:
    assert problem(config) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["XForCausalLM"], "model_type": "x", **OWN_CODE}, "brings its own code"),
        ({"architectures": ["XForCausalLM"], "model_type": "llama", **OWN_CODE}, "brings its own code"),
        ({"architectures": ["XForCausalLM"], "model_type": "x"}, "has no model of type 'x'"),
        ({"architectures": ["LlamaForCausalLM"]}, "has no model of type ''"),
        (LLAMA | {"quantization_config": {"quant_method": "awq"}}, "quantized (awq)"),
        (LLAMA | {"quantization_config": {"quant_algo": "NVFP4"}}, "quantized (NVFP4)"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "encoder-decoder"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "masked language model"),
    ],
)
def test_the_reason_is_known_before_for_models_that_cannot(config: dict[str, Any], reason: str) -> None:
    found = problem(config)
    assert found is not None
    assert reason in found


def test_a_source_without_weight_files_of_transformers_cannot() -> None:
    assert "no weights in files" in (problem(LLAMA, ("model.gguf",)) or "")


def test_a_source_that_could_not_be_read_has_no_reference() -> None:
    assert reference_problem(None, {}) == "the model is not known"
