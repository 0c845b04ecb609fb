"""The five `config.pbtxt`, made with Triton's own message and text format.

Tensor names, types and shapes are those of NVIDIA's model repository; `tensorrt_llm` has `context_ids` besides, which
streamed text needs. Inputs of NVIDIA's that this backend does not have (prompt tables, LoRA, drafts, guides) are left
out: Triton or our models refuse them by name.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from enginery.errors import UsageError
from enginery.spec import ServingOptions
from enginery.triton.models import wiring

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # type: ignore[import-untyped]

STRING, INT32, UINT64, FP32, BOOL = "TYPE_STRING", "TYPE_INT32", "TYPE_UINT64", "TYPE_FP32", "TYPE_BOOL"


class Tensor(NamedTuple):
    """An input or output: `shape` is without the batch, -1 is any length; `ragged` may differ within a batch."""

    name: str
    kind: str
    shape: tuple[int, ...] = (1,)
    optional: bool = True
    ragged: bool = False


SAMPLING_TYPES = {
    "end_id": INT32,
    "pad_id": INT32,
    "top_k": INT32,
    "top_p": FP32,
    "temperature": FP32,
    "length_penalty": FP32,
    "repetition_penalty": FP32,
    "min_length": INT32,
    "min_tokens": INT32,
    "presence_penalty": FP32,
    "frequency_penalty": FP32,
    "random_seed": UINT64,
    "seed": UINT64,
    "return_log_probs": BOOL,
    "return_context_logits": BOOL,
    "return_generation_logits": BOOL,
    "beam_width": INT32,
    "exclude_input_in_output": BOOL,
    "stream": BOOL,
}
"""What a client may say besides the text; `wiring.TO_ENGINE` has the engine's names for it."""

ASKED = (
    Tensor("text_input", STRING, optional=False),
    Tensor("max_tokens", INT32, optional=False),
    Tensor("bad_words", STRING, (-1,)),
    Tensor("stop_words", STRING, (-1,)),
    *(Tensor(name, kind) for name, kind in SAMPLING_TYPES.items()),
)
LOG_PROBS = (Tensor("cum_log_probs", FP32, (-1,)), Tensor("output_log_probs", FP32, (-1, -1)))
ANSWERED = (Tensor("text_output", STRING, (-1,)), *LOG_PROBS)

INPUTS = {
    "preprocessing": (
        Tensor("QUERY", STRING, optional=False),
        Tensor("REQUEST_OUTPUT_LEN", INT32, optional=False),
        Tensor("BAD_WORDS_DICT", STRING, (-1,)),
        Tensor("STOP_WORDS_DICT", STRING, (-1,)),
    ),
    "tensorrt_llm": (
        Tensor("input_ids", INT32, (-1,), optional=False, ragged=True),
        Tensor("input_lengths", INT32, optional=False),
        Tensor("request_output_len", INT32, optional=False),
        Tensor("stop_words_list", INT32, (2, -1), ragged=True),
        Tensor("bad_words_list", INT32, (2, -1), ragged=True),
        *(Tensor(wiring.TO_ENGINE[name], kind) for name, kind in SAMPLING_TYPES.items()),
    ),
    "postprocessing": (
        Tensor("TOKENS_BATCH", INT32, (-1, -1), optional=False),
        Tensor("SEQUENCE_LENGTH", INT32, (-1,), optional=False),
        Tensor("CONTEXT_IDS", INT32, (-1,)),
    ),
    "tensorrt_llm_bls": ASKED,
    "ensemble": ASKED,
}
OUTPUTS = {
    "preprocessing": (
        Tensor("INPUT_ID", INT32, (-1,)),
        Tensor("REQUEST_INPUT_LEN", INT32),
        Tensor("REQUEST_OUTPUT_LEN", INT32),
        Tensor("BAD_WORDS_IDS", INT32, (2, -1)),
        Tensor("STOP_WORDS_IDS", INT32, (2, -1)),
    ),
    "tensorrt_llm": (
        Tensor("output_ids", INT32, (-1, -1)),
        Tensor("sequence_length", INT32, (-1,)),
        *LOG_PROBS,
        Tensor("context_ids", INT32, (-1,)),
    ),
    "postprocessing": (Tensor("OUTPUT", STRING, (-1,)),),
    "tensorrt_llm_bls": ANSWERED,
    "ensemble": ANSWERED,
}
MODELS = tuple(INPUTS)
"""The five, each after those it asks."""
MAX_BATCH_SIZE = 8
"""Where the spec says nothing of it."""


def model_config(name: str, serving: ServingOptions, provider: str, labels: Mapping[str, str]) -> "ModelConfig":
    """The configuration of one of the five models.

    Args:
        name: one of `MODELS`.
        serving: how it is to be served.
        provider: `cpu` or `cuda`.
        labels: written as parameters.
    """
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # noqa: PLC0415  heavy, and a plan needs none of it

    config = ModelConfig(name=name, max_batch_size=serving.max_batch_size or MAX_BATCH_SIZE)
    _add_tensors(config, name)
    if name == "ensemble":
        config.platform = "ensemble"
        _add_steps(config)
    else:
        config.backend = "python"
        _add_instances(config, name, serving, provider)
        _add_batching(config, name, serving)
    for key, value in (_parameters(name, serving, provider) | dict(labels)).items():
        config.parameters[key].string_value = value
    return config


def to_text(config: "ModelConfig") -> str:
    """The content of `config.pbtxt`."""
    from google.protobuf import text_format  # noqa: PLC0415  heavy, and a plan needs none of it

    return str(text_format.MessageToString(config))


def relabel(config_text: str, labels: Mapping[str, str]) -> str:
    """Add string parameters to the content of a `config.pbtxt`, in place of those of the same names.

    Raises:
        UsageError: when it is not a Triton model configuration.
    """
    from google.protobuf import text_format  # noqa: PLC0415  heavy, and a plan needs none of it
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # noqa: PLC0415

    try:
        config = text_format.Parse(config_text, ModelConfig())
    except text_format.ParseError as error:
        raise UsageError(
            f"is not a Triton model configuration: {error}",
            subject="config.pbtxt",
            remedy="package the model again",
        ) from error
    for key, value in labels.items():
        config.parameters[key].string_value = value
    return to_text(config)


def _add_tensors(config: "ModelConfig", name: str) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType  # noqa: PLC0415

    for tensor in INPUTS[name]:
        config.input.add(
            name=tensor.name,
            data_type=DataType.Value(tensor.kind),
            dims=tensor.shape,
            optional=tensor.optional,
            allow_ragged_batch=tensor.ragged,
        )
    for tensor in OUTPUTS[name]:
        config.output.add(name=tensor.name, data_type=DataType.Value(tensor.kind), dims=tensor.shape)


def _add_instances(config: "ModelConfig", name: str, serving: ServingOptions, provider: str) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup  # noqa: PLC0415

    counts = {
        "preprocessing": serving.preprocessing_instance_count,
        "postprocessing": serving.postprocessing_instance_count,
        "tensorrt_llm_bls": serving.bls_instance_count,
    }
    on_gpu = name == "tensorrt_llm" and provider == "cuda"
    kind = ModelInstanceGroup.Kind.KIND_GPU if on_gpu else ModelInstanceGroup.Kind.KIND_CPU
    config.instance_group.add(count=counts.get(name, 1), kind=kind, gpus=[0] if on_gpu else [])


def _add_batching(config: "ModelConfig", name: str, serving: ServingOptions) -> None:
    streams = name in {"tensorrt_llm", "tensorrt_llm_bls"}
    config.model_transaction_policy.decoupled = serving.decoupled and streams
    if name == "tensorrt_llm":
        config.dynamic_batching.max_queue_delay_microseconds = serving.max_queue_delay_microseconds
    elif name == "postprocessing":
        config.dynamic_batching.preserve_ordering = True  # the pieces of a stream, whichever instance they meet


def _parameters(name: str, serving: ServingOptions, provider: str) -> dict[str, str]:
    if name == "preprocessing":
        return {"add_special_tokens": "true"}
    if name == "postprocessing":
        return {"skip_special_tokens": "true"}
    if name == "tensorrt_llm":
        return {"provider": provider, "exclude_input_in_output": str(serving.exclude_input_in_output).lower()}
    return {}


def _add_steps(config: "ModelConfig") -> None:
    for step in wiring.own_steps():
        config.ensemble_scheduling.step.add(
            model_name=step.model, model_version=-1, input_map=dict(step.takes), output_map=dict(step.gives)
        )
