"""How large a model's parts are, from its shape alone."""

from enginery.backends.request import Request
from enginery.model_facts import ModelFacts
from enginery.spec import BackendName, Precision
from enginery.spec_serving import DEFAULT_BATCH

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


def _kv_number_bytes(request: Request) -> float:
    asked, precision = request.convert.kv_cache, request.target.precision
    if asked != "auto":
        return BYTES[asked]
    if precision in {Precision.FP8, Precision.NVFP4}:
        return BYTES["fp8"]
    return BYTES["float32"] if precision is Precision.FLOAT32 else 2.0


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


def _engine_length(request: Request) -> int:
    """What a release builds an engine for by itself; 0 where that is the model's own limit, or there is no engine."""
    if request.target.backend not in {BackendName.TENSORRT, BackendName.AUTO}:
        return 0
    from enginery.backends.tensorrt.build_defaults import own_length  # noqa: PLC0415  only engines need it
    from enginery.backends.tensorrt.release_choice import chosen_release  # noqa: PLC0415

    release = chosen_release(request.target.release)
    return own_length(request.build, release) if release else 0


def activation_bytes(request: Request, model: ModelFacts) -> float:
    """Bytes that one pass takes besides: hidden states, one feed-forward layer, and the logits of a batch."""
    tokens = request.build.max_num_tokens or DEFAULT_MAX_NUM_TOKENS
    wide = 4 * model.hidden_size + 2 * model.intermediate_size / request.target.tensor_parallel
    return 2.0 * tokens * wide + 4.0 * _batch(request) * model.vocab_size


def _batch(request: Request) -> int:
    said = (request.build.max_batch_size, request.serving.max_batch_size, request.llm.get("max_batch_size"))
    own = ONNXRUNTIME_BATCH if request.target.backend is BackendName.ONNXRUNTIME else DEFAULT_BATCH
    return next((size for size in said if isinstance(size, int)), own)
