"""Tests of the sizes of models: their weights, and what they keep of each token.

The public numbers were seen where the table says:

- `index`: the number of weights in the Hub's index of the repository's safetensors files (`safetensors.total`), as
  quoted in public repositories.
- `class`: transformers 5.23.0 makes this model from the defaults of its class, which are those of the named model
  (`sum(p.numel() for p in model.parameters())` on the device `meta`).
- `report`: the number of weights that the model's paper or card gives, in billions.
"""

from typing import Any, NamedTuple

import pytest

from enginery.models.facts import ModelFacts
from enginery.models.size import cached_numbers, has_shape, parameter_count, weights_of
from tests.support.models.examples import LLAMA_3_1_8B, LLAMA_3_8B, LLAMA_3_70B, MIXTRAL_8X7B

GB = 10**9
DEEPSEEK_V3 = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
DEEPSEEK_V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 102400,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
}
QWEN3_235B = QWEN3_30B | {
    "hidden_size": 4096,
    "num_hidden_layers": 94,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 64,
}
GEMMA_3_1B = {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
    "sliding_window": 4096,
}
LLAMA_3_2_1B = LLAMA_3_1_8B | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
QWEN2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
MIXTRAL_8X22B = MIXTRAL_8X7B | {
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "num_hidden_layers": 56,
    "num_attention_heads": 48,
    "vocab_size": 32768,
}


class Public(NamedTuple):
    """A model whose number of weights is public."""

    name: str
    config: dict[str, Any]
    weights: float
    source: str


PUBLIC = [
    Public("Llama 3 8B", LLAMA_3_8B, 8_030_261_248, "index"),
    Public("Llama 3 70B", LLAMA_3_70B, 70_553_706_496, "index"),
    Public("Llama 3.2 1B", LLAMA_3_2_1B, 1_235_814_400, "index"),
    Public("Llama 2 7B", {"model_type": "llama"}, 6_738_415_616, "class"),
    Public("Mistral 7B", {"model_type": "mistral"}, 7_241_732_096, "class"),
    Public("Mixtral 8x7B", MIXTRAL_8X7B, 46_702_792_704, "class"),
    Public("Mixtral 8x22B", MIXTRAL_8X22B, 140_630_071_296, "index"),
    Public("Qwen2.5 7B", QWEN2_5_7B, 7_615_616_512, "index"),
    Public("Qwen1.5 MoE A2.7B", {"model_type": "qwen2_moe"}, 14_315_784_192, "class"),
    Public("Qwen3 30B A3B", QWEN3_30B, 30_532_122_624, "index"),
    Public("Qwen3 235B A22B", QWEN3_235B, 235_093_634_560, "index"),
    Public("DeepSeek V3", DEEPSEEK_V3, 671_026_404_352, "class"),
    Public("DeepSeek V2 Lite", DEEPSEEK_V2_LITE, 15_706_484_224, "index"),
    Public("Gemma 7B", {"model_type": "gemma"}, 8_537_680_896, "class"),
    Public("Gemma 2 2B", {"model_type": "gemma2"}, 2_614_341_888, "class"),
    Public("Gemma 2 9B", GEMMA_2_9B, 9_241_705_984, "index"),
    Public("Gemma 3 1B", GEMMA_3_1B, 999_885_952, "index"),
    Public("Phi-1.5", {"model_type": "phi"}, 1_418_270_720, "class"),
    Public("Phi-3 mini", {"model_type": "phi3"}, 3_821_079_552, "class"),
    Public("Phi-3.5 MoE", {"model_type": "phimoe"}, 41_872_793_600, "class"),
    Public("GPT-2", {"model_type": "gpt2"}, 124_439_808, "class"),
    Public("GPT-Neo 1.3B", {"model_type": "gpt_neo"}, 1_315_575_808, "class"),
    Public("GPT-J 6B", {"model_type": "gptj"}, 6_050_882_784, "class"),
    Public("GPT-NeoX 20B", {"model_type": "gpt_neox"}, 20_554_567_680, "class"),
    Public("OPT 125M", {"model_type": "opt"}, 125_239_296, "class"),
    Public("StarCoder2 3B", {"model_type": "starcoder2"}, 3_030_371_328, "class"),
    Public("Falcon 7B", {"model_type": "falcon"}, 6_921_720_704, "class"),
    Public("StableLM 3B", {"model_type": "stablelm"}, 2_795_443_200, "class"),
    Public("SmolLM3 3B", {"model_type": "smollm3"}, 3_075_098_624, "class"),
    Public("Command R", {"model_type": "cohere"}, 34_980_831_232, "class"),
    Public("GLM-4 9B", {"model_type": "glm"}, 9_399_951_360, "class"),
    Public(
        "gpt-oss 20B", {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32}, 20.91e9, "index"
    ),
    Public("gpt-oss 120B", {"model_type": "gpt_oss"}, 116_829_156_672, "index"),
    Public("Llama 4 Scout, its language model", {"model_type": "llama4_text"}, 107_769_861_120, "class"),
    Public("ERNIE 4.5 21B A3B", {"model_type": "ernie4_5_moe"}, 21_825_437_888, "class"),
    Public("MiniMax M2", {"model_type": "minimax_m2"}, 228_689_748_992, "class"),
    Public("OLMo 7B", {"model_type": "olmo"}, 6_888_095_744, "class"),
    Public("MiniCPM3 4B", {"model_type": "minicpm3"}, 4_073_875_968, "class"),
]


@pytest.mark.parametrize("model", PUBLIC, ids=[model.name for model in PUBLIC])
def test_the_number_of_weights_follows_from_the_shape(model: Public) -> None:
    assert weights_of(ModelFacts.from_config(model.config)).total == pytest.approx(model.weights, rel=0.01)


def test_learned_positions_and_biases_count() -> None:
    gpt2 = weights_of(ModelFacts.from_config({"model_type": "gpt2"}))
    assert (gpt2.embeddings, gpt2.head) == ((50257 + 1024) * 768, 0)
    assert gpt2.others == 12 * (2 * 768 + 3 * 768 + 768 + 3072 + 768) + 768


def test_experts_dense_layers_and_shared_experts_are_apart() -> None:
    """By the definition of DeepSeek V3: 3 dense layers, 58 layers with 256 experts of 2048 and one shared expert."""
    weights = weights_of(ModelFacts.from_config(DEEPSEEK_V3))
    assert weights.experts == 58 * 256 * 3 * 7168 * 2048
    attention = 1536 * (7168 + 128 * 192) + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    assert weights.matrices == 61 * attention + 3 * 7168 * (3 * 18432 + 58 * 2048)


@pytest.mark.parametrize(
    ("more", "sparse"),
    [({"mlp_only_layers": [0, 5]}, 46), ({"decoder_sparse_step": 2}, 24), ({"num_experts": 0}, 0), ({}, 48)],
)
def test_layers_without_experts_are_those_that_the_configuration_names(more: dict[str, Any], sparse: int) -> None:
    assert len(ModelFacts.from_config(QWEN3_30B | more).expert_layers) == sparse


def test_nothing_is_estimated_of_an_unknown_shape() -> None:
    for config in ({}, {"architectures": ["Other"]}, {"model_type": "mamba"}, {"model_type": "t5"}):
        facts = ModelFacts.from_config(config)
        assert (has_shape(facts), weights_of(facts).total, parameter_count(facts)) == (False, 0, 0)


def test_the_width_of_an_unknown_class_is_not_guessed() -> None:
    llama_like = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    assert ModelFacts.from_config(llama_like | {"model_type": "other"}).intermediate_size == 0
    assert ModelFacts.from_config(llama_like | {"model_type": "gpt2"}).intermediate_size == 256


# What is kept of each token


def cached(config: dict[str, Any], tokens: int, **split: int) -> float:
    return cached_numbers(ModelFacts.from_config(config), tokens, **split)


def test_each_layer_keeps_a_key_and_a_value_of_each_head() -> None:
    assert cached(LLAMA_3_8B, 1000) == 1000 * 32 * 8 * 128 * 2
    assert cached(LLAMA_3_8B, 1000, gpus=4) == 1000 * 32 * 2 * 128 * 2
    assert cached(LLAMA_3_8B, 1000, gpus=16) == 1000 * 32 * 1 * 128 * 2
    assert cached(LLAMA_3_8B, 1000, stages=2) == 1000 * 16 * 8 * 128 * 2


def test_latent_attention_keeps_one_vector_which_gpus_do_not_split() -> None:
    """DeepSeek V3 keeps 576 numbers of a token in each of 61 layers: 70 kB in 16 bits, as its report says."""
    assert cached(DEEPSEEK_V3, 1) == 61 * (512 + 64)
    assert cached(DEEPSEEK_V3, 1, gpus=8) == 61 * (512 + 64)
    assert cached(DEEPSEEK_V2_LITE, 10) == 10 * 27 * (512 + 64)


def test_layers_with_a_window_stop_growing() -> None:
    """Gemma 3 1B: every sixth of 26 layers attends to the whole sequence, the others to 512 tokens."""
    assert cached(GEMMA_3_1B, 512) == 512 * 26 * 2 * 256
    assert cached(GEMMA_3_1B, 32768) == (4 * 32768 + 22 * 512) * 2 * 256
    assert cached(GEMMA_2_9B, 8192) == (21 * 8192 + 21 * 4096) * 2 * 8 * 256


@pytest.mark.parametrize(
    ("config", "full"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 0),
        ({"model_type": "mistral", "sliding_window": None}, 32),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096}, 32),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}, 28),
        ({"model_type": "gpt_oss"}, 18),
        ({"model_type": "cohere2"}, 10),
        ({"model_type": "llama", "layer_types": ["full_attention", "sliding_attention"] * 16, "sliding_window": 8}, 16),
    ],
)
def test_which_layers_attend_to_the_whole_sequence(config: dict[str, Any], full: int) -> None:
    facts = ModelFacts.from_config(config)
    assert facts.layer_types.count("full_attention") == full
    assert bool(facts.sliding_window) == (full < facts.layers)


def test_layers_that_attend_to_chunks_keep_one_chunk() -> None:
    """Llama 4: every fourth of 48 layers attends to the whole sequence, the others to chunks of 8192 tokens."""
    assert cached({"model_type": "llama4_text"}, 100_000) == (12 * 100_000 + 36 * 8192) * 2 * 8 * 128


def test_layers_with_a_state_of_fixed_size_keep_nothing_of_a_token() -> None:
    """Qwen3 Next: three of four layers have linear attention."""
    assert cached({"model_type": "qwen3_next"}, 100) == 100 * 12 * 2 * 2 * 256


# Files


def test_plain_files_say_the_number_of_weights_unless_they_are_not_the_whole_model() -> None:
    config = LLAMA_3_8B
    assert parameter_count(ModelFacts.from_config(config, weight_bytes=17 * GB)) == 17 * GB // 2
    assert parameter_count(ModelFacts.from_config(config, weight_bytes=1 * GB)) == 8_030_261_248
    assert parameter_count(ModelFacts.from_config({"model_type": "other", "dtype": "float16"}, weight_bytes=10)) == 5
