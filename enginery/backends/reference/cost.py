"""What a reference costs, before anything runs: memory and time, from the model's shape and measured rates.

The rates were measured with models of 135 million and 1.1 billion weights, on 2 and 16 cores and on an H200. They are
for the order of magnitude: other machines differ by a factor of three.
"""

import os
from typing import NamedTuple

from enginery.backends.reference.recipe import WINDOW
from enginery.backends.request import Request
from enginery.core.text import human_bytes
from enginery.models import ModelFacts, parameter_count, weights_of
from enginery.spec import gpus

CORE_OPERATIONS = 60e9
"""Operations per second of one core in float32, over whole texts."""
GPU_OPERATIONS = 60e12
"""Operations per second of a GPU in 16 bits; small models reach less, but they take only seconds."""
CORE_BYTES, HOST_BYTES, GPU_BYTES, DISK_BYTES = 6e9, 100e9, 600e9, 1e9
"""Bytes of weights per second when one token is made after the other: by one core, by all cores together at most, by a
GPU, and from a disk."""
LAYER_SECONDS = 1e-3
"""To start the work of one layer for one token, however small it is."""
FIXED_SECONDS = 6.0
"""To start Python, PyTorch and transformers."""
FIXED_BYTES = 0.4e9
WORKING = 1.15
COPIES = 3
"""Copies of the logits of one window, which are in memory at the same time."""
OPERATIONS = 2
"""A multiplication and an addition, for each weight and token."""
FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GB = 10**9


class Cost(NamedTuple):
    """An estimate.

    Attributes:
        device: `GPU` or `CPU`.
        dtype: the number format.
        memory: bytes.
        seconds: how long it takes.
        offloaded: whether the weights do not fit, and are read from disk layer by layer.
    """

    device: str
    dtype: str
    memory: float
    seconds: float
    offloaded: bool


def reference_cost(request: Request) -> str:
    """What a target's reference costs, in a sentence; empty if the spec wants none, or the model's shape is unknown."""
    options, model = request.validation.reference, request.model
    parameters = parameter_count(model) if model else 0
    if options.use != "weights" or model is None or not parameters:
        return ""
    texts, answers = options.max_tokens, answer_tokens(request)
    cost = estimate(request, model)
    where = "on a GPU" if cost.device == "GPU" else f"on a CPU with {cores()} cores"
    slow = ", read from disk layer by layer because it does not fit into memory" if cost.offloaded else ""
    return (
        f"reference: up to {texts:,} tokens of texts and {answers:,} of answers through {short_count(parameters)}"
        f" parameters in {cost.dtype} {where}{slow}: about {human_bytes(cost.memory)} and {_duration(cost.seconds)}"
    )


def estimate(request: Request, model: ModelFacts, memory: float | None = None) -> Cost:
    """The memory and the time of a target's reference.

    Args:
        request: the target.
        model: the model.
        memory: bytes of memory of the machine that runs it; None for those of this machine.
    """
    host = machine_memory() if memory is None else memory
    on_gpu, dtype = _place(request, model, host)
    room = request.gpu.memory_gb * GB if on_gpu else host
    weights = parameter_count(model) * FLOAT_BYTES[dtype]
    offloaded = weights * WORKING > room
    loaded = min(weights, room / 2) if offloaded else weights
    logits = COPIES * FLOAT_BYTES["float32"] * WINDOW * model.vocab_size
    seconds = FIXED_SECONDS + weights / DISK_BYTES + _texts_seconds(request, model, on_gpu=on_gpu)
    seconds += _passes_seconds(request, model, weights, on_gpu=on_gpu, offloaded=offloaded)
    return Cost("GPU" if on_gpu else "CPU", dtype, loaded * WORKING + logits + FIXED_BYTES, seconds, offloaded)


def _place(request: Request, model: ModelFacts, host: float) -> tuple[bool, str]:
    """Whether the weights run on a GPU, and their number format. `host` is the memory of the machine."""
    options = request.validation.reference
    own = model.dtype if model.dtype in FLOAT_BYTES else "bfloat16"
    on_gpu, on_cpu = (own, "float32") if options.dtype == "auto" else (options.dtype, options.dtype)
    if options.device == "cpu" or request.gpu == gpus.CPU:
        return False, on_cpu
    needs = {dtype: parameter_count(model) * FLOAT_BYTES[dtype] * WORKING for dtype in (on_gpu, on_cpu)}
    only_cpu = needs[on_gpu] > request.gpu.memory_gb * GB and needs[on_cpu] <= host
    return (False, on_cpu) if only_cpu and options.device == "auto" else (True, on_gpu)


def _texts_seconds(request: Request, model: ModelFacts, *, on_gpu: bool) -> float:
    """The time to predict all tokens, whole windows at once."""
    tokens = request.validation.reference.max_tokens + answer_tokens(request)
    operations = OPERATIONS * active_parameters(model) * tokens
    return operations / (GPU_OPERATIONS if on_gpu else CORE_OPERATIONS * cores())


def _passes_seconds(request: Request, model: ModelFacts, weights: float, *, on_gpu: bool, offloaded: bool) -> float:
    """The time to make the answers token by token. From disk, all weights are read for each token and each batch."""
    if offloaded:
        return (longest_answer(request) + request.validation.reference.max_tokens // WINDOW) * weights / DISK_BYTES
    rate = GPU_BYTES if on_gpu else min(HOST_BYTES, CORE_BYTES * cores())
    read = weights * active_parameters(model) / max(1, parameter_count(model))
    return answer_tokens(request) * (read / rate + model.layers * LAYER_SECONDS)


def answer_tokens(request: Request) -> int:
    """The tokens of all answers together, at most."""
    validation = request.validation
    return sum(prompt.max_tokens or validation.max_tokens for prompt in validation.prompts)


def longest_answer(request: Request) -> int:
    """The tokens of the longest answer, at most."""
    validation = request.validation
    return max((prompt.max_tokens or validation.max_tokens for prompt in validation.prompts), default=0)


def active_parameters(model: ModelFacts) -> float:
    """How many weights a token goes through: of a mixture of experts, only the chosen ones."""
    weights, total = weights_of(model), parameter_count(model)
    if not (model.experts and weights.experts and weights.total):
        return total
    chosen = weights.experts * min(1.0, model.experts_per_token / model.experts)
    return total * (weights.total - weights.experts + chosen) / weights.total


def cores() -> int:
    """The cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> float:
    """The memory of this machine in bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def short_count(count: float) -> str:
    """A number of weights for people, such as `135M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004  below this, seconds are easier to read than minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"  # noqa: PLR2004
