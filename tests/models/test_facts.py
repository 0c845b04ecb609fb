"""Tests of a model's shape, from the configurations of many families and versions of transformers."""

import pytest

from enginery.models.facts import ModelFacts
from enginery.models.size import parameter_count
from tests.support.models.examples import LLAMA_3_8B


def test_a_llama_as_transformers_4_writes_it() -> None:
    facts = ModelFacts.from_config(LLAMA_3_8B, weight_bytes=7)
    assert (facts.architecture, facts.model_type, facts.dtype) == ("LlamaForCausalLM", "llama", "bfloat16")
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_size) == (32, 32, 8, 128)
    assert (facts.hidden_size, facts.intermediate_size, facts.vocab_size) == (4096, 14336, 128256)
    assert (facts.max_positions, facts.rope_theta, facts.rope_scaling) == (8192, 500000.0, None)
    assert (facts.norm_eps, facts.tied_embeddings, facts.experts, facts.weight_bytes) == (1e-05, False, 0, 7)


def test_the_same_llama_as_transformers_5_writes_it() -> None:
    moved = {
        key: value for key, value in LLAMA_3_8B.items() if key not in {"rope_theta", "rope_scaling", "torch_dtype"}
    }
    moved |= {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
    assert ModelFacts.from_config(moved) == ModelFacts.from_config(LLAMA_3_8B)


@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_rope_scaling_is_kept_under_one_name(name: str) -> None:
    facts = ModelFacts.from_config(LLAMA_3_8B | {"rope_scaling": {name: "llama3", "factor": 8.0}})
    assert facts.rope_scaling == {"rope_type": "llama3", "factor": 8.0}
    assert facts.rope_theta == 500000.0


def test_scaling_in_rope_parameters_is_the_same() -> None:
    parameters = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}
    facts = ModelFacts.from_config({**LLAMA_3_8B, "rope_theta": None, "rope_parameters": parameters})
    assert (facts.rope_theta, facts.rope_scaling) == (500000.0, {"rope_type": "llama3", "factor": 8.0})


def test_a_mixture_has_experts() -> None:
    mixtral = LLAMA_3_8B | {"num_local_experts": 8, "num_experts_per_tok": 2}
    facts = ModelFacts.from_config(mixtral)
    assert (facts.experts, facts.experts_per_token) == (8, 2)
    assert parameter_count(facts) > 5 * parameter_count(ModelFacts.from_config(LLAMA_3_8B))


def test_older_names_are_understood() -> None:
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
    facts = ModelFacts.from_config(gpt2 | {"vocab_size": 50257, "layer_norm_epsilon": 1e-5})
    assert (facts.layers, facts.heads, facts.kv_heads, facts.hidden_size) == (12, 12, 12, 768)
    assert (facts.head_size, facts.intermediate_size, facts.max_positions, facts.norm_eps) == (64, 3072, 1024, 1e-5)


def test_a_head_size_of_its_own_wins() -> None:
    assert ModelFacts.from_config(LLAMA_3_8B | {"head_dim": 256}).head_size == 256


def test_the_language_part_of_a_model_with_several_is_read() -> None:
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": LLAMA_3_8B}
    facts = ModelFacts.from_config(whole)
    assert (facts.architecture, facts.layers, facts.vocab_size) == ("Gemma3ForConditionalGeneration", 32, 128256)


def test_a_quantized_model_says_so() -> None:
    facts = ModelFacts.from_config(LLAMA_3_8B | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    assert facts.quantization == {"quant_method": "awq", "bits": 4}


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": None, "num_hidden_layers": "many"}])
def test_what_is_not_said_is_left_open(config: dict[str, object]) -> None:
    facts = ModelFacts.from_config(config)
    assert (facts.architecture, facts.layers, parameter_count(facts)) == ("", 0, 0)
