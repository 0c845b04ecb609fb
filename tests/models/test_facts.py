"""Tests of a model's shape, from the configurations of many families and versions of transformers."""

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.models.defaults import STRUCTURES
from enginery.models.facts import (
    CHOSEN_EXPERTS,
    EXPERTS,
    LANGUAGE_PARTS,
    NORM_EPS,
    WIDTHS,
    ModelFacts,
    config_problems,
)
from enginery.models.size import cached_numbers, parameter_count
from tests.support.models.examples import FLEET, LLAMA_3_8B


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
    assert replace(ModelFacts.from_config(moved), only_new_rope=False) == ModelFacts.from_config(LLAMA_3_8B)


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


NAMES = sorted(
    {*LLAMA_3_8B, "text_config", *LANGUAGE_PARTS, *NORM_EPS, *WIDTHS, *EXPERTS, *CHOSEN_EXPERTS}
    | {"rope_parameters", "rope_scaling", "rope_local_base_freq", "layer_types", "sliding_window", "attn_config"}
    | {"ffn_config", "sliding_window_pattern", "mlp_only_layers", "moe_layers", "quantization_config", "rope_ratio"}
    | {"moe_layer_interval", "moe_layer_end_index", "decoder_sparse_step", "moe_layer_freq", "max_window_layers"}
    | {"use_sliding_window", "kv_lora_rank", "q_lora_rank", "rotary_dim", "num_key_value_heads", "is_encoder_decoder"}
)
INNER = ["rope_theta", "rope_type", "type", "factor", "full_attention", "sliding_attention", "model_type", "alibi"]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, 2**60])
)
TYPES = sorted(STRUCTURES)
VALUES = st.recursive(
    SCALARS | st.sampled_from(TYPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*INNER, *NAMES]), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), st.sampled_from(TYPES))
def test_whatever_a_configuration_holds_it_is_read_or_reported(config: dict[str, Any], model_type: str) -> None:
    whole = {"model_type": model_type, **config}
    facts, problems = ModelFacts.from_config(whole), list(config_problems(whole))
    assert parameter_count(facts) >= 0
    assert cached_numbers(facts, 1000) >= 0
    assert facts.rope_theta is None or (facts.rope_theta > 0 and isfinite(facts.rope_theta))
    assert all(problem.startswith("config.json: ") and "\n" not in problem for problem in problems)


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", ["4096", {"a": 1}, True, -1, 4096.5, 10**400, float("nan"), ["x"]])
def test_a_size_of_the_wrong_type_is_named_and_unknown(name: str, value: object) -> None:
    (problem,) = config_problems({**LLAMA_3_8B, name: value})
    assert problem.startswith(f"config.json: {name} is ")
    assert problem.endswith(", expected a whole number")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("architectures", "LlamaForCausalLM", "a list of names"),
        ("architectures", [None], "a list of names"),
        ("model_type", ["llama"], "a text"),
        ("text_config", "llama", "an object"),
        ("tie_word_embeddings", "true", "true or false"),
        ("attention_bias", 1, "true or false"),
        ("rms_norm_eps", "1e-5", "a positive number"),
        ("hidden_act", ["silu"], "a text"),
        ("quantization_config", ["awq"], "an object"),
        ("layer_types", "full_attention", "a list with the kind of each layer, as text"),
        ("mlp_only_layers", 3, "a list"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(name: str, value: object, expected: str) -> None:
    (problem,) = config_problems({**LLAMA_3_8B, "num_experts": 8, name: value})
    assert problem.startswith(f"config.json: {name} is ")
    assert problem.endswith(f", expected {expected}")


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"])
def test_a_model_with_none_of_what_every_model_has_is_named(name: str) -> None:
    assert list(config_problems({**LLAMA_3_8B, name: 0})) == [
        f"config.json: {name} is 0, expected a positive whole number"
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"model_max_length": 10**30},
        {"sliding_window": None},
        {"sliding_window": False},
        {"sliding_window": -1},
        {"rope_scaling": False},
        {"head_dim": None},
        {"intermediate_size": [14336] * 32},
        {"num_key_value_heads": [8, 4] * 16},
        {"layer_types": ["full_attention"]},
        {"attn_config": "flash", "ffn_config": [1]},
        {"llm_config": "path/of/the/model"},
        {"dtype": {"": "bfloat16"}},
        {"architectures": None},
    ],
)
def test_unusual_but_right_settings_are_no_problem(more: dict[str, Any]) -> None:
    assert list(config_problems({**LLAMA_3_8B, **more})) == []


def test_the_public_examples_have_no_problems() -> None:
    for example in FLEET:
        assert list(config_problems(example.config)) == []
        assert ModelFacts.from_config(example.config).rope_theta or example.name.startswith("gpt")
