"""The shape of a model, read from its `config.json`.

The file is in Hugging Face's format, as transformers 4 and 5 write it. The rotary settings are at its top level or in
`rope_parameters`. A model with several parts has the settings of its language model in `text_config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_ROPE_THETA = 10000.0
"""The default of transformers, for a configuration without this setting."""
DETAILS = ("_name_or_path", "padded_vocab_size", "rope_ratio", "routed_scaling_factor", "topk_method")
"""Settings that single converters depend on."""
NORM_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a model. An attribute that its configuration does not state is None, 0 or empty.

    Attributes:
        architecture: the first of `architectures`, such as `LlamaForCausalLM`.
        model_type: transformers' name of the family, such as `llama`.
        dtype: the number format of its weights, such as `bfloat16`.
        kv_heads: the number of key and value heads; without grouped attention the same as `heads`.
        intermediate_size: the width of the hidden layer in a feed-forward block.
        max_positions: the longest sequence that the model was made for, in tokens.
        rope_theta: the base of the rotary embedding.
        rope_scaling: how the rotary embedding is scaled for longer sequences; None if it is not scaled.
        norm_eps: the epsilon of the normalization layers.
        tied_embeddings: whether the input and output embeddings are the same weights.
        experts: the number of experts in a mixture of experts; 0 for other models.
        experts_per_token: how many experts process one token.
        quantization: the `quantization_config` of weights that are quantized already; None for other weights.
        weight_bytes: the size of the weight files in bytes; 0 if it is not known.
        details: the settings in `DETAILS`, as they are in the file.
    """

    architecture: str = ""
    model_type: str = ""
    dtype: str = ""
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    max_positions: int = 0
    rope_theta: float = DEFAULT_ROPE_THETA
    rope_scaling: Mapping[str, Any] | None = None
    norm_eps: float | None = None
    tied_embeddings: bool = False
    experts: int = 0
    experts_per_token: int = 0
    quantization: Mapping[str, Any] | None = None
    weight_bytes: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """The number of the model's parameters, estimated from the shape; 0 if the shape is not known."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        feed_forward = 3 * self.hidden_size * self.intermediate_size * max(1, self.experts)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + feed_forward) + embeddings if self.layers else 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, weight_bytes: int = 0) -> "ModelFacts":
        """Read the content of a `config.json`. A setting with a value of the wrong type counts as missing."""
        text = {**config, **_mapping(config.get("text_config"))}
        heads = _number(text, "num_attention_heads", "n_head", "n_heads")
        hidden = _number(text, "hidden_size", "n_embd", "d_model")
        scaling = _rope(text)
        theta = scaling.pop("rope_theta", None) or text.get("rope_theta") or DEFAULT_ROPE_THETA
        return cls(
            architecture=_first(config.get("architectures")),
            model_type=str(config.get("model_type") or ""),
            dtype=str(text.get("dtype") or text.get("torch_dtype") or "").removeprefix("torch."),
            layers=_number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
            heads=heads,
            kv_heads=_number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv") or heads,
            head_size=_number(text, "head_dim") or (hidden // heads if heads else 0),
            hidden_size=hidden,
            intermediate_size=_number(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden,
            vocab_size=_number(text, "vocab_size"),
            max_positions=_number(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
            rope_theta=float(theta),
            rope_scaling=scaling or None,
            norm_eps=_number(text, *NORM_EPS, kind=float) or None,
            tied_embeddings=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            experts=_number(text, "num_local_experts", "num_experts", "n_routed_experts"),
            experts_per_token=_number(text, "num_experts_per_tok", "num_experts_per_token"),
            quantization=_mapping(config.get("quantization_config")) or None,
            weight_bytes=weight_bytes,
            details={name: text[name] for name in DETAILS if name in text},
        )


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _first(value: object) -> str:
    return str(value[0]) if isinstance(value, list) and value else ""


def _number(config: Mapping[str, Any], *names: str, kind: type = int) -> Any:
    """The first of these settings that is a number of type `kind`; 0 if none is."""
    return next((kind(config[name]) for name in names if isinstance(config.get(name), (int, kind))), 0)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names of transformers 4. Without scaling, there is `rope_theta` at most."""
    scaling = {**_mapping(config.get("rope_parameters")), **_mapping(config.get("rope_scaling"))}
    kind = scaling.pop("type", None) or scaling.get("rope_type")
    theta = scaling.get("rope_theta")
    if kind in {None, "default"}:
        return {"rope_theta": theta} if theta else {}
    return {**scaling, "rope_type": kind}
