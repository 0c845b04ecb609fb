"""Whether weights, KV cache and activations fit into the memory of the GPU."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from enginery import gpus
from enginery.backends.request import Request
from enginery.findings import Finding, warning
from enginery.model_facts import ModelFacts
from enginery.preflight.sizes import activation_bytes, kv_bytes_per_token, longest_sequence, weight_bytes
from enginery.units import human_bytes

GB = 10**9
RESERVED = 1.0 * GB
"""What the CUDA context and the libraries take of each GPU."""
MOST_GPUS = 64


class Need(NamedTuple):
    """Bytes on each GPU; `sequence` is the KV cache of one sequence of the greatest length."""

    weights: float
    activations: float
    sequence: float

    @property
    def total(self) -> float:
        """The least with which one request of the greatest length can be answered."""
        return self.weights + self.activations + self.sequence + RESERVED


def gpu_memory_findings(request: Request) -> Iterator[Finding]:
    """Warn when the engine cannot run one request of the greatest length on the target's GPU."""
    model, memory = request.model, request.gpu.memory_gb * GB
    if not _can_tell(request) or model is None:
        return
    need = need_of(request, model)
    if need.total <= memory:
        return
    has = f"{request.gpu.name} has {human_bytes(memory)}"
    parts = (
        f"weights {human_bytes(need.weights)}, activations {human_bytes(need.activations)}, KV cache of one sequence "
        f"of {longest_sequence(request, model)} tokens {human_bytes(need.sequence)}"
    )
    problem = f"about {human_bytes(need.total)} are needed on each GPU ({parts}); {has}"
    yield warning("W201", "tensor_parallel", problem, _remedy(request, model))


def gpu_memory_note(request: Request) -> Iterator[str]:
    """How much KV cache the GPU has room for."""
    model = request.model
    if not _can_tell(request) or model is None:
        return
    need = need_of(request, model)
    fraction = request.serving.kv_cache_free_gpu_mem_fraction or 0.9
    room = (request.gpu.memory_gb * GB - need.weights - need.activations - RESERVED) * fraction
    if room > need.sequence > 0:
        tokens = int(room / kv_bytes_per_token(request, model))
        longest = longest_sequence(request, model)
        taken = f"weights {human_bytes(need.weights)}, activations {human_bytes(need.activations)}"
        yield (
            f"estimated for each GPU: {taken}, "
            f"KV cache {human_bytes(room)} for {tokens:,} tokens ({tokens // longest:,} sequences of {longest:,})"
        )


def need_of(request: Request, model: ModelFacts) -> Need:
    """What the target takes of each of its GPUs."""
    return Need(
        weights=weight_bytes(model, request.target.precision) / request.world_size,
        activations=activation_bytes(request, model),
        sequence=kv_bytes_per_token(request, model) * longest_sequence(request, model),
    )


def _can_tell(request: Request) -> bool:
    model = request.model
    return bool(model and model.layers and model.hidden_size and request.gpu != gpus.CPU and request.gpu.memory_gb)


def _remedy(request: Request, model: ModelFacts) -> str:
    target, ranks = request.target, request.target.tensor_parallel
    while ranks < MOST_GPUS:
        ranks *= 2
        wider = request.target.model_copy(update={"tensor_parallel": ranks})
        if need_of(dataclasses.replace(request, target=wider), model).total <= request.gpu.memory_gb * GB:
            return f"use tensor_parallel: {ranks}, a precision with fewer bits than {target.precision}, or a larger GPU"
    return "use a precision with fewer bits, a smaller build.max_seq_len or a larger GPU"
