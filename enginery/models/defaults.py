"""What a model has where its `config.json` leaves a setting out.

transformers writes no setting that has its usual value. The value is then in the model's configuration class, and some
facts, such as which matrices have a bias, are in the code of the model only. Both are recorded here, by `model_type`:

- `defaults.json` has the defaults of transformers' configuration classes. `tests/support/models/class_defaults.py`
  writes it, and a test compares it with an installed transformers.
- `OWN_CODE` has the same for models whose repositories bring their own class.
- `STRUCTURES` has what the models' code decides.

A model that is not here has no defaults: what its file leaves out is unknown.
"""

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

NOTHING: Mapping[str, Any] = MappingProxyType({})
Positions = Literal["rope", "learned", "alibi", "none", ""]
Bias = str
"""Whether a matrix has a bias: `yes`, `no`, as the setting of this name says, or unknown (empty)."""


@dataclass(frozen=True)
class Structure:
    """What the code of a model decides.

    Attributes:
        attention_bias: whether the matrices of queries, keys and values have a bias.
        output_bias: whether the last matrix of the attention has one.
        mlp_bias: whether the matrices of the feed-forward block have one.
        positions: how the model knows the positions of its tokens.
        gated: whether a feed-forward block has three matrices (gate, up and down) in place of two.
        head_bias: whether the last layer has a bias.
    """

    attention_bias: Bias = ""
    output_bias: Bias = ""
    mlp_bias: Bias = ""
    _: KW_ONLY
    positions: Positions = "rope"
    gated: bool | None = True
    head_bias: bool = False


UNKNOWN = Structure(positions="", gated=None)
PLAIN = Structure("no", "no", "no")
BY_SETTING = Structure("attention_bias", "attention_bias", "no")
LLAMA = Structure("attention_bias", "attention_bias", "mlp_bias")
QWEN2 = Structure("yes", "no", "no")
GLM = Structure("attention_bias", "no", "no")
GPT2 = Structure("yes", "yes", "yes", positions="learned", gated=False)
GPTJ = Structure("no", "no", "yes", gated=False, head_bias=True)

STRUCTURES: Mapping[str, Structure] = {
    **dict.fromkeys(("llama", "granite", "smollm3"), LLAMA),
    **dict.fromkeys(("mistral", "mixtral", "phi3", "ministral", "ministral3", "exaone4", "minimax_m2", "dbrx"), PLAIN),
    **dict.fromkeys(("mllama_text_model", "exaone", "baichuan", "deepseek", "minicpm"), PLAIN),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_vl", "qwen2_5_vl"), QWEN2),
    **dict.fromkeys(
        ("qwen3", "qwen3_moe", "qwen3_vl_text", "gemma", "gemma2", "gemma3_text", "vaultgemma"), BY_SETTING
    ),
    **dict.fromkeys(("phimoe", "olmo", "olmo2", "olmo3", "olmoe", "cohere", "cohere2", "llama4_text"), BY_SETTING),
    **dict.fromkeys(("granitemoe", "granitemoeshared", "hunyuan_v1_dense", "hunyuan_v1_moe", "bitnet"), BY_SETTING),
    "diffllama": BY_SETTING,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "dots1", "minicpm3"), BY_SETTING),
    **dict.fromkeys(("glm", "glm4", "glm4_moe"), GLM),
    **dict.fromkeys(("ernie4_5", "ernie4_5_moe"), Structure("use_bias", "use_bias", "use_bias")),
    **dict.fromkeys(("internlm", "internlm2"), Structure("bias", "bias", "no")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), GPT2),
    **dict.fromkeys(("gptj", "codegen"), GPTJ),
    "gpt_oss": Structure("attention_bias", "attention_bias", "yes"),
    "seed_oss": Structure("attention_bias", "attention_out_bias", "mlp_bias"),
    "stablelm": Structure("use_qkv_bias", "no", "no"),
    "helium": Structure("attention_bias", "no", "mlp_bias"),
    "chatglm": Structure("add_qkv_bias", "add_bias_linear", "add_bias_linear"),
    "qwen": Structure("yes", "no", "no"),
    "nemotron": Structure("attention_bias", "attention_bias", "mlp_bias", gated=False),
    "arcee": Structure("attention_bias", "attention_bias", "mlp_bias", gated=False),
    "apertus": Structure("attention_bias", "attention_bias", "no", gated=False),
    "phi": Structure("yes", "yes", "yes", gated=False, head_bias=True),
    "persimmon": Structure("yes", "yes", "yes", gated=False),
    "gpt_neox": Structure("attention_bias", "attention_bias", "yes", gated=False),
    "starcoder2": Structure("use_bias", "use_bias", "use_bias", gated=False),
    "falcon": Structure("bias", "bias", "bias", gated=False),
    "gpt_neo": Structure("no", "yes", "yes", positions="learned", gated=False),
    "opt": Structure("enable_bias", "enable_bias", "enable_bias", positions="learned", gated=False),
    "bloom": Structure("yes", "yes", "yes", positions="alibi", gated=False),
    "mpt": Structure("no", "no", "no", positions="alibi", gated=False),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv"), Structure(positions="none", gated=None)),
}

ROPE_10000: Mapping[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
OWN_CODE: Mapping[str, Mapping[str, Any]] = {
    "gptj": {"rope_parameters": ROPE_10000},
    "codegen": {"rope_parameters": ROPE_10000},
    "baichuan": {"tie_word_embeddings": False, "rope_parameters": ROPE_10000},
    "minicpm": {"rope_parameters": ROPE_10000},
    "chatglm": {"tie_word_embeddings": False, "add_qkv_bias": False, "add_bias_linear": False, "rope_ratio": 1.0},
    "deepseek": {"tie_word_embeddings": False, "rope_parameters": ROPE_10000},
    "internlm": {"tie_word_embeddings": False, "bias": True, "rope_parameters": ROPE_10000},
    "internlm2": {"tie_word_embeddings": False, "bias": True, "rope_parameters": ROPE_10000},
    "qwen": {"tie_word_embeddings": False, "rotary_emb_base": 10000, "rotary_pct": 1.0},
}
"""Defaults of the classes that repositories bring themselves, and what a model's code has fixed."""

ARCHITECTURES = {
    "BaiChuanForCausalLM": "baichuan",
    "BaichuanForCausalLM": "baichuan",
    "ChatGLMModel": "chatglm",
    "ChatGLMForConditionalGeneration": "chatglm",
    "DeepseekForCausalLM": "deepseek",
    "InternLMForCausalLM": "internlm",
    "InternLM2ForCausalLM": "internlm2",
    "QWenLMHeadModel": "qwen",
    "RWForCausalLM": "falcon",
    "MPTForCausalLM": "mpt",
}
"""Architecture -> model type, for the models with classes of their own."""

LANGUAGE_PARTS = {"mllama": "mllama_text_model", "llava": "llama"}
"""Model type of a model with several parts -> the type of its language model. Others are called `<type>_text`."""


def known_type(model_type: str, architecture: str = "") -> str:
    """The model type under which this model is recorded here; empty if it is not."""
    if model_type in OWN_CODE or model_type in _classes():
        return model_type
    return ARCHITECTURES.get(architecture) or _recorded()["architectures"].get(architecture, "")


def language_type(model_type: str) -> str:
    """The type of the language model in a model with several parts; empty if it is not known."""
    name = LANGUAGE_PARTS.get(model_type, f"{model_type}_text")
    return name if name in _classes() else ""


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """Setting -> its value where the file leaves it out. Empty for a class that is not known."""
    return {**_classes().get(model_type, NOTHING), **OWN_CODE.get(model_type, NOTHING)}


def structure(model_type: str) -> Structure:
    """What the code of this type of model decides."""
    return STRUCTURES.get(model_type, UNKNOWN)


def _classes() -> Mapping[str, Mapping[str, Any]]:
    classes: Mapping[str, Mapping[str, Any]] = _recorded()["classes"]
    return classes


@cache
def _recorded() -> Mapping[str, Any]:
    recorded: Mapping[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return recorded
