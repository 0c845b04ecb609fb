"""Writes the model repository of backend `onnxruntime`: five models around one engine of ONNX Runtime GenAI.

The repository contains no path: Triton gives each model the path of its files. So the repository can be moved, copied
and loaded from S3. Each `config.pbtxt` is written from Triton's own protobuf message.

Tensor names, types and shapes are those of NVIDIA's model repository. `tensorrt_llm` also has `context_ids`, which
streamed text needs, and a request can say `add_special_tokens: false` for a text that has them already. Inputs that
this backend does not support (prompt tables, LoRA, draft tokens, guided decoding) are left out: Triton or our models
refuse a request with them, and name the input.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from enginery.builds import CONFIG, PACKAGED_VERSION
from enginery.core import files
from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.models import template_files
from enginery.spec import ServingOptions
from enginery.store import StepContext
from enginery.triton.models.wiring import OF_ENGINE, SAMPLING, Step, own_steps
from enginery.triton.served import KEEP, write_code

if TYPE_CHECKING:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    text_format = late("google.protobuf.text_format")
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")

TOKENIZER_FILE = "tokenizer.json"
WITH_TOKENIZER = {"preprocessing", "tensorrt_llm", "postprocessing"}
WITH_TEMPLATE = "preprocessing"
"""The model that has the chat template, for those who make prompts of chats, and the special tokens in it."""
MAX_BATCH_SIZE = 8
"""The default if the spec sets no `serving.max_batch_size`."""

STRING, INT32, UINT64, FP32, BOOL = "TYPE_STRING", "TYPE_INT32", "TYPE_UINT64", "TYPE_FP32", "TYPE_BOOL"


class Tensor(NamedTuple):
    """An input or output. `shape` is without the batch; -1 is any length, which with `ragged` may vary in a batch."""

    name: str
    kind: str
    shape: tuple[int, ...] = (1,)
    optional: bool = True
    ragged: bool = False


REQUEST = (
    Tensor("text_input", STRING, optional=False),
    Tensor("max_tokens", INT32, optional=False),
    Tensor("bad_words", STRING, (-1,)),
    Tensor("stop_words", STRING, (-1,)),
    Tensor("add_special_tokens", BOOL),
    *(Tensor(name, f"TYPE_{kind}") for kind, names in SAMPLING.items() for name in names),
)
LOG_PROBS = (Tensor("cum_log_probs", FP32, (-1,)), Tensor("output_log_probs", FP32, (-1, -1)))
RESPONSE = (Tensor("text_output", STRING, (-1,)), *LOG_PROBS)

INPUTS = {
    "preprocessing": (
        Tensor("QUERY", STRING, optional=False),
        Tensor("REQUEST_OUTPUT_LEN", INT32, optional=False),
        Tensor("BAD_WORDS_DICT", STRING, (-1,)),
        Tensor("STOP_WORDS_DICT", STRING, (-1,)),
        Tensor("ADD_SPECIAL_TOKENS", BOOL),
    ),
    "tensorrt_llm": (
        Tensor("input_ids", INT32, (-1,), optional=False, ragged=True),
        Tensor("input_lengths", INT32, optional=False),
        Tensor("request_output_len", INT32, optional=False),
        Tensor("stop_words_list", INT32, (2, -1), ragged=True),
        Tensor("bad_words_list", INT32, (2, -1), ragged=True),
        *(Tensor(OF_ENGINE.get(name, name), f"TYPE_{kind}") for kind, names in SAMPLING.items() for name in names),
    ),
    "postprocessing": (
        Tensor("TOKENS_BATCH", INT32, (-1, -1), optional=False),
        Tensor("SEQUENCE_LENGTH", INT32, (-1,), optional=False),
        Tensor("CONTEXT_IDS", INT32, (-1,)),
    ),
    "tensorrt_llm_bls": REQUEST,
    "ensemble": REQUEST,
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
    "tensorrt_llm_bls": RESPONSE,
    "ensemble": RESPONSE,
}
MODELS = tuple(INPUTS)
"""The five models. Each comes after the models that it calls."""


def model_config(name: str, serving: ServingOptions, provider: str, labels: Mapping[str, str]) -> "ModelConfig":
    """The configuration of one of the five models.

    Args:
        name: one of `MODELS`.
        serving: the serving options of the spec.
        provider: `cpu` or `cuda`.
        labels: parameters to write into the configuration.
    """
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=serving.max_batch_size or MAX_BATCH_SIZE)
    add_tensors(config, INPUTS[name], OUTPUTS[name])
    if name == "ensemble":
        config.platform = "ensemble"
        add_steps(config, own_steps())
    else:
        config.backend = "python"
        _add_instances(config, name, serving, provider)
        _add_batching(config, name, serving)
    for key, value in (_parameters(name, serving, provider) | dict(labels)).items():
        config.parameters[key].string_value = value
    return config


def add_tensors(config: "ModelConfig", inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    """Describe the inputs and outputs of a model in its configuration."""
    for tensor in inputs:
        config.input.add(
            name=tensor.name,
            data_type=model_config_pb2.DataType.Value(tensor.kind),
            dims=tensor.shape,
            optional=tensor.optional,
            allow_ragged_batch=tensor.ragged,
        )
    for tensor in outputs:
        kind = model_config_pb2.DataType.Value(tensor.kind)
        config.output.add(name=tensor.name, data_type=kind, dims=tensor.shape)


def add_steps(config: "ModelConfig", steps: Iterable[Step]) -> None:
    """Describe the steps of an ensemble in its configuration."""
    for step in steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model, model_version=-1, input_map=dict(step.takes), output_map=dict(step.gives)
        )


def to_text(config: "ModelConfig") -> str:
    """The content of `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def write_model(destination: Path, config: "ModelConfig", module: str = "") -> Path:
    """Write a model's configuration, and its code if it is one of our Python models.

    Args:
        destination: the model repository.
        config: the configuration of the model.
        module: the model's module in the archive of served models; the model's name when left out.

    Returns:
        The version directory, for the model's other files.
    """
    files.write_atomic(destination / config.name / CONFIG, to_text(config))
    directory = destination / str(config.name) / PACKAGED_VERSION
    if config.backend == "python":
        write_code(directory, module or config.name)
    elif config.platform == "ensemble":
        files.write_atomic(directory / KEEP, "S3 has no empty directories, and Triton wants this one.\n")
    return directory


def _add_instances(config: "ModelConfig", name: str, serving: ServingOptions, provider: str) -> None:
    counts = {
        "preprocessing": serving.preprocessing_instance_count,
        "postprocessing": serving.postprocessing_instance_count,
        "tensorrt_llm_bls": serving.bls_instance_count,
    }
    on_gpu = name == "tensorrt_llm" and provider == "cuda"
    kinds = model_config_pb2.ModelInstanceGroup.Kind
    kind = kinds.KIND_GPU if on_gpu else kinds.KIND_CPU
    config.instance_group.add(count=counts.get(name, 1), kind=kind, gpus=[0] if on_gpu else [])


def _add_batching(config: "ModelConfig", name: str, serving: ServingOptions) -> None:
    streams = name in {"tensorrt_llm", "tensorrt_llm_bls"}
    config.model_transaction_policy.decoupled = serving.decoupled and streams
    if name == "tensorrt_llm":
        config.dynamic_batching.max_queue_delay_microseconds = serving.max_queue_delay_microseconds
    elif name == "postprocessing":
        config.dynamic_batching.preserve_ordering = True  # several instances handle the pieces of one stream


def _parameters(name: str, serving: ServingOptions, provider: str) -> dict[str, str]:
    if name == "preprocessing":
        return {"add_special_tokens": "true"}
    if name == "postprocessing":
        return {"skip_special_tokens": "true"}
    if name == "tensorrt_llm":
        return {"provider": provider, "exclude_input_in_output": str(serving.exclude_input_in_output).lower()}
    return {}


class RepositoryOptions(Frozen):
    """How to serve the engine.

    Attributes:
        serving: the serving options of the spec.
        provider: what the engine runs on.
        labels: parameters to write into every model's configuration.
    """

    serving: ServingOptions = ServingOptions()
    provider: Literal["cpu", "cuda"] = "cpu"
    labels: Mapping[str, str] = Field(default_factory=dict)


def write_model_repository(destination: Path, *, engine: Path, weights: Path, options: RepositoryOptions) -> None:
    """Write a model repository into `destination`; files of the engine are linked where possible.

    Args:
        destination: an empty or missing directory.
        engine: an ONNX Runtime GenAI engine.
        weights: the model that the engine was made from. Its tokenizer is used.
        options: how to serve the engine.

    Raises:
        SourceError: when the model has no tokenizer in the `tokenizer.json` format.
        StoreError: when something cannot be written.
    """
    tokenizer = find_tokenizer(weights, engine)
    for name in MODELS:
        config = model_config(name, options.serving, options.provider, options.labels)
        directory = write_model(destination, config)
        if name in WITH_TOKENIZER:
            files.link_or_copy(tokenizer, directory / TOKENIZER_FILE)
        if name == WITH_TEMPLATE:
            for part in template_files(weights):
                files.link_or_copy(weights / part, directory / part)
    for path in files.list_files(engine):
        files.link_or_copy(engine / path, destination / "tensorrt_llm" / PACKAGED_VERSION / "engine" / path)


def find_tokenizer(weights: Path, *others: Path) -> Path:
    """The `tokenizer.json` of a model, from the directory of its weights or another one.

    Raises:
        SourceError: when there is none.
    """
    for directory in (weights, *others):
        if (directory / TOKENIZER_FILE).is_file():
            return directory / TOKENIZER_FILE
    raise SourceError(
        f"the model has no {TOKENIZER_FILE}",
        subject=str(weights),
        remedy="save its fast tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )


def package(context: StepContext) -> Facts:
    """The step function of stage `package`: make the model repository of a target.

    Parameters of the step: `model`, `target`, `serving`, `provider`. Inputs: `engine`, `weights`.
    """
    parameters = context.parameters
    labels = {"enginery_model": parameters["model"], "enginery_target": parameters["target"]}
    options = RepositoryOptions.model_validate(
        {"serving": parameters["serving"], "provider": parameters["provider"], "labels": labels}
    )
    write_model_repository(
        context.output, engine=context.inputs["engine"], weights=context.inputs["weights"], options=options
    )
    context.log(f"model repository with {', '.join(MODELS)}")
    return {"models": list(MODELS), "decoupled": options.serving.decoupled}
