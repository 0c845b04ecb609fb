"""Tests of what models have where their `config.json` leaves a setting out."""

from typing import Any

import pytest

from enginery.models.defaults import ARCHITECTURES, OWN_CODE, STRUCTURES, class_defaults, known_type
from enginery.models.facts import ModelFacts
from tests.support.models.examples import LLAMA_3_8B


def facts(model_type: str, **config: Any) -> ModelFacts:
    return ModelFacts.from_config({"model_type": model_type, **config})


@pytest.mark.parametrize(
    ("model_type", "tied"),
    [
        *(("gemma", True), ("gemma2", True), ("gemma3_text", True), ("gpt2", True), ("falcon", True), ("opt", True)),
        *(("starcoder2", True), ("cohere", True), ("bloom", True), ("mpt", True), ("smollm3", True)),
        *(("llama", False), ("mistral", False), ("qwen2", False), ("phi", False), ("gptj", False), ("mamba2", False)),
        *(("deepseek_v3", False), ("internlm2", False), ("chatglm", False), ("gpt_neox", False)),
        *(("other", None), ("", None), ("minicpm", None)),
    ],
)
def test_the_class_says_whether_embeddings_are_tied(model_type: str, *, tied: bool | None) -> None:
    assert facts(model_type).tied_embeddings is tied


@pytest.mark.parametrize("said", [True, False])
def test_what_the_file_says_of_tied_embeddings_goes_first(*, said: bool) -> None:
    assert facts("gemma", tie_word_embeddings=said).tied_embeddings is said
    assert facts("other", tie_word_embeddings=said).tied_embeddings is said


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "gemma3", "text_config": {}}, True),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}, None),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral", "tie_word_embeddings": False}}, False),
        ({"model_type": "a", "tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, None),
        ({"model_type": "qwen2_vl", "tie_word_embeddings": True, "hidden_size": 8}, True),
    ],
)
def test_where_the_parts_of_a_model_differ_it_is_not_known(config: dict[str, Any], *, tied: bool | None) -> None:
    assert ModelFacts.from_config(config).tied_embeddings is tied


def test_the_architecture_names_the_class_where_the_type_is_left_out() -> None:
    gemma = ModelFacts.from_config({"architectures": ["GemmaForCausalLM"]})
    assert (gemma.language_type, gemma.tied_embeddings, gemma.head_size) == ("gemma", True, 256)
    kimi = ModelFacts.from_config({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2"})
    assert (kimi.kv_lora_rank, kimi.experts, kimi.language_type) == (512, 256, "deepseek_v3")


def test_a_language_part_that_leaves_sizes_out_has_those_of_its_class() -> None:
    """The `config.json` of Gemma 3 4B names only what differs from the class."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    found = ModelFacts.from_config(whole)
    assert (found.heads, found.kv_heads, found.head_size, found.vocab_size) == (8, 4, 256, 262208)
    assert (found.rope_theta, found.local_rope_theta, found.max_positions) == (1e6, 1e4, 131072)


@pytest.mark.parametrize(
    ("config", "language_type"),
    [
        ({"model_type": "qwen2_vl", "hidden_size": 1536}, "qwen2_vl_text"),
        ({"model_type": "internvl_chat", "llm_config": {"model_type": "internlm2"}}, "internlm2"),
        ({"model_type": "a", "text_config": {"model_type": "b", "architectures": ["LlamaForCausalLM"]}}, "llama"),
        ({"model_type": "a", "text_config": {"model_type": "b"}}, ""),
        ({"model_type": "llava", "text_config": {"hidden_size": 8}}, "llama"),
        ({"model_type": "llama", "text_config": {"model_type": "gemma3_text"}}, "gemma3_text"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_the_class_of_the_language_part(config: dict[str, Any], language_type: str) -> None:
    assert ModelFacts.from_config(config).language_type == language_type


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"model_type": "llama", "num_attention_heads": 16}, 16),
        ({"model_type": "mistral"}, 8),
        ({"model_type": "mistral", "num_key_value_heads": None}, 32),
        ({"model_type": "gpt_bigcode"}, 1),
        ({"model_type": "gpt_bigcode", "multi_query": False}, 12),
        ({"model_type": "falcon"}, 1),
        ({"model_type": "falcon", "multi_query": False}, 71),
        ({"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        ({"model_type": "RefinedWeb", "architectures": ["RWForCausalLM"], "n_head": 128, "n_head_kv": 8}, 8),
        ({"model_type": "RefinedWebModel", "architectures": ["RWForCausalLM"], "multi_query": True}, 1),
        ({"model_type": "chatglm", "multi_query_attention": True, "multi_query_group_num": 2}, 2),
        ({"model_type": "dbrx", "n_heads": 48, "attn_config": {"kv_n_heads": 8}}, 8),
        ({"model_type": "other", "num_attention_heads": 4}, 4),
    ],
)
def test_the_number_of_key_value_heads(config: dict[str, Any], heads: int) -> None:
    assert ModelFacts.from_config(config).kv_heads == heads


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"model_type": "qwen3", "hidden_size": 2560, "num_attention_heads": 32}, 128),
        ({"model_type": "qwen2", "hidden_size": 2048, "num_attention_heads": 32}, 64),
        ({"model_type": "gemma", "hidden_size": 3072, "num_attention_heads": 16}, 256),
        ({"model_type": "chatglm", "kv_channels": 128, "hidden_size": 64, "num_attention_heads": 2}, 128),
        ({"model_type": "mixtral", "head_dim": None}, 128),
    ],
)
def test_the_size_of_a_head(config: dict[str, Any], size: int) -> None:
    assert ModelFacts.from_config(config).head_size == size


@pytest.mark.parametrize(
    ("config", "biases"),
    [
        ({"model_type": "llama"}, (False, False, False)),
        ({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, (True, True, True)),
        ({"model_type": "qwen2"}, (True, False, False)),
        ({"model_type": "qwen2", "attention_bias": False}, (True, False, False)),
        ({"model_type": "qwen3", "attention_bias": True}, (True, True, False)),
        ({"model_type": "gpt_neox"}, (True, True, True)),
        ({"model_type": "starcoder2", "use_bias": False}, (False, False, False)),
        ({"model_type": "falcon"}, (False, False, False)),
        ({"model_type": "glm"}, (True, False, False)),
        ({"model_type": "internlm2", "bias": False}, (False, False, False)),
        ({"model_type": "internlm2"}, (True, True, False)),
        ({"model_type": "gptj"}, (False, False, True)),
        ({"model_type": "other", "attention_bias": True}, (None, None, None)),
    ],
)
def test_which_matrices_have_a_bias(config: dict[str, Any], biases: tuple[bool | None, ...]) -> None:
    found = ModelFacts.from_config(config)
    assert (found.attention_bias, found.output_bias, found.mlp_bias) == biases


def test_a_file_with_everything_needs_no_class() -> None:
    whole = {**LLAMA_3_8B, "num_key_value_heads": 8, "tie_word_embeddings": False, "hidden_act": "silu"}
    known, unknown = ModelFacts.from_config(whole), ModelFacts.from_config({**whole, "model_type": "other"} | OTHER)
    of_the_file = ("layers", "heads", "kv_heads", "head_size", "hidden_size", "intermediate_size", "rope_theta")
    assert [getattr(known, name) for name in of_the_file] == [getattr(unknown, name) for name in of_the_file]
    assert (unknown.tied_embeddings, unknown.gated, unknown.attention_bias) == (False, None, None)


OTHER = {"architectures": ["OtherForCausalLM"]}


def test_the_first_chatglm_is_another_model_than_the_later_ones() -> None:
    first = facts("chatglm", architectures=["ChatGLMModel"], inner_hidden_size=16384, max_sequence_length=2048)
    assert (first.rope_theta, first.gated, first.max_positions, first.intermediate_size) == (None, None, 2048, 16384)
    assert facts("chatglm").gated


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "dbrx", "max_seq_len": 32768}, 32768),
        ({"model_type": "llama", "max_position_embeddings": 4096, "model_max_length": 10**30}, 4096),
        ({"model_type": "baichuan", "model_max_length": 4096}, 4096),
        ({"model_type": "falcon"}, 2048),
        ({"model_type": "chatglm", "seq_length": 8192}, 8192),
        ({"model_type": "gpt2", "n_positions": 512}, 512),
        ({"model_type": "other"}, 0),
    ],
)
def test_the_number_of_positions(config: dict[str, Any], positions: int) -> None:
    assert ModelFacts.from_config(config).max_positions == positions


def test_every_name_leads_to_something_that_is_known() -> None:
    for architecture, model_type in ARCHITECTURES.items():
        assert known_type("", architecture) == model_type
        assert class_defaults(model_type)
        assert model_type in STRUCTURES
    assert set(OWN_CODE) <= set(STRUCTURES)


def test_encoders_and_decoders_are_known_by_their_class() -> None:
    assert facts("t5").encoder_decoder
    assert facts("bart").encoder_decoder
    assert facts("other", is_encoder_decoder=True).encoder_decoder
    assert not facts("llama").encoder_decoder
