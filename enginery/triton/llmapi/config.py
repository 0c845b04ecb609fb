"""The two `config.pbtxt` of the `llmapi` repository: `tensorrt_llm` as NVIDIA's, and an `ensemble` in front of it.

`tensorrt_llm` has NVIDIA's tensors, as far as the served model supports them, and a few of ours, which the ensemble
needs. The ensemble has the tensors of the other backends' ensembles, so the same request works on each of them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from enginery.triton.config import BOOL, FP32, INT32, STRING, UINT64, Tensor

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # type: ignore[import-untyped,unused-ignore]

ENSEMBLE = "ensemble"
MODEL = "tensorrt_llm"
MODELS = (MODEL, ENSEMBLE)

NVIDIAS = (
    Tensor("text_input", STRING, (-1,), optional=False),
    Tensor("streaming", BOOL),
    Tensor("sampling_param_best_of", INT32),
    Tensor("sampling_param_temperature", FP32),
    Tensor("sampling_param_top_k", INT32),
    Tensor("sampling_param_top_p", FP32),
    Tensor("sampling_param_frequency_penalty", FP32),
    Tensor("sampling_param_presence_penalty", FP32),
    Tensor("sampling_param_max_tokens", INT32),
    Tensor("sampling_param_stop", STRING, (-1,)),
    Tensor("sampling_param_seed", UINT64),
    Tensor("sampling_param_exclude_input_from_output", BOOL),
    Tensor("return_finish_reason", BOOL),
    Tensor("return_stop_reason", BOOL),
    Tensor("return_cumulative_logprob", BOOL),
)
OURS = (
    Tensor("sampling_param_bad", STRING, (-1,)),
    Tensor("sampling_param_repetition_penalty", FP32),
    Tensor("sampling_param_min_tokens", INT32),
    Tensor("sampling_param_min_length", INT32),
    Tensor("sampling_param_random_seed", UINT64),
)
ANSWERED = (
    Tensor("text_output", STRING, (-1,)),
    Tensor("finish_reason", STRING, (-1,)),
    Tensor("stop_reason", STRING, (-1,)),
    Tensor("cumulative_logprob", FP32, (-1,)),
)
ASKED = {
    "text_input": "text_input",
    "max_tokens": "sampling_param_max_tokens",
    "bad_words": "sampling_param_bad",
    "stop_words": "sampling_param_stop",
    "stream": "streaming",
    "temperature": "sampling_param_temperature",
    "top_k": "sampling_param_top_k",
    "top_p": "sampling_param_top_p",
    "frequency_penalty": "sampling_param_frequency_penalty",
    "presence_penalty": "sampling_param_presence_penalty",
    "repetition_penalty": "sampling_param_repetition_penalty",
    "min_tokens": "sampling_param_min_tokens",
    "min_length": "sampling_param_min_length",
    "seed": "sampling_param_seed",
    "random_seed": "sampling_param_random_seed",
    "exclude_input_in_output": "sampling_param_exclude_input_from_output",
    "return_log_probs": "return_cumulative_logprob",
}
"""The ensemble's inputs -> those of `tensorrt_llm`."""
REQUIRED = ("text_input", "max_tokens")
GIVEN = {
    "text_output": "text_output",
    "cum_log_probs": "cumulative_logprob",
    "finish_reason": "finish_reason",
    "stop_reason": "stop_reason",
}
"""The ensemble's outputs -> those of `tensorrt_llm`."""


def model_config(name: str, *, decoupled: bool, labels: Mapping[str, str]) -> "ModelConfig":
    """The configuration of one of the two models; requests are not batched by Triton but by the LLM API.

    Args:
        name: one of `MODELS`.
        decoupled: whether answers may be streamed.
        labels: written as parameters.
    """
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup  # noqa: PLC0415  heavy

    config = ModelConfig(name=name)
    if name == ENSEMBLE:
        _ensemble(config)
    else:
        config.backend = "python"
        config.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.KIND_CPU)
        config.model_transaction_policy.decoupled = decoupled
        _add(config, (*NVIDIAS, *OURS), ANSWERED)
    for key, value in labels.items():
        config.parameters[key].string_value = value
    return config


def _ensemble(config: "ModelConfig") -> None:
    config.platform = ENSEMBLE
    there = {tensor.name: tensor for tensor in (*NVIDIAS, *OURS, *ANSWERED)}
    asked = [there[theirs]._replace(name=ours, optional=ours not in REQUIRED) for ours, theirs in ASKED.items()]
    _add(config, asked, [there[theirs]._replace(name=ours) for ours, theirs in GIVEN.items()])
    config.ensemble_scheduling.step.add(
        model_name=MODEL,
        model_version=-1,
        input_map={theirs: ours for ours, theirs in ASKED.items()},
        output_map={theirs: ours for ours, theirs in GIVEN.items()},
    )


def _add(config: "ModelConfig", inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType  # noqa: PLC0415  heavy

    for tensor in inputs:
        config.input.add(
            name=tensor.name, data_type=DataType.Value(tensor.kind), dims=tensor.shape, optional=tensor.optional
        )
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=DataType.Value(tensor.kind), dims=tensor.shape)
