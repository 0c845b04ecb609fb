"""What a model's own `config.json` says of its shape.

Read from Hugging Face's format as transformers 4 and 5 write it: the rotary settings stand at the top or in
`rope_parameters`, those of a model with several parts in `text_config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_ROPE_THETA = 10000.0
"""transformers' own, where a configuration does not say."""
NORM_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")


@dataclass(frozen=True)
class ModelFacts:
    """A model's shape; None or an empty value for what its configuration does not say.

    Attributes:
        architecture: the first of `architectures`, such as `LlamaForCausalLM`.
        model_type: transformers' name of the family, such as `llama`.
        dtype: the number format of its weights, such as `bfloat16`.
        kv_heads: heads of keys and values; as many as `heads` without grouping.
        intermediate_size: numbers between the two halves of a feed-forward layer.
        max_positions: the longest sequence it was made for, in tokens.
        rope_theta: the base of its rotary embedding.
        rope_scaling: how that is stretched; empty for not at all.
        norm_eps: what its normalization adds to a variance.
        tied_embeddings: whether its last layer is its first one.
        experts: experts of a mixture; 0 for none.
        experts_per_token: how many of them a token goes through.
        quantization: what says that its weights are quantized already; empty for plain ones.
        weight_bytes: bytes of its weight files; 0 where that is not known.
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

    @property
    def parameters(self) -> int:
        """How many numbers its weights are, from its shape; 0 where that is not known."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        feed_forward = 3 * self.hidden_size * self.intermediate_size * max(1, self.experts)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + feed_forward) + embeddings if self.layers else 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, weight_bytes: int = 0) -> "ModelFacts":
        """Read a `config.json`; what cannot be read as what it should be is left unsaid."""
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
        )


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _first(value: object) -> str:
    return str(value[0]) if isinstance(value, list) and value else ""


def _number(config: Mapping[str, Any], *names: str, kind: type = int) -> Any:
    """The first of these settings that is a number of that kind; 0 where none is."""
    return next((kind(config[name]) for name in names if isinstance(config.get(name), (int, kind))), 0)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names of transformers 4: `rope_type` and its numbers; empty for plain ones."""
    scaling = {**_mapping(config.get("rope_parameters")), **_mapping(config.get("rope_scaling"))}
    kind = scaling.pop("type", None) or scaling.get("rope_type")
    theta = scaling.get("rope_theta")
    if kind in {None, "default"}:
        return {"rope_theta": theta} if theta else {}
    return {**scaling, "rope_type": kind}
