"""Changes of weights as a conversion makes them: roundings, which must change no answer, and breakages, which must."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import LlamaForCausalLM

Weights = dict[str, torch.Tensor]
Change = Callable[[Weights], Weights]

INT4_BLOCK = 32
INT4_STEPS = 8  # between zero and the largest weight of a block
HEAD_SIZE = 32
DEFAULT_ROPE_BASE = 10000.0


def weights_of(model: LlamaForCausalLM) -> Weights:
    """The model's parameters and buffers, by name. The buffers hold the frequencies of the rotary embedding."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@contextmanager
def changed(model: LlamaForCausalLM, change: Change) -> Iterator[None]:
    """Change the weights of a model; they are restored at the end of the block."""
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
    """A change of each weight that has `pattern` in its name."""
    return lambda weights: {name: change(weight) if pattern in name else weight for name, weight in weights.items()}


def matrices(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """A change of each matrix; a conversion stores only matrices in fewer bits."""
    return lambda weights: {name: change(weight) if weight.dim() == 2 else weight for name, weight in weights.items()}


def noise(weights: Weights) -> Weights:
    """The weights with random noise, up to twice as large as the rounding to int4."""
    return matrices(lambda weight: weight + int4_step(weight) * (2 * torch.rand_like(weight) - 1))(weights)


def int4_step(weight: torch.Tensor) -> torch.Tensor:
    """For each weight, the distance between two neighbouring int4 values in its block."""
    blocks = weight.detach().reshape(-1, INT4_BLOCK)
    step = blocks.abs().amax(dim=1, keepdim=True) / INT4_STEPS
    return step.expand_as(blocks).reshape(weight.shape)


def to_int4(weight: torch.Tensor) -> torch.Tensor:
    """The weights rounded to int4, one scale for each block."""
    step = int4_step(weight).clamp_min(1e-12)
    return (weight / step).round().clamp(-INT4_STEPS, INT4_STEPS - 1) * step


def default_rope_base(frequencies: torch.Tensor) -> torch.Tensor:
    """The frequencies that a converter uses if it does not find `rope_theta`."""
    return DEFAULT_ROPE_BASE ** (-2 * torch.arange(len(frequencies)) / HEAD_SIZE)


def pairs_side_by_side(weight: torch.Tensor) -> torch.Tensor:
    """The rows in the order of Meta's own files: the two rows of a pair that RoPE rotates are neighbours."""
    return weight.view(-1, 2, HEAD_SIZE // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def heads_reversed(weight: torch.Tensor) -> torch.Tensor:
    """The heads in reverse order."""
    return weight.view(-1, HEAD_SIZE, weight.shape[1]).flip(0).reshape(weight.shape)


def gate_and_up_swapped(weights: Weights) -> Weights:
    """The gate and up projections of each feed-forward layer, exchanged."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {
        name: next((weights[name.replace(a, b)] for a, b in other.items() if a in name), weight)
        for name, weight in weights.items()
    }


def tied(weights: Weights) -> Weights:
    """The embedding used as the output layer too."""
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def last_layer_lost(weights: Weights) -> Weights:
    """The last layer contributes nothing: its output projections are zero."""
    lost = ("layers.1.self_attn.o_proj", "layers.1.mlp.down_proj")
    return {name: weight * 0 if any(part in name for part in lost) else weight for name, weight in weights.items()}


def rotated_wrongly(weights: Weights) -> Weights:
    """Queries and keys with RoPE's pairs in the order of Meta's files."""
    return each("q_proj", pairs_side_by_side)(each("k_proj", pairs_side_by_side)(weights))


ROUNDINGS: dict[str, Change] = {
    "float32": lambda weights: weights,
    "float16": each(".weight", lambda weight: weight.half().float()),
    "bfloat16": each(".weight", lambda weight: weight.bfloat16().float()),
    "int4": matrices(to_int4),
}

BREAKAGES: dict[str, Change] = {
    "RoPE base lost": each("inv_freq", default_rope_base),
    "RoPE pairs in the wrong order": rotated_wrongly,
    "key heads in the wrong order": each("k_proj", heads_reversed),
    "attention not scaled": each("q_proj", lambda weight: weight * HEAD_SIZE**0.5),
    "gate and up swapped": gate_and_up_swapped,
    "embedding used as output layer": tied,
    "last layer lost": last_layer_lost,
    "norms lost": each("norm", torch.ones_like),
}
