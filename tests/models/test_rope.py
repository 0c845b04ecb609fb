"""Tests of rotary embeddings, in all the ways in which a `config.json` writes them."""

from typing import Any

import pytest

from enginery.models.facts import ModelFacts, config_problems
from tests.support.models.examples import LLAMA_3_8B

LLAMA = {"model_type": "llama"}
OTHER = {"model_type": "other"}
GEMMA_3 = {"model_type": "gemma3_text"}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}


def rope(config: dict[str, Any]) -> tuple[float | None, Any]:
    facts = ModelFacts.from_config(config)
    return facts.rope_theta, facts.rope_scaling


@pytest.mark.parametrize(
    ("config", "theta"),
    [
        (LLAMA | {"rope_theta": 500000}, 500000.0),
        (LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        (LLAMA | {"rope_theta": 5e5, "rope_parameters": None}, 5e5),
        (LLAMA | {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}, 5e5),
        (LLAMA | {"rope_theta": None, "rope_scaling": {"rope_theta": 7e5, **YARN}}, 7e5),
        (LLAMA, 10000.0),
        ({"model_type": "mixtral"}, 1e6),
        ({"model_type": "gpt_neox", "rotary_emb_base": 20000}, 20000.0),
        ({"model_type": "qwen", "rotary_emb_base": 30000}, 30000.0),
        ({"model_type": "qwen"}, 10000.0),
        ({"model_type": "chatglm", "rope_ratio": 500}, 5e6),
        ({"model_type": "chatglm"}, 10000.0),
        ({"model_type": "dbrx", "attn_config": {"rope_theta": 5e5}}, 5e5),
        ({"model_type": "gptj"}, 10000.0),
        ({"model_type": "llava", "text_config": {"rope_theta": 6e5}}, 6e5),
        (OTHER | {"llm_config": {"rope_theta": 6e5}}, 6e5),
        (OTHER | {"language_config": {"rope_parameters": {"rope_theta": 6e5}}}, 6e5),
        (OTHER | {"rope_theta": [1e4, 1e4]}, 1e4),
    ],
)
def test_the_base_is_read_wherever_it_is_written(config: dict[str, Any], theta: float) -> None:
    assert ModelFacts.from_config(config).rope_theta == theta
    assert list(config_problems(config)) == []


@pytest.mark.parametrize("config", [OTHER, {}, OTHER | {"rope_theta": [1e4, 5e5]}, OTHER | {"rope_theta": None}])
def test_what_neither_the_file_nor_the_class_says_is_unknown(config: dict[str, Any]) -> None:
    assert rope(config) == (None, None)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "bloom", "mpt", "gpt_bigcode", "mamba"])
def test_models_with_other_positions_have_no_base(model_type: str) -> None:
    facts = ModelFacts.from_config({"model_type": model_type, "rope_theta": 5e5})
    assert (facts.rope_theta, facts.rope_scaling) == (None, None)
    assert facts.positions in {"learned", "alibi", "none"}


def test_the_setting_alibi_decides_where_there_is_one() -> None:
    assert ModelFacts.from_config({"model_type": "falcon", "alibi": True}).positions == "alibi"
    assert ModelFacts.from_config({"model_type": "falcon"}).positions == "rope"
    assert ModelFacts.from_config({"model_type": "baichuan", "hidden_size": 5120}).rope_theta is None
    assert ModelFacts.from_config({"model_type": "baichuan", "hidden_size": 4096}).rope_theta == 10000.0


@pytest.mark.parametrize(
    "written",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"type": "yarn", "rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {**YARN, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "rope_scaling": YARN},
    ],
)
def test_the_scaling_is_read_wherever_it_is_written(written: dict[str, Any]) -> None:
    assert rope(LLAMA | written) == (10000.0, YARN)


@pytest.mark.parametrize(
    "written", [{"rope_scaling": None}, {"rope_scaling": {}}, {"rope_scaling": {"rope_type": "default"}}, {}]
)
def test_no_scaling_is_none(written: dict[str, Any]) -> None:
    assert rope(LLAMA | written) == (10000.0, None)


def test_a_class_may_scale_where_the_file_says_nothing_of_it() -> None:
    assert rope({"model_type": "gpt_oss"})[1]["rope_type"] == "yarn"
    assert rope({"model_type": "gpt_oss", "rope_theta": 150000})[1]["rope_type"] == "yarn"
    assert rope({"model_type": "gpt_oss", "rope_scaling": None})[1] is None


def test_each_kind_of_layer_can_have_its_own() -> None:
    full, sliding = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}, {"rope_theta": 2e4}
    facts = ModelFacts.from_config(
        GEMMA_3 | {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}
    )
    assert (facts.rope_theta, facts.local_rope_theta) == (1e6, 2e4)
    assert facts.rope_scaling == {"rope_type": "linear", "factor": 8.0}
    assert facts.rope_by_layer_type
    old = ModelFacts.from_config(
        GEMMA_3
        | {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    )
    assert (old.rope_theta, old.local_rope_theta, old.rope_scaling) == (1e6, 2e4, facts.rope_scaling)
    assert not old.rope_by_layer_type


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({"model_type": "phi"}, 0.5),
        ({"model_type": "gpt_neox", "rotary_pct": 0.4}, 0.4),
        ({"model_type": "gptj"}, 0.25),
        ({"model_type": "stablelm", "rope_parameters": {"partial_rotary_factor": 0.3, "rope_type": "default"}}, 0.3),
        (OTHER, None),
    ],
)
def test_the_part_of_a_head_that_is_rotated(config: dict[str, Any], share: float | None) -> None:
    assert ModelFacts.from_config(config).rope_share == share


@pytest.mark.parametrize(
    ("config", "only_new"),
    [
        (LLAMA | {"rope_parameters": {"rope_theta": 5e5}}, True),
        (LLAMA | {"rope_parameters": {"rope_theta": 1e4}}, False),
        (LLAMA | {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 5e5}, False),
        (LLAMA | {"rope_parameters": {**YARN, "rope_theta": 1e4}}, True),
        (LLAMA | {"rope_parameters": {**YARN, "rope_theta": 1e4}, "rope_scaling": YARN}, False),
        (OTHER | {"rope_parameters": {"rope_theta": 1e4}}, True),
        (LLAMA_3_8B, False),
    ],
)
def test_whether_a_reader_of_the_old_names_reads_the_same(config: dict[str, Any], *, only_new: bool) -> None:
    assert ModelFacts.from_config(config).only_new_rope is only_new


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"rope_theta": [1e4, 5e5]}, "rope_theta is a list [10000.0, 500000.0], expected a positive number"),
        ({"rope_theta": {"full_attention": 1e6}}, "rope_theta is an object"),
        ({"rope_theta": "10,000"}, "rope_theta is the text '10,000', expected a positive number"),
        ({"rope_theta": True}, "rope_theta is True, expected a positive number"),
        ({"rope_theta": -1}, "rope_theta is -1, expected a positive number"),
        ({"rope_theta": float("inf")}, "rope_theta is inf, expected a positive number"),
        ({"rope_theta": 10**400}, "rope_theta is too large a number"),
        ({"rope_parameters": {"rope_theta": {"full_attention": 1e6}}}, "rope_parameters.rope_theta is an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "rope_parameters.full_attention.rope_theta is"),
        ({"rope_parameters": ["default"]}, "rope_parameters is a list ['default'], expected an object"),
        ({"rope_scaling": "dynamic"}, "rope_scaling is the text 'dynamic', expected an object"),
        ({"rope_scaling": {"type": ["mrope"]}}, "rope_scaling.type is a list ['mrope'], expected the name"),
        ({"rope_scaling": {"rope_type": 4}}, "rope_scaling.rope_type is 4, expected the name"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "rope_scaling.factor is the text '4'"),
        (
            {"rope_parameters": {"full_attention": "default", "sliding_attention": {}}},
            "rope_parameters.full_attention is",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is None, expected a number"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor is None"),
        ({"rope_scaling": {**LLAMA_3, "high_freq_factor": "4"}}, "rope_scaling.high_freq_factor is the text '4'"),
        ({"rope_scaling": {**YARN, "beta_fast": [32]}}, "rope_scaling.beta_fast is a list [32], expected a number"),
        ({"rope_scaling": {"type": "su", "short_factor": "x"}}, "rope_scaling.short_factor is the text 'x'"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1, "x"]}}, "rope_scaling.long_factor is a list"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.rope_type is None, expected the name of a kind of scaling"),
        ({"partial_rotary_factor": "half"}, "partial_rotary_factor is the text 'half'"),
        ({"text_config": {"rope_theta": "x"}}, "text_config.rope_theta is the text 'x'"),
        ({"llm_config": {"rope_scaling": {"type": 1}}}, "llm_config.rope_scaling.type is 1"),
        ({"text_config": {"hidden_size": 4.5}}, "text_config.hidden_size is 4.5, expected a whole number"),
        (
            {"text_config": {"rope_parameters": {"full_attention": {"rope_theta": "x"}}}},
            "text_config.rope_parameters.full",
        ),
    ],
)
def test_what_cannot_be_read_is_named_and_is_not_guessed(written: dict[str, Any], problem: str) -> None:
    (found,) = config_problems(LLAMA | written)
    assert found.startswith(f"config.json: {problem}")
    facts = ModelFacts.from_config(LLAMA | written)
    assert facts.rope_theta is None or "rope_theta" not in str(written)
    assert not facts.only_new_rope


@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA_3 | {"original_max_position_embeddings": 8192},
        YARN | {"beta_fast": 32, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0, "attention_factor": None},
        {"type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1, 2], "short_mscale": 1.24},
        {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        {"type": "mrope", "mrope_section": [16, 24, 24]},
    ],
)
def test_scalings_as_models_have_them_are_read(scaling: dict[str, Any]) -> None:
    assert list(config_problems(LLAMA | {"rope_scaling": scaling})) == []
