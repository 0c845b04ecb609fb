"""The two `config.pbtxt` of the `llmapi` repository: `tensorrt_llm` as NVIDIA's, and an `ensemble` in front of it.

`tensorrt_llm` has NVIDIA's tensors, as far as the served model supports them, and a few more that the ensemble needs.
The ensemble has the tensors of the other backends' ensembles, so the same request works with each of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from enginery.core.late import late
from enginery.triton.repository import BOOL, FP32, INT32, STRING, UINT64, Tensor, add_tensors

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")


ENSEMBLE = "ensemble"
MODEL = "tensorrt_llm"
MODELS = (MODEL, ENSEMBLE)

NVIDIA_INPUTS = (
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
OUR_INPUTS = (
    Tensor("sampling_param_bad", STRING, (-1,)),
    Tensor("sampling_param_repetition_penalty", FP32),
    Tensor("sampling_param_min_tokens", INT32),
    Tensor("sampling_param_min_length", INT32),
    Tensor("sampling_param_random_seed", UINT64),
)
OUTPUTS = (
    Tensor("text_output", STRING, (-1,)),
    Tensor("finish_reason", STRING, (-1,)),
    Tensor("stop_reason", STRING, (-1,)),
    Tensor("cumulative_logprob", FP32, (-1,)),
)
ENSEMBLE_INPUTS = {
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
ENSEMBLE_OUTPUTS = {
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
    config = model_config_pb2.ModelConfig(name=name)
    if name == ENSEMBLE:
        _ensemble(config)
    else:
        config.backend = "python"
        config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.Kind.KIND_CPU)
        config.model_transaction_policy.decoupled = decoupled
        add_tensors(config, (*NVIDIA_INPUTS, *OUR_INPUTS), OUTPUTS)
    for key, value in labels.items():
        config.parameters[key].string_value = value
    return config


def _ensemble(config: "ModelConfig") -> None:
    config.platform = ENSEMBLE
    known = {tensor.name: tensor for tensor in (*NVIDIA_INPUTS, *OUR_INPUTS, *OUTPUTS)}
    inputs = [known[name]._replace(name=own, optional=own not in REQUIRED) for own, name in ENSEMBLE_INPUTS.items()]
    add_tensors(config, inputs, [known[name]._replace(name=own) for own, name in ENSEMBLE_OUTPUTS.items()])
    config.ensemble_scheduling.step.add(
        model_name=MODEL,
        model_version=-1,
        input_map={name: own for own, name in ENSEMBLE_INPUTS.items()},
        output_map={name: own for own, name in ENSEMBLE_OUTPUTS.items()},
    )
