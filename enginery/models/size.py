"""How many weights a model has, and how many bytes it keeps of each token: estimates from its shape.

They are right to a few percent for the models whose structure is known. What is left out is small: norms with two
parts, scales of a model's own, and the parts of a model for images or sound.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from enginery.models.facts import ModelFacts
from enginery.models.rope import CHUNKED, SLIDING

WITHOUT_CACHE = frozenset({"linear_attention", "mamba", "conv", "recurrent", "moe", "mlp"})
"""Kinds of layers that keep a state of a fixed size, or nothing, in place of something for each token."""
FLOAT_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
PLAUSIBLE = 0.5
"""Files that are smaller than this part of the estimate are not the whole model."""


@dataclass(frozen=True)
class Weights:
    """The number of weights of a model, by what happens to them when a model is quantized.

    Attributes:
        embeddings: of the first layer, with learned positions.
        head: of the last layer; 0 if they are the first layer's.
        matrices: of attention and feed-forward blocks, without experts.
        experts: of all experts that are chosen by a router.
        others: of routers, norms and biases. They are never quantized.
    """

    embeddings: int = 0
    head: int = 0
    matrices: int = 0
    experts: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """The number of all weights."""
        return self.embeddings + self.head + self.matrices + self.experts + self.others

    @property
    def kept(self) -> int:
        """The number of weights that stay in 16 bits in a quantized model."""
        return self.embeddings + self.head + self.others


def weights_of(model: ModelFacts) -> Weights:
    """The weights of a model, by its shape. All are 0 if the shape is not known."""
    if not has_shape(model):
        return Weights()
    sparse = len(model.expert_layers)
    blocks = 3 if model.gated is not False else 2
    dense = (model.layers - sparse) * model.intermediate_size + sparse * model.shared_intermediate_size
    table = model.vocab_size * model.hidden_size
    positions = model.max_positions * model.hidden_size if model.positions == "learned" else 0
    return Weights(
        embeddings=table + positions,
        head=0 if model.tied_embeddings else table,
        matrices=model.layers * _attention(model) + blocks * model.hidden_size * dense,
        experts=sparse * model.experts * blocks * model.hidden_size * model.moe_intermediate_size,
        others=sparse * model.experts * model.hidden_size + _norms_and_biases(model),
    )


def parameter_count(model: ModelFacts) -> int:
    """How many weights the model has: as the size of plain files says it, else by its shape; 0 if it is not known."""
    by_shape, width = weights_of(model).total, FLOAT_BYTES.get(model.dtype)
    by_files = int(model.weight_bytes / width) if width and not model.quantization else 0
    return by_files if by_files >= PLAUSIBLE * by_shape else by_shape


def has_shape(model: ModelFacts) -> bool:
    """Whether enough of the shape is known for an estimate."""
    sizes = (model.layers, model.hidden_size, model.vocab_size, model.heads)
    return all(sizes) and bool(model.intermediate_size or model.experts) and not model.encoder_decoder


def cached_numbers(model: ModelFacts, tokens: int, *, gpus: int = 1, stages: int = 1) -> float:
    """How many numbers one GPU keeps of a sequence.

    Layers with a window keep only its tokens. Latent attention keeps one vector of a token in each layer, which the
    GPUs that share a layer cannot split; they split the heads of other attention.

    Args:
        model: the model.
        tokens: the length of the sequence.
        gpus: the number of GPUs that share each layer.
        stages: the number of groups of GPUs that share the layers.
    """
    kept = sum(_kept_tokens(model, tokens))
    if model.kv_lora_rank:
        vector = model.kv_lora_rank + model.qk_rope_head_dim
    else:
        vector = 2 * max(1, -(-model.kv_heads // gpus)) * model.head_size
    largest_stage = -(-model.layers // stages) / model.layers if model.layers else 1.0
    return kept * vector * largest_stage


def _kept_tokens(model: ModelFacts, tokens: int) -> Iterator[int]:
    """Of how many tokens each layer keeps something."""
    for kind in model.layer_types:
        if kind not in WITHOUT_CACHE:
            window = model.sliding_window if kind in {SLIDING, CHUNKED} else 0
            yield min(tokens, window) if window else tokens


def _attention(model: ModelFacts) -> int:
    """The weights of one layer's attention."""
    if not model.kv_lora_rank:
        return model.hidden_size * model.head_size * (2 * model.heads + 2 * model.kv_heads)
    query = model.heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
    queries = model.q_lora_rank * (model.hidden_size + query) if model.q_lora_rank else model.hidden_size * query
    down = model.hidden_size * (model.kv_lora_rank + model.qk_rope_head_dim)
    up = model.kv_lora_rank * model.heads * (model.qk_nope_head_dim + model.v_head_dim)
    return queries + down + up + model.heads * model.v_head_dim * model.hidden_size


def _norms_and_biases(model: ModelFacts) -> int:
    qkv = model.head_size * (model.heads + 2 * model.kv_heads) if model.attention_bias else 0
    out = model.hidden_size if model.output_bias else 0
    inner = model.intermediate_size * (1 if model.gated is False else 2) + model.hidden_size if model.mlp_bias else 0
    return model.layers * (2 * model.hidden_size + qkv + out + inner) + model.hidden_size
