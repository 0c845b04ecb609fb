"""What a conversion does to weights: rounds them, which must not matter, or breaks them, which must be noticed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import LlamaForCausalLM

Weights = dict[str, torch.Tensor]
Change = Callable[[Weights], Weights]

INT4_BLOCK = 32
INT4_STEPS = 8  # from zero to the largest weight of a block
HEAD_SIZE = 32
USUAL_ROPE_BASE = 10000.0


def weights_of(model: LlamaForCausalLM) -> Weights:
    """Parameters and buffers by their names; the buffers hold the rotary embedding's frequencies."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@contextmanager
def changed(model: LlamaForCausalLM, change: Change) -> Iterator[None]:
    """The model with its weights changed for a while."""
    weights = weights_of(model)
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in change(kept).items():
            weights[name].copy_(weight)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                weights[name].copy_(weight)


def each(pattern: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change the weights with `pattern` in their names, one by one."""
    return lambda weights: {name: change(weight) if pattern in name else weight for name, weight in weights.items()}


def matrices(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change all that a conversion may store in fewer bits."""
    return lambda weights: {name: change(weight) if weight.dim() == 2 else weight for name, weight in weights.items()}


def noise(weights: Weights) -> Weights:
    """Random changes up to twice as large as int4's rounding."""
    return matrices(lambda weight: weight + int4_step(weight) * (2 * torch.rand_like(weight) - 1))(weights)


def int4_step(weight: torch.Tensor) -> torch.Tensor:
    """For each weight, the distance of the values that int4 can hold in its block."""
    blocks = weight.detach().reshape(-1, INT4_BLOCK)
    step = blocks.abs().amax(dim=1, keepdim=True) / INT4_STEPS
    return step.expand_as(blocks).reshape(weight.shape)


def to_int4(weight: torch.Tensor) -> torch.Tensor:
    """The weights as int4 holds them."""
    step = int4_step(weight).clamp_min(1e-12)
    return (weight / step).round().clamp(-INT4_STEPS, INT4_STEPS - 1) * step


def usual_rope_base(frequencies: torch.Tensor) -> torch.Tensor:
    """The frequencies of a reader that did not find `rope_theta`."""
    return USUAL_ROPE_BASE ** (-2 * torch.arange(len(frequencies)) / HEAD_SIZE)


def pairs_side_by_side(weight: torch.Tensor) -> torch.Tensor:
    """Rows in the order of Meta's own files, where the two halves that RoPE rotates are neighbours."""
    return weight.view(-1, 2, HEAD_SIZE // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def heads_reversed(weight: torch.Tensor) -> torch.Tensor:
    """Heads in the wrong order."""
    return weight.view(-1, HEAD_SIZE, weight.shape[1]).flip(0).reshape(weight.shape)


def gate_and_up_swapped(weights: Weights) -> Weights:
    """The two halves of the feed-forward layer mixed up."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {
        name: next((weights[name.replace(a, b)] for a, b in other.items() if a in name), weight)
        for name, weight in weights.items()
    }


def tied(weights: Weights) -> Weights:
    """The embedding taken for the output layer too."""
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def last_layer_lost(weights: Weights) -> Weights:
    """Nothing comes out of the last layer."""
    lost = ("layers.1.self_attn.o_proj", "layers.1.mlp.down_proj")
    return {name: weight * 0 if any(part in name for part in lost) else weight for name, weight in weights.items()}


def rotated_wrongly(weights: Weights) -> Weights:
    """Queries and keys in the other order of RoPE's pairs."""
    return each("q_proj", pairs_side_by_side)(each("k_proj", pairs_side_by_side)(weights))


ROUNDINGS: dict[str, Change] = {
    "float32": lambda weights: weights,
    "float16": each(".weight", lambda weight: weight.half().float()),
    "bfloat16": each(".weight", lambda weight: weight.bfloat16().float()),
    "int4": matrices(to_int4),
}

BREAKAGES: dict[str, Change] = {
    "RoPE base lost": each("inv_freq", usual_rope_base),
    "RoPE pairs in the wrong order": rotated_wrongly,
    "key heads in the wrong order": each("k_proj", heads_reversed),
    "attention not scaled": each("q_proj", lambda weight: weight * HEAD_SIZE**0.5),
    "gate and up swapped": gate_and_up_swapped,
    "embedding used as output layer": tied,
    "last layer lost": last_layer_lost,
    "norms lost": each("norm", torch.ones_like),
}
