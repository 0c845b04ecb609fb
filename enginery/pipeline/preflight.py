"""Estimates before anything runs: whether the memory of the GPU and of the machine is large enough.

They are only estimates. So each finding is a warning with its figures, and a spec can accept it (`force`). A plan may
run on another machine than the one that makes it. So only targets that are built on this machine get warnings about
its memory; for other targets a note says how much they need. The disk is checked later (`run.disk_findings`).
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from enginery.backends import Request
from enginery.core.late import late
from enginery.core.text import human_bytes
from enginery.models import ModelFacts
from enginery.spec import DEFAULT_BATCH, BackendName, Finding, Precision, gpus, warning

if TYPE_CHECKING:
    from enginery import backends
else:
    backends = late("enginery.backends")

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
"""Bytes of one weight with its share of the scales: 2 bytes for each block of int4, one for 16 weights of nvfp4."""
FLOATS = frozenset({Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16})
DEFAULT_MAX_NUM_TOKENS = 8192
"""The limit of tokens in a batch that most releases use when the spec sets none."""
ONNXRUNTIME_BATCH = 8
"""Requests in a batch with `onnxruntime` when the spec sets no number."""
GB = 10**9
RESERVED = 1.0 * GB
"""Bytes that the CUDA context and the libraries take on each GPU."""
MAX_GPUS = 64
MIN_NOTED_BYTES = 10**9
"""A smaller need of host memory gets no note."""


class Need(NamedTuple):
    """Bytes on each GPU; `sequence` is the KV cache of one sequence of maximum length."""

    weights: float
    activations: float
    sequence: float

    @property
    def total(self) -> float:
        """The memory that one request of maximum length needs."""
        return self.weights + self.activations + self.sequence + RESERVED


def estimate_findings(request: Request, *, local: bool) -> Iterator[Finding]:
    """Warnings about too little memory for a target; `local` says whether it is built on this machine."""
    if request.model is None:
        return
    if _can_estimate(request, request.model):
        yield from _gpu_memory_findings(request, request.model)
    need, total = host_bytes(request, request.model), memory_bytes()
    if local and need > total:
        problem = f"converting takes about {human_bytes(need)} of host memory; this machine has {human_bytes(total)}"
        yield warning("W202", "precision", problem, "run it on a machine with more memory")


def estimate_notes(request: Request, *, local: bool) -> Iterator[str]:
    """Notes on how much memory a target takes; `local` says whether it is built on this machine."""
    if request.model is None:
        return
    if _can_estimate(request, request.model):
        yield from _gpu_memory_note(request, request.model)
    need = host_bytes(request, request.model)
    if not local and need > MIN_NOTED_BYTES:
        yield f"converting takes about {human_bytes(need)} of host memory"


def _gpu_memory_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    """Warn when the engine cannot run one request of maximum length on the target's GPU."""
    need, memory = need_of(request, model), request.gpu.memory_gb * GB
    if need.total > memory:
        problem = (
            f"about {human_bytes(need.total)} are needed on each GPU (weights {human_bytes(need.weights)}, activations "
            f"{human_bytes(need.activations)}, KV cache of one sequence of {longest_sequence(request, model)} tokens "
            f"{human_bytes(need.sequence)}); {request.gpu.name} has {human_bytes(memory)}"
        )
        yield warning("W201", "tensor_parallel", problem, _remedy(request, model))


def _gpu_memory_note(request: Request, model: ModelFacts) -> Iterator[str]:
    """How much KV cache fits into the GPU's memory."""
    need = need_of(request, model)
    fraction = request.serving.kv_cache_free_gpu_mem_fraction or 0.9
    free = (request.gpu.memory_gb * GB - need.weights - need.activations - RESERVED) * fraction
    if free > need.sequence > 0:
        tokens = int(free / kv_bytes_per_token(request, model))
        longest = longest_sequence(request, model)
        taken = f"weights {human_bytes(need.weights)}, activations {human_bytes(need.activations)}"
        yield (
            f"estimated for each GPU: {taken}, "
            f"KV cache {human_bytes(free)} for {tokens:,} tokens ({tokens // longest:,} sequences of {longest:,})"
        )


def parameter_count(model: ModelFacts) -> int:
    """How many weights the model has: from the size of their files, or for a quantized model from its shape."""
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
    """The maximum number of tokens in a sequence: from the spec, else the release's default, else the model's limit."""
    options = request.build
    if options.max_seq_len:
        return options.max_seq_len
    if options.max_output_len:
        return (options.max_input_len or 1024) + options.max_output_len
    if engine := _engine_length(request):
        return engine
    in_spec = request.llm.get("max_seq_len")
    return in_spec if isinstance(in_spec, int) else model.max_positions


def activation_bytes(request: Request, model: ModelFacts) -> float:
    """Bytes of activations in one forward pass: hidden states, one feed-forward layer, and the logits of a batch."""
    tokens = request.build.max_num_tokens or DEFAULT_MAX_NUM_TOKENS
    wide = 4 * model.hidden_size + 2 * model.intermediate_size / request.target.tensor_parallel
    return 2.0 * tokens * wide + 4.0 * _batch(request) * model.vocab_size


def need_of(request: Request, model: ModelFacts) -> Need:
    """The memory that the target takes on each of its GPUs."""
    return Need(
        weights=weight_bytes(model, request.target.precision) / request.world_size,
        activations=activation_bytes(request, model),
        sequence=kv_bytes_per_token(request, model) * longest_sequence(request, model),
    )


def host_bytes(request: Request, model: ModelFacts) -> float:
    """Host memory that a conversion takes at most: the model as it is loaded, and one rank of the result.

    It is 0 if nothing is converted: the backend `pytorch` serves unquantized weights as they are. A converter loads the
    model in the format of the result. To quantize it, the converter loads it in the model's own format.
    """
    precision = loaded = request.target.precision
    if precision not in FLOATS:
        loaded = Precision(model.dtype) if model.dtype in set(FLOATS) else Precision.BFLOAT16
    elif request.target.backend is BackendName.PYTORCH:
        return 0.0
    return weight_bytes(model, loaded) + weight_bytes(model, precision) / request.world_size


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kv_number_bytes(request: Request) -> float:
    kind, precision = request.convert.kv_cache, request.target.precision
    if kind != "auto":
        return BYTES[kind]
    if precision in {Precision.FP8, Precision.NVFP4}:
        return BYTES["fp8"]
    return BYTES["float32"] if precision is Precision.FLOAT32 else 2.0


def _engine_length(request: Request) -> int:
    """The release's default for an engine's maximum length; 0 if that is the model's limit, or no engine is built."""
    if request.target.backend not in {BackendName.TENSORRT, BackendName.AUTO}:
        return 0
    release = backends.chosen_release(request.target.release)
    return backends.default_length(request.build, release) if release else 0


def _batch(request: Request) -> int:
    sizes = (request.build.max_batch_size, request.serving.max_batch_size, request.llm.get("max_batch_size"))
    own = ONNXRUNTIME_BATCH if request.target.backend is BackendName.ONNXRUNTIME else DEFAULT_BATCH
    return next((size for size in sizes if isinstance(size, int)), own)


def _can_estimate(request: Request, model: ModelFacts) -> bool:
    return bool(model.layers and model.hidden_size and request.gpu != gpus.CPU and request.gpu.memory_gb)


def _remedy(request: Request, model: ModelFacts) -> str:
    target, ranks = request.target, request.target.tensor_parallel
    while ranks < MAX_GPUS:
        ranks *= 2
        wider = request.target.model_copy(update={"tensor_parallel": ranks})
        if need_of(dataclasses.replace(request, target=wider), model).total <= request.gpu.memory_gb * GB:
            return f"use tensor_parallel: {ranks}, a precision with fewer bits than {target.precision}, or a larger GPU"
    return "use a precision with fewer bits, a smaller build.max_seq_len or a larger GPU"
