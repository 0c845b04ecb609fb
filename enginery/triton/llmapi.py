"""Writes the model repository of backend `pytorch`: a checkpoint, its `model.yaml`, and two models.

It is like NVIDIA's `llmapi` repository. `tensorrt_llm` is the Python model that runs the LLM API. It has the tensors of
NVIDIA's model that it supports, and a few more for the ensemble. The ensemble has the same tensors as the ensembles of
the other backends, so the same request works with all backends. All paths are relative: the checkpoint lies beside
`model.yaml`. So the repository can be moved, copied and loaded from S3.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, JsonValue

from enginery.builds import LAUNCH_NOTE, PACKAGED_VERSION
from enginery.core import files
from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.models import template_files
from enginery.sources import TOKENIZERS
from enginery.spec import ServingOptions
from enginery.triton.launch import Launch, launch_of_llmapi, note_of_llmapi
from enginery.triton.models.wiring import Step
from enginery.triton.repository import BOOL, FP32, INT32, STRING, UINT64, Tensor, add_steps, add_tensors, write_model

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")

ENSEMBLE = "ensemble"
MODEL = "tensorrt_llm"
MODELS = (MODEL, ENSEMBLE)
CHECKPOINT = "checkpoint"
MODEL_FILE = "model.yaml"

NVIDIA_INPUTS = (
    Tensor("text_input", STRING, (-1,), optional=False),
    Tensor("streaming", BOOL, (-1,)),
    Tensor("sampling_param_best_of", INT32, (-1,)),
    Tensor("sampling_param_temperature", FP32, (-1,)),
    Tensor("sampling_param_top_k", INT32, (-1,)),
    Tensor("sampling_param_top_p", FP32, (-1,)),
    Tensor("sampling_param_frequency_penalty", FP32, (-1,)),
    Tensor("sampling_param_presence_penalty", FP32, (-1,)),
    Tensor("sampling_param_max_tokens", INT32, (-1,)),
    Tensor("sampling_param_stop", STRING, (-1,)),
    Tensor("sampling_param_seed", UINT64, (-1,)),
    Tensor("sampling_param_exclude_input_from_output", BOOL, (-1,)),
    Tensor("return_finish_reason", BOOL),
    Tensor("return_stop_reason", BOOL),
    Tensor("return_cumulative_logprob", BOOL, (-1,)),
)
OUR_INPUTS = (
    Tensor("sampling_param_bad", STRING, (-1,)),
    Tensor("sampling_param_repetition_penalty", FP32, (-1,)),
    Tensor("sampling_param_min_tokens", INT32, (-1,)),
    Tensor("sampling_param_min_length", INT32, (-1,)),
    Tensor("sampling_param_random_seed", UINT64, (-1,)),
    Tensor("sampling_param_add_special_tokens", BOOL, (-1,)),
)
INPUTS = (*NVIDIA_INPUTS, *OUR_INPUTS)
OUTPUTS = (
    Tensor("text_output", STRING, (-1,)),
    Tensor("finish_reason", STRING, (-1,)),
    Tensor("stop_reason", STRING, (-1,)),
    Tensor("cumulative_logprob", FP32, (-1,)),
)
PREFIX = "sampling_param_"
ENSEMBLE_NAMES = {
    "streaming": "stream",
    "sampling_param_stop": "stop_words",
    "sampling_param_bad": "bad_words",
    "sampling_param_exclude_input_from_output": "exclude_input_in_output",
    "return_cumulative_logprob": "return_log_probs",
    "cumulative_logprob": "cum_log_probs",
}
"""Tensor -> its name in the ensemble. All other tensors have the same name there, without the prefix."""
REQUIRED = ("text_input", "max_tokens")
NOT_IN_ENSEMBLE = ("sampling_param_best_of", "return_finish_reason", "return_stop_reason")


class LlmApiOptions(Frozen):
    """How to serve a checkpoint.

    Attributes:
        release: the release of TensorRT-LLM.
        model: the model's name, for the launch note.
        arguments: the arguments of the LLM API, except `model`.
        llm_class: the class that takes the arguments, as module:class.
        serving: the serving options of the spec.
        warm_up: batch sizes to run once when the model is loaded.
        world_size: the number of GPUs.
        labels: parameters to write into the configurations of both models.
    """

    release: str
    model: str = "the model"
    arguments: Mapping[str, JsonValue] = Field(default_factory=dict)
    llm_class: str = "tensorrt_llm:LLM"
    serving: ServingOptions = ServingOptions()
    warm_up: tuple[int, ...] = ()
    world_size: int = 1
    labels: Mapping[str, str] = Field(default_factory=dict)


def write_llmapi_repository(destination: Path, *, checkpoint: Path, weights: Path, options: LlmApiOptions) -> Launch:
    """Write a model repository into `destination`; large files are linked where possible.

    Args:
        destination: an empty or missing directory.
        checkpoint: a Hugging Face checkpoint.
        weights: the model that it was made from. Its tokenizer is used if the checkpoint has none.
        options: the release, and how to serve the checkpoint.

    Returns:
        How to start a server for it; the note `launch.md` in `destination` says the same.

    Raises:
        SourceError: when there is no tokenizer.
        StoreError: when something cannot be written.
    """
    content = _content(checkpoint, weights)
    for name in MODELS:
        config = model_config(name, decoupled=options.serving.decoupled, labels=options.labels)
        write_model(destination, config, f"llm.{MODEL}")
    directory = destination / MODEL / PACKAGED_VERSION
    files.write_atomic(directory / MODEL_FILE, model_yaml(options))
    for path, source in content.items():
        files.link_or_copy(source, directory / CHECKPOINT / path)
    launch = launch_of_llmapi(options.release, options.world_size)
    autotunes = options.arguments.get("enable_autotuner") is not False
    note = note_of_llmapi(launch, options.release, options.model, autotunes=autotunes)
    files.write_atomic(destination / LAUNCH_NOTE, note)
    return launch


def model_config(name: str, *, decoupled: bool, labels: Mapping[str, str]) -> "ModelConfig":
    """The configuration of one of the two models. The LLM API batches the requests, not Triton.

    Args:
        name: one of `MODELS`.
        decoupled: whether answers may be streamed.
        labels: parameters to write into the configuration.
    """
    config = model_config_pb2.ModelConfig(name=name)
    if name == ENSEMBLE:
        _describe_ensemble(config)
    else:
        config.backend = "python"
        config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.Kind.KIND_CPU)
        config.model_transaction_policy.decoupled = decoupled
        add_tensors(config, INPUTS, OUTPUTS)
    for key, value in labels.items():
        config.parameters[key].string_value = value
    return config


def _describe_ensemble(config: "ModelConfig") -> None:
    """Give the ensemble the tensors of `tensorrt_llm`, under its own names."""
    config.platform = ENSEMBLE
    inputs = {each.name: _of_ensemble(each) for each in INPUTS if each.name not in NOT_IN_ENSEMBLE}
    outputs = {each.name: _of_ensemble(each) for each in OUTPUTS}
    add_tensors(config, inputs.values(), outputs.values())
    takes, gives = ({name: each.name for name, each in found.items()} for found in (inputs, outputs))
    add_steps(config, [Step(MODEL, takes, gives)])


def _of_ensemble(tensor: Tensor) -> Tensor:
    own = ENSEMBLE_NAMES.get(tensor.name, tensor.name.removeprefix(PREFIX))
    return tensor._replace(name=own, optional=own not in REQUIRED)


def model_yaml(options: LlmApiOptions) -> str:
    """The content of `model.yaml`, in the format of NVIDIA's model. The same options give the same text."""
    own: dict[str, Any] = {
        "decoupled": options.serving.decoupled,
        "max_batch_size": 0,
        "llm_class": options.llm_class,
        "exclude_input_from_output": options.serving.exclude_input_in_output,
        "warm_up": list(options.warm_up),
    }
    content = {**options.arguments, "model": CHECKPOINT, "triton_config": own}
    return str(yaml.safe_dump(content, sort_keys=True, default_flow_style=False, allow_unicode=True))


def _content(checkpoint: Path, weights: Path) -> dict[Path, Path]:
    """Path -> file of the checkpoint. A tokenizer or chat template that it lacks is added from the weights."""
    found = {Path(path): checkpoint / path for path in files.list_files(checkpoint)}
    if not any(Path(name) in found for name in TOKENIZERS):
        found |= {Path(name): weights / name for name in TOKENIZERS if (weights / name).is_file()}
    found = {Path(name): weights / name for name in template_files(weights)} | found
    if not any(Path(name) in found for name in TOKENIZERS):
        raise SourceError(
            f"the model has no tokenizer ({', '.join(TOKENIZERS)})",
            subject=str(weights),
            remedy="save its tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    return found
