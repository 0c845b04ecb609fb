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
from enginery.models import PLAUSIBLE, ModelFacts, cached_numbers, has_shape, parameter_count, weights_of
from enginery.spec import DEFAULT_BATCH, FLOATS, BackendName, Finding, Precision, gpus, warning

if TYPE_CHECKING:
    from enginery import backends
else:
    backends = late("enginery.backends")

CACHE_BYTES = {"float32": 4.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5 + 1 / 16}
"""Bytes of one number in the KV cache, by the name of its format; 2 for others."""
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
    elif request.gpu != gpus.CPU:
        yield "the GPU memory that it takes was not estimated: the shape of the model is not known"
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
        longest = longest_sequence(request, model)
        tokens = int(free / need.sequence * longest)
        taken = f"weights {human_bytes(need.weights)}, activations {human_bytes(need.activations)}"
        how = "estimated" if model.gated is not None else "estimated roughly, as the model's class is not known,"
        yield (
            f"{how} for each GPU: {taken}, "
            f"KV cache {human_bytes(free)} for {tokens:,} tokens ({tokens // longest:,} sequences of {longest:,})"
        )


def weight_bytes(model: ModelFacts, precision: Precision) -> float:
    """Bytes of all weights in a precision.

    A model that is quantized already is served as it is. So its files say it, unless they are far too small to be the
    whole model. Quantized models keep their embeddings, routers and norms in 16 bits.
    """
    count, kept = parameter_count(model), weights_of(model).kept
    if precision in FLOATS:
        return count * WEIGHT_BYTES[precision]
    estimated = kept * 2.0 + max(0, count - kept) * WEIGHT_BYTES[precision]
    return model.weight_bytes if model.quantization and model.weight_bytes >= PLAUSIBLE * estimated else estimated


def kv_cache_bytes(request: Request, model: ModelFacts, tokens: int) -> float:
    """Bytes of the KV cache that one sequence takes on each GPU."""
    target = request.target
    numbers = cached_numbers(model, tokens, gpus=target.tensor_parallel, stages=target.pipeline_parallel)
    return numbers * _kv_number_bytes(request, model)


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
    inner = max(model.intermediate_size, model.moe_intermediate_size * model.experts_per_token)
    wide = 4 * model.hidden_size + 2 * inner / request.target.tensor_parallel
    return 2.0 * tokens * wide + 4.0 * _batch(request) * model.vocab_size


def need_of(request: Request, model: ModelFacts) -> Need:
    """The memory that the target takes on each of its GPUs."""
    return Need(
        weights=weight_bytes(model, request.target.precision) / request.world_size,
        activations=activation_bytes(request, model),
        sequence=kv_cache_bytes(request, model, longest_sequence(request, model)),
    )


def host_bytes(request: Request, model: ModelFacts) -> float:
    """Host memory that a conversion takes at most: the model as it is loaded, and one rank of the result.

    It is 0 if nothing is converted: the backend `pytorch` serves plain weights as they are, and those that are
    quantized already. A converter loads the model in the format of the result. To quantize it, the converter loads it
    in the model's own format.
    """
    precision = loaded = request.target.precision
    if request.target.backend is BackendName.PYTORCH and model.quantization:
        return 0.0
    if precision not in FLOATS:
        loaded = Precision(model.dtype) if model.dtype in FLOATS else Precision.BFLOAT16
    elif request.target.backend is BackendName.PYTORCH:
        return 0.0
    return weight_bytes(model, loaded) + weight_bytes(model, precision) / request.world_size


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kv_number_bytes(request: Request, model: ModelFacts) -> float:
    """Bytes of one number in the KV cache. A model that is quantized already says itself whether its cache is, too."""
    precision = request.target.precision
    kind: str = request.convert.kv_cache
    if kind == "auto" and model.quantization:
        kind = str(model.quantization.get("kv_cache_quant_algo") or "").lower()
    elif kind == "auto":
        kind = "fp8" if precision in {Precision.FP8, Precision.NVFP4} else str(precision)
    return CACHE_BYTES.get(kind, 2.0)


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
    return bool(has_shape(model) and request.gpu != gpus.CPU and request.gpu.memory_gb)


def _remedy(request: Request, model: ModelFacts) -> str:
    target, ranks = request.target, request.target.tensor_parallel
    while ranks < MAX_GPUS:
        ranks *= 2
        wider = request.target.model_copy(update={"tensor_parallel": ranks})
        if need_of(dataclasses.replace(request, target=wider), model).total <= request.gpu.memory_gb * GB:
            return f"use tensor_parallel: {ranks}, a precision with fewer bits than {target.precision}, or a larger GPU"
    return "use a precision with fewer bits, a smaller build.max_seq_len or a larger GPU"
