"""What a reference costs, before anything runs: memory and time, from the model's shape and measured rates.

The rates were measured with SmolLM2-135M-Instruct in float32 on cores of an Intel Xeon of 2022 (docs/trust.md). They
are for the order of magnitude: other processors differ by a factor of three.
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
CPU_BYTES, GPU_BYTES, DISK_BYTES = 12e9, 600e9, 1e9
"""Bytes per second that weights are read with, token by token: from memory, from a GPU's memory, from a disk."""
FIXED_SECONDS = 6.0
"""To start Python, PyTorch and transformers."""
FIXED_BYTES = 0.4e9
WORKING = 1.15
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
    options, total = request.validation.reference, parameter_count(model)
    on_gpu = options.device != "cpu" and request.gpu != gpus.CPU
    own = model.dtype if model.dtype in FLOAT_BYTES else "bfloat16"
    dtype = options.dtype if options.dtype != "auto" else (own if on_gpu else "float32")
    if on_gpu and options.device == "auto" and not _fits(total, dtype, request.gpu.memory_gb * GB):
        on_gpu, dtype = False, options.dtype if options.dtype != "auto" else "float32"
    room = request.gpu.memory_gb * GB if on_gpu else (machine_memory() if memory is None else memory)
    weights, offloaded = total * FLOAT_BYTES[dtype], not _fits(total, dtype, room)
    operations = OPERATIONS * active_parameters(model) * (options.max_tokens + answer_tokens(request))
    reading = DISK_BYTES if offloaded else (GPU_BYTES if on_gpu else CPU_BYTES)
    passes = longest_answer(request) + options.max_tokens // WINDOW if offloaded else answer_tokens(request)
    active = 1 if offloaded else active_parameters(model) / total
    seconds = (
        operations / (GPU_OPERATIONS if on_gpu else CORE_OPERATIONS * cores()) + passes * weights * active / reading
    )
    working = (
        min(weights, room / 2 if offloaded else weights) * WORKING + FIXED_BYTES + 3 * 4 * WINDOW * model.vocab_size
    )
    return Cost("GPU" if on_gpu else "CPU", dtype, working, FIXED_SECONDS + weights / DISK_BYTES + seconds, offloaded)


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


def _fits(parameters: int, dtype: str, room: float) -> bool:
    return parameters * FLOAT_BYTES[dtype] * WORKING <= room


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
