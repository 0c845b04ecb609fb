"""What a plan estimates before anything runs: whether GPU, host and disk are large enough.

These are estimates, so each finding is a warning with its figures, which a spec can accept (`force`). The disk is
looked at once it is known which steps are done (`disk_findings`).
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import NamedTuple

from enginery.backends import Request, chosen_release, own_length
from enginery.core.text import human_bytes
from enginery.sources import ModelFacts
from enginery.spec import DEFAULT_BATCH, BackendName, Finding, Precision, gpus, warning

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5}
"""Bytes of one number, by the name of its format."""
WEIGHT_BYTES = {
    Precision.FLOAT32: 4.0,
    Precision.FLOAT16: 2.0,
    Precision.BFLOAT16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1.0,
    Precision.INT8_SMOOTHQUANT: 1.0,
    Precision.INT8_WEIGHT_ONLY: 1.0,
    Precision.INT4: 0.5 + 2 / 32,
    Precision.INT4_WEIGHT_ONLY: 0.5,
    Precision.INT4_AWQ: 0.5 + 2 / 128,
    Precision.W4A8_AWQ: 0.5 + 2 / 128,
    Precision.NVFP4: 0.5 + 1 / 16,
}
"""Bytes of one weight with its share of the scales: int4 has one of 2 bytes for each block, nvfp4 one byte for 16."""
FLOATS = frozenset({Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16})
DEFAULT_MAX_NUM_TOKENS = 8192
"""What most releases take at once when the spec does not say."""
ONNXRUNTIME_BATCH = 8
"""Requests in a batch with `onnxruntime`, where the spec does not say."""
GB = 10**9
RESERVED = 1.0 * GB
"""What the CUDA context and the libraries take of each GPU."""
MOST_GPUS = 64
WORTH_TELLING = 10**9
"""Bytes below which nobody needs to be told."""
__all__ = ["estimate_findings", "estimate_notes"]


class Need(NamedTuple):
    """Bytes on each GPU; `sequence` is the KV cache of one sequence of the greatest length."""

    weights: float
    activations: float
    sequence: float

    @property
    def total(self) -> float:
        """The least with which one request of the greatest length can be answered."""
        return self.weights + self.activations + self.sequence + RESERVED


def estimate_findings(request: Request, *, here: bool) -> Iterator[Finding]:
    """What is too small for a target; `here` says whether it is built on this machine."""
    yield from gpu_memory_findings(request)
    yield from host_memory_findings(request, here=here)


def estimate_notes(request: Request, *, here: bool) -> Iterator[str]:
    """What a target will take, as far as it is worth telling."""
    yield from gpu_memory_note(request)
    yield from host_memory_note(request, here=here)


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


def host_memory_findings(request: Request, *, here: bool) -> Iterator[Finding]:
    """Warn when this machine would run out of memory; `here` says whether the target is built on it."""
    if request.model is None or not here or _serves_as_it_is(request):
        return
    need, total = host_bytes(request, request.model), memory_bytes()
    if need > total:
        problem = f"converting takes about {human_bytes(need)} of host memory; this machine has {human_bytes(total)}"
        yield warning("W202", "precision", problem, "run it on a machine with more memory")


def host_memory_note(request: Request, *, here: bool) -> Iterator[str]:
    """What the machine that converts must have, where that is another one."""
    if request.model is None or here or _serves_as_it_is(request):
        return
    need = host_bytes(request, request.model)
    if need > WORTH_TELLING:
        yield f"converting takes about {human_bytes(need)} of host memory"


def parameter_count(model: ModelFacts) -> int:
    """How many numbers the weights are: from their files where these are plain, else from the shape."""
    if model.weight_bytes and model.dtype in BYTES and not model.quantization:
        return int(model.weight_bytes / BYTES[model.dtype])
    return model.parameters


def weight_bytes(model: ModelFacts, precision: Precision) -> float:
    """Bytes of all weights in a precision. Quantized models keep their embeddings in 16 bits."""
    count = parameter_count(model)
    if precision in FLOATS:
        return count * WEIGHT_BYTES[precision]
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    return embeddings * 2.0 + max(0, count - embeddings) * WEIGHT_BYTES[precision]


def kv_bytes_per_token(request: Request, model: ModelFacts) -> float:
    """Bytes of the KV cache that one token takes on each GPU."""
    layers = -(-model.layers // request.target.pipeline_parallel)
    heads = max(1, -(-model.kv_heads // request.target.tensor_parallel))
    return 2.0 * layers * heads * model.head_size * _kv_number_bytes(request)


def longest_sequence(request: Request, model: ModelFacts) -> int:
    """Tokens of the longest sequence; where the spec does not say, the release's default or the model's own limit."""
    options = request.build
    if options.max_seq_len:
        return options.max_seq_len
    if options.max_output_len:
        return (options.max_input_len or 1024) + options.max_output_len
    if engine := _engine_length(request):
        return engine
    asked = request.llm.get("max_seq_len")
    return asked if isinstance(asked, int) else model.max_positions


def activation_bytes(request: Request, model: ModelFacts) -> float:
    """Bytes that one pass takes besides: hidden states, one feed-forward layer, and the logits of a batch."""
    tokens = request.build.max_num_tokens or DEFAULT_MAX_NUM_TOKENS
    wide = 4 * model.hidden_size + 2 * model.intermediate_size / request.target.tensor_parallel
    return 2.0 * tokens * wide + 4.0 * _batch(request) * model.vocab_size


def need_of(request: Request, model: ModelFacts) -> Need:
    """What the target takes of each of its GPUs."""
    return Need(
        weights=weight_bytes(model, request.target.precision) / request.world_size,
        activations=activation_bytes(request, model),
        sequence=kv_bytes_per_token(request, model) * longest_sequence(request, model),
    )


def host_bytes(request: Request, model: ModelFacts) -> float:
    """Host memory that a conversion takes at its height: the model as it is loaded, and one rank of the result."""
    loaded = weight_bytes(model, _loaded_as(model, request.target.precision))
    return loaded + weight_bytes(model, request.target.precision) / request.world_size


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kv_number_bytes(request: Request) -> float:
    asked, precision = request.convert.kv_cache, request.target.precision
    if asked != "auto":
        return BYTES[asked]
    if precision in {Precision.FP8, Precision.NVFP4}:
        return BYTES["fp8"]
    return BYTES["float32"] if precision is Precision.FLOAT32 else 2.0


def _engine_length(request: Request) -> int:
    """What a release builds an engine for by itself; 0 where that is the model's own limit, or there is no engine."""
    if request.target.backend not in {BackendName.TENSORRT, BackendName.AUTO}:
        return 0

    release = chosen_release(request.target.release)
    return own_length(request.build, release) if release else 0


def _batch(request: Request) -> int:
    said = (request.build.max_batch_size, request.serving.max_batch_size, request.llm.get("max_batch_size"))
    own = ONNXRUNTIME_BATCH if request.target.backend is BackendName.ONNXRUNTIME else DEFAULT_BATCH
    return next((size for size in said if isinstance(size, int)), own)


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


def _serves_as_it_is(request: Request) -> bool:
    """Whether nothing is converted: backend `pytorch` serves plain weights as they are."""
    return request.target.backend is BackendName.PYTORCH and request.target.precision in FLOATS


def _loaded_as(model: ModelFacts, precision: Precision) -> Precision:
    """Converters load a model in the format of the result, and in its own one to quantize it."""
    if precision in FLOATS:
        return precision
    return Precision(model.dtype) if model.dtype in set(FLOATS) else Precision.BFLOAT16
