"""The shape of a model, read from its `config.json`.

The file is in Hugging Face's format, as transformers 4 and 5 write it. A model with several parts has the settings of
its language model in an object of its own. What the file leaves out comes from the model's class (`defaults`). What is
neither in the file nor known for the class is unknown, and is never guessed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from enginery.models.defaults import (
    Bias,
    Positions,
    Structure,
    class_defaults,
    known_type,
    language_type,
    structure,
)
from enginery.models.kinds import ModelKind, kind_of
from enginery.models.layers import LLAMA4, attention_kinds, expert_layers
from enginery.models.rope import CHUNKED, FULL, SLIDING, Rope, by_layer_type, is_read_without, read_ropes
from enginery.models.settings import Settings, is_positive

DEFAULT_ROPE_THETA = 10000.0
"""The rotary base that TensorRT-LLM takes where a checkpoint does not say one."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
DETAILS = ("_name_or_path", "padded_vocab_size", "rope_ratio", "routed_scaling_factor", "topk_method")
"""Settings that single converters depend on."""
NORM_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps")
LANGUAGE_PARTS = ("llm_config", "language_config", "text_model_config")
"""Where a model with several parts has the settings of its language model, if not in `text_config`."""
OTHER_POSITIONS = ("max_seq_len", "seq_length", "model_max_length", "max_sequence_length")
FIRST_CHATGLM = "inner_hidden_size"
"""Only the first ChatGLM has this setting. It is another model than the later ones, of which more is known."""
WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "encoder_ffn_dim", FIRST_CHATGLM)
FOUR_TIMES = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "gptj", "codegen", "bloom", "falcon", "mpt"})
"""Types of models whose feed-forward blocks have four times the hidden size, if the file does not say it."""
HIDDEN = ("hidden_size", "n_embd", "d_model")
OLD_HIDDEN = ("n_embed",)
"""How the smaller BLOOM models write it. The classes of BLOOM and Falcon prefer it to `hidden_size`."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k")
NO_WINDOW = (-1, False)
ALIBI_WIDTH = 5120
"""Baichuan's larger model has no rotary embeddings; only its hidden size shows which it is."""


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a model. An attribute that is not known is None, 0 or empty.

    Attributes:
        architecture: the first of `architectures`, such as `LlamaForCausalLM`.
        model_type: transformers' name of the family, such as `llama`.
        language_type: the same for the language model, in a model with several parts; empty if no class is known.
        dtype: the number format of its weights, such as `bfloat16`.
        kv_heads: the number of key and value heads; without grouped attention the same as `heads`.
        intermediate_size: the width of the hidden layer in a feed-forward block that is no expert.
        max_positions: the longest sequence that the model was made for, in tokens.
        positions: how the model knows the positions of its tokens; `rope` for rotary embeddings.
        rope_theta: the base of the rotary embedding, in layers that attend to the whole sequence.
        rope_scaling: how the rotary embedding is scaled for longer sequences; None if it is not scaled.
        rope_share: the part of each head that is rotated.
        local_rope_theta: the base in layers with a sliding window, if it is another; None if it is the same.
        only_new_rope: whether the rotary settings are only in `rope_parameters`, which transformers 4 does not read.
        rope_by_layer_type: whether `rope_parameters` has an object for each kind of layer.
        norm_eps: the epsilon of the normalization layers.
        tied_embeddings: whether the input and output embeddings are the same weights; None if it is not known.
        attention_bias: whether the matrices of queries, keys and values have a bias.
        output_bias: whether the last matrix of the attention has a bias.
        mlp_bias: whether the matrices of the feed-forward blocks have a bias.
        gated: whether a feed-forward block has three matrices in place of two.
        activation: the function in the feed-forward blocks, such as `silu`.
        experts: the number of experts in a mixture of experts; 0 for other models.
        experts_per_token: how many experts process one token.
        moe_intermediate_size: the width of an expert.
        shared_intermediate_size: the width of all experts together that process every token; 0 if there are none.
        expert_layers: the numbers of the layers that have experts.
        kv_lora_rank: the size of what latent attention (MLA) keeps of a token; 0 for other attention.
        q_lora_rank: the size to which latent attention compresses queries; 0 if it does not.
        qk_rope_head_dim: the part of a head that latent attention rotates.
        qk_nope_head_dim: the part that it does not rotate.
        v_head_dim: the size of a value in latent attention.
        sliding_window: how many tokens a layer of kind `sliding_attention` or `chunked_attention` attends to; 0 if
            there are no such layers.
        layer_types: the kind of attention of each layer.
        encoder_decoder: whether the model has an encoder and a decoder.
        quantization: the `quantization_config` of weights that are quantized already; None for other weights.
        weight_bytes: the size of the weight files in bytes; 0 if it is not known.
        details: the settings in `DETAILS`, as they are in the file.
    """

    architecture: str = ""
    model_type: str = ""
    language_type: str = ""
    dtype: str = ""
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    max_positions: int = 0
    positions: Positions = ""
    rope_theta: float | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_share: float | None = None
    local_rope_theta: float | None = None
    only_new_rope: bool = False
    rope_by_layer_type: bool = False
    norm_eps: float | None = None
    tied_embeddings: bool | None = None
    attention_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = None
    gated: bool | None = None
    activation: str = ""
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    expert_layers: tuple[int, ...] = ()
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0
    sliding_window: int = 0
    layer_types: tuple[str, ...] = ()
    encoder_decoder: bool = False
    quantization: Mapping[str, Any] | None = None
    weight_bytes: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> ModelKind:
        """What kind of model it is, by the name of its architecture."""
        return kind_of(self.architecture, encoder_decoder=self.encoder_decoder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, weight_bytes: int = 0) -> "ModelFacts":
        """Read the content of a `config.json`. A setting with a value of the wrong type counts as missing."""
        return _read(_Config(config), weight_bytes=weight_bytes)


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each setting that decides what the model is and cannot be read, because of its type."""
    read = _Config(config)
    _read(read, weight_bytes=0)
    for name, problem in read.problems.items():
        yield f"config.json: {name} {problem}"


class _Config:
    """A `config.json`: the settings of the whole model, and those of its language model."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.problems: dict[str, str] = {}
        self.whole = Settings(config, problems=self.problems)
        self.architecture = _architecture(self.whole)
        self.model_type = self.whole.text("model_type")
        parts = (self.whole.inside("text_config"), *map(self.whole.part, LANGUAGE_PARTS))
        part = next((part for part in parts if part.own), Settings({}))
        self.known = "" if FIRST_CHATGLM in config else known_type(self.model_type, self.architecture)
        self.type = self._language_type(part)
        moved = dict.fromkeys(part.own, part.path)
        self.text = Settings({**config, **part.own}, class_defaults(self.type), self.problems, moved=moved)

    def _language_type(self, part: Settings) -> str:
        """The type of the language model. Some files have its settings beside those of the whole model."""
        if own := part.text("model_type"):
            return known_type(own, _architecture(part))
        return language_type(self.known) or ("" if part.own else self.known)

    def tied(self) -> bool | None:
        """Whether the embeddings are tied. Where the parts of the file, or of the class, differ, it is not known."""
        stated = {self.whole.flag("tie_word_embeddings"), self.text.flag("tie_word_embeddings")} - {None}
        if self.whole.stated("tie_word_embeddings") is None and self.text.stated("tie_word_embeddings") is None:
            kinds = {self.known, self.type} - {""}
            stated = {class_defaults(kind).get("tie_word_embeddings") for kind in kinds} - {None}
        return stated.pop() if len(stated) == 1 else None


def _read(config: _Config, *, weight_bytes: int) -> ModelFacts:
    text, kind = config.text, config.type
    own, heads = structure(kind), text.count("num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = text.count(*(OLD_HIDDEN if kind in {"bloom", "falcon"} else ()), *HIDDEN)
    head_size = text.size("head_dim", "kv_channels", "d_kv", "attention_head_dim") or (hidden // heads if heads else 0)
    layers = text.count(*LAYERS)
    window = _window(text)
    kinds = attention_kinds(text, layers, kind, window)
    ropes = read_ropes(text, head_size) if _positions(text, own, hidden, kind) in {"rope", ""} else {}
    main, local = ropes.get(FULL, Rope()), ropes.get(SLIDING)
    return ModelFacts(
        architecture=config.architecture,
        model_type=config.model_type,
        language_type=kind,
        dtype=_dtype(text),
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(text, heads, kind),
        head_size=head_size,
        hidden_size=hidden,
        intermediate_size=_width(text, hidden, kind),
        vocab_size=text.count("padded_vocab_size", "vocab_size"),
        max_positions=_max_positions(text),
        positions=_positions(text, own, hidden, kind),
        rope_theta=main.theta,
        rope_scaling=main.scaling,
        rope_share=main.share,
        local_rope_theta=local.theta if local and local.theta != main.theta else None,
        only_new_rope=not is_read_without(text, head_size, ropes),
        rope_by_layer_type=bool(by_layer_type(text)),
        norm_eps=text.number(*NORM_EPS),
        tied_embeddings=config.tied(),
        attention_bias=_bias(own.attention_bias, text),
        output_bias=_bias(own.output_bias, text),
        mlp_bias=_bias(own.mlp_bias, text),
        gated=own.gated,
        activation=text.text("hidden_act", "hidden_activation", "activation_function"),
        **_experts(text, layers, kind),
        **_latent(text, head_size),
        sliding_window=window if SLIDING in kinds else text.size("attention_chunk_size") if CHUNKED in kinds else 0,
        layer_types=kinds,
        encoder_decoder=bool(config.whole.flag("is_encoder_decoder") or text.flag("is_encoder_decoder")),
        quantization=_quantization(config),
        weight_bytes=weight_bytes,
        details={name: text.stated(name) for name in DETAILS if text.stated(name) is not None},
    )


def _architecture(settings: Settings) -> str:
    value = settings.stated("architectures")
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value[0]
    if value is not None and value != []:
        settings.note("architectures", value, "a list of names")
    return ""


def _dtype(text: Settings) -> str:
    value = text.stated("dtype") or text.stated("torch_dtype")
    return value.removeprefix("torch.") if isinstance(value, str) else ""


def _kv_heads(text: Settings, heads: int, kind: str) -> int:
    if text.says_none("num_key_value_heads"):
        return heads
    own = text.size("num_key_value_heads") or text.part("attn_config").size("kv_n_heads")
    if own:
        return own
    if kind == "chatglm":
        return text.size("multi_query_group_num") if text.flag("multi_query_attention") else heads
    grouped = text.size("n_head_kv") or text.size("num_kv_heads")
    if kind == "falcon" and text.stated("n_head_kv") is None and not text.flag("new_decoder_architecture"):
        return 1 if text.flag("multi_query") else heads
    if kind == "gpt_bigcode":
        return 1 if text.flag("multi_query") else heads
    return grouped or heads


def _width(text: Settings, hidden: int, kind: str) -> int:
    if kind == LLAMA4:
        return text.size("intermediate_size_mlp")
    if kind == "qwen":
        return text.size("intermediate_size") // 2  # the file has the width of gate and up together
    if kind == "mpt":
        return int((text.number("expansion_ratio") or 4) * hidden)
    stated = text.size(*WIDTHS) or text.part("ffn_config").size("ffn_hidden_size")
    return stated or (4 * hidden if kind in FOUR_TIMES else 0)


def _max_positions(text: Settings) -> int:
    names = ("max_position_embeddings", "n_positions")
    others = (text.stated(name) for name in OTHER_POSITIONS)  # some files have a tokenizer's 10^30 here
    other = next((value for value in others if isinstance(value, int) and is_positive(value)), 0)
    return other if other and not any(text.stated(name) for name in names) else text.size(*names)


def _positions(text: Settings, own: Structure, hidden: int, kind: str) -> Positions:
    if kind == "falcon":
        return "alibi" if text.flag("alibi") else "rope"
    if kind == "mpt":
        return "learned" if text.part("attn_config").flag("alibi") is False else "alibi"
    if kind == "baichuan" and hidden >= ALIBI_WIDTH:
        return "alibi"
    return own.positions


def _bias(bias: Bias, text: Settings) -> bool | None:
    return {"": None, "yes": True, "no": False}[bias] if bias in {"", "yes", "no"} else text.flag(bias)


def _experts(text: Settings, layers: int, kind: str) -> dict[str, Any]:
    nested = text.part("ffn_config")
    experts = text.size(*EXPERTS) or nested.size("moe_num_experts")
    if experts < 2:  # noqa: PLR2004
        return {}
    width = text.size("moe_intermediate_size", "expert_ffn_hidden_size")
    width = width or text.size("intermediate_size") or nested.size("ffn_hidden_size")
    return {
        "experts": experts,
        "experts_per_token": text.size(*CHOSEN_EXPERTS) or nested.size("moe_top_k"),
        "moe_intermediate_size": width,
        "shared_intermediate_size": _shared_width(text, width, kind),
        "expert_layers": expert_layers(text, layers, kind),
    }


def _shared_width(text: Settings, width: int, kind: str) -> int:
    if kind == LLAMA4:
        return width
    count = text.size("n_shared_experts", "moe_num_shared_experts", "num_shared_experts")
    return text.size("shared_expert_intermediate_size", "shared_intermediate_size") or count * width


def _latent(text: Settings, head_size: int) -> dict[str, Any]:
    names = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    if not text.size("kv_lora_rank"):
        return {}
    found = {name: text.size(name) for name in names if not text.says_none(name)}
    return {**found, "v_head_dim": found.get("v_head_dim") or head_size}


def _window(text: Settings) -> int:
    if text.flag("use_sliding_window") is False or text.says_none("sliding_window"):
        return 0
    if text.stated("sliding_window") in NO_WINDOW:
        return 0
    return text.size("sliding_window", "attention_window_size", "window_size")


def _quantization(config: _Config) -> dict[str, Any] | None:
    value = config.whole.stated("quantization_config")
    if value is not None and not isinstance(value, Mapping):
        config.whole.note("quantization_config", value, "an object")
    own = value if isinstance(value, Mapping) else config.text.stated("quantization_config")
    return dict(own) if isinstance(own, Mapping) and own else None
