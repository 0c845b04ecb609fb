"""The two `config.pbtxt` of the `llmapi` repository: `tensorrt_llm` as NVIDIA's, and an `ensemble` in front of it.

`tensorrt_llm` has NVIDIA's tensors, as far as the served model supports them, and a few of ours, which the ensemble
needs. The ensemble has the tensors of the other backends' ensembles, so the same request works on each of them.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from packaging.version import Version

from enginery.core.late import late
from enginery.releases import containers
from enginery.triton.inflight.config import EXPLICIT, NO_IMAGE, PORTS, TRITON, Launch
from enginery.triton.repository import BOOL, FP32, INT32, STRING, UINT64, Tensor

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as tritonclient_grpc_model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    tritonclient_grpc_model_config_pb2 = late("tritonclient.grpc.model_config_pb2")


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
    config = tritonclient_grpc_model_config_pb2.ModelConfig(name=name)
    if name == ENSEMBLE:
        _ensemble(config)
    else:
        config.backend = "python"
        config.instance_group.add(count=1, kind=tritonclient_grpc_model_config_pb2.ModelInstanceGroup.Kind.KIND_CPU)
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

    for tensor in inputs:
        config.input.add(
            name=tensor.name,
            data_type=tritonclient_grpc_model_config_pb2.DataType.Value(tensor.kind),
            dims=tensor.shape,
            optional=tensor.optional,
        )
    for tensor in outputs:
        config.output.add(
            name=tensor.name,
            data_type=tritonclient_grpc_model_config_pb2.DataType.Value(tensor.kind),
            dims=tensor.shape,
        )


# Keeping what TensorRT-LLM's autotuner measured, so that a server does not measure it again at each start.


VARIABLE = "TLLM_AUTOTUNER_CACHE_PATH"
"""Names the file; each rank may add its number to the name."""
SINCE = "1.2.0"
"""The first release that reads and writes it: pull request 7738 of NVIDIA/TensorRT-LLM went into the branch that became
1.2.0, and its description says what the file does. The release itself was not read."""
PLACE = "/autotuner"
"""Where the directory with the file lies in the container."""


def keeps_measurements(release: str) -> bool:
    """Whether a release can keep what its autotuner measured."""
    return Version(release) >= Version(SINCE)


def docker_options(release: str, model: str) -> str:
    """What `docker run` is given besides, to keep it; `CACHE` stands for a directory of the machine.

    The file is one release's and one model's: the runtime does not look whose measurements it reads.
    """
    return f"-v CACHE:{PLACE} -e {shlex.quote(f'{VARIABLE}={PLACE}/{model}-{release}.json')}"


# How to start a server for the LLM API: one process, which starts a worker for each GPU itself.


MOUNT = "/models"
"""Anywhere would do: nothing in the repository is absolute."""


def how_to_launch(release: str, world_size: int) -> Launch:
    """How to start a server of a release for a model on so many GPUs.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    found = containers(release).value
    return Launch(
        world_size=world_size,
        command=shlex.join([TRITON, f"--model-repository={MOUNT}", EXPLICIT, "--load-model=*", *PORTS]),
        image=found[0].image if found else "",
        shared_memory=f"{world_size}g",
        mount=MOUNT,
    )


def launch_note(launch: Launch, release: str, model: str, *, autotunes: bool = True) -> str:
    """A page for whoever starts the server.

    Args:
        launch: how it is started.
        release: of TensorRT-LLM.
        model: the model's name.
        autotunes: whether the autotuner measures kernels when the model is loaded.
    """
    kept = _measurements(release, model) if autotunes and keeps_measurements(release) else ()
    return "\n".join([*_page(launch, release, model), *kept, ""])


def _page(launch: Launch, release: str, model: str) -> Iterator[str]:
    image = f"`{launch.image}` of NVIDIA's registry" if launch.image else _no_image(release)
    yield f"# Launching {model}\n"
    yield "| | |\n|---|---|"
    yield f"| release | TensorRT-LLM {release}, LLM API |"
    yield f"| GPUs (world size) | {launch.world_size} |"
    yield f"| container | {image} |"
    yield f"| shared memory | {launch.shared_memory} |\n"
    yield "In the container, not under `mpirun`: the model starts its workers itself.\n"
    yield f"```sh\n{launch.command}\n```\n"
    yield "With Docker, with the directory that holds this note in place of `DIRECTORY`:\n"
    yield f"```sh\n{launch.docker}\n```\n"
    yield "The repository may lie anywhere, also in S3: its paths are relative. `LLM_CONFIG_PATH` names another"
    yield "`model.yaml`. Loading takes a while: CUDA graphs are captured, and the model warms up before it is ready."


def _measurements(release: str, model: str) -> Iterator[str]:
    yield "\nWhat the autotuner measures at a start it need not measure at the next: give `docker run` a directory of"
    yield "this machine in place of `CACHE`, another one for each kind of GPU:\n"
    yield f"```sh\n{docker_options(release, model)}\n```"


def _no_image(release: str) -> str:
    return f"none is known with {release} inside: build one, and put it in place of `{NO_IMAGE}`"
