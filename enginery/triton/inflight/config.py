"""A `config.pbtxt` of the release's own shape: the template's tensors, settings and parameters, with values in it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from enginery.core.errors import UsageError
from enginery.core.late import late
from enginery.releases import STEPS, Template, containers, template, version
from enginery.spec import DEFAULT_BATCH, ServingOptions

if TYPE_CHECKING:
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2 as tritonclient_grpc_model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    json_format = late("google.protobuf.json_format")
    tritonclient_grpc_model_config_pb2 = late("tritonclient.grpc.model_config_pb2")


# What stands in place of each placeholder of the release's templates: from the spec, else what the release means.
#
# A placeholder that is filled with nothing is left to the release: its C++ backend takes its own default for an empty
# number, switch or list, just as for a template that was not filled.


FIELDS = {
    "triton_max_batch_size": "max_batch_size",
    "decoupled_mode": "decoupled",
    "batch_scheduler_policy": "scheduler_policy",
}
"""Placeholder -> the spec's name for it, where the two differ."""

DEFAULTS: Mapping[str, Any] = {
    "max_batch_size": DEFAULT_BATCH,
    "max_queue_size": 0,
    "batching_strategy": "inflight_fused_batching",
    "scheduler_policy": "guaranteed_no_evict",
    "max_beam_width": 1,
    "accumulate_tokens": False,
    "add_special_tokens": True,
    "skip_special_tokens": True,
    "logits_datatype": "TYPE_FP32",
    "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16",
}
"""Of every release. Those of the article that say no more than the releases do, and what must not be left empty."""

OF_RELEASE: Mapping[str, Mapping[str, Any]] = {
    "0.8.0": {
        "max_tokens_in_paged_kv_cache": 2560,
        "max_attention_window_size": 2560,
        "kv_cache_free_gpu_mem_fraction": 0.5,
        "enable_kv_cache_reuse": False,
    },
}
"""Of one release only. These are the article's, chosen for its one engine: elsewhere they would cut prompts short
and leave half of the GPU's memory unused, and later releases keep KV caches for reuse unless told not to.
"""

FIXED = {
    "triton_backend": "tensorrtllm",
    "tokenizer_type": "auto",
    "tensorrt_llm_model_name": "tensorrt_llm",
    "tensorrt_llm_draft_model_name": "",
    "multimodal_encoders_name": "",
    "encoder_engine_dir": "",
    "visual_model_path": "",
    "multimodal_model_path": "",
    "max_num_images": "",
}
"""What a spec does not say: a repository has one decoder, and neither a draft model nor one for images."""

PATHS = frozenset({"engine_dir", "tokenizer_dir"})
"""Placeholders for where the engine and the tokenizer lie."""

KNOWN = frozenset({*FIXED, *PATHS, *FIELDS, *(ServingOptions.model_fields.keys() - FIELDS.values())})
"""Every placeholder that can be filled."""


def values(release: str, serving: ServingOptions, paths: Mapping[str, str]) -> dict[str, Any]:
    """The value of each placeholder that there is in any release; None means: leave it to the release.

    Args:
        release: decides the defaults.
        serving: what the spec says.
        paths: the values of `PATHS`.
    """
    own = next((found for known, found in OF_RELEASE.items() if Version(known) == Version(release)), {})
    unset = {**DEFAULTS, **own}
    found: dict[str, Any] = {**FIXED, **paths}
    for placeholder in KNOWN - found.keys():
        field = FIELDS.get(placeholder, placeholder)
        said = getattr(serving, field)
        found[placeholder] = unset.get(field) if said is None else said
    return found


def text(value: Any) -> str:
    """A value as the backend reads it in a parameter."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        lists = bool(value) and isinstance(value[0], tuple)
        return ", ".join(f"{{{text(each)}}}" for each in value) if lists else ",".join(map(str, value))
    return str(value)


PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
ENSEMBLE = "ensemble"


@cache
def require_template(release: str, model: str) -> Template:
    """The template of a model.

    Raises:
        UsageError: when the release has none.
    """
    found = template(release, model).value
    if found is None:
        raise UsageError(
            f"TensorRT-LLM {release} has no Triton templates for engines any more",
            subject="release",
            remedy="use backend: pytorch, or an earlier release",
        )
    return found


def model_config(model: str, release: str, values: Mapping[str, Any], serving: ServingOptions) -> "ModelConfig":
    """The configuration of one of the five models.

    Args:
        model: its name.
        release: whose template is filled.
        values: of the placeholders.
        serving: what the spec says; it also decides parameters that the release's template does not leave open.

    Raises:
        UsageError: when the release has no templates any more.
    """
    known = require_template(release, model)
    described = {
        "name": model,
        "max_batch_size": values["triton_max_batch_size"],
        **known.settings,
        "input": _tensors(known.inputs),
        "output": _tensors(known.outputs),
    }
    config = json_format.ParseDict(_filled(described, values), tritonclient_grpc_model_config_pb2.ModelConfig())
    for name, written in known.parameters.items():
        config.parameters[name].string_value = _parameter(name, written, values, serving)
    if model == ENSEMBLE:
        _add_steps(config, release)
    if model == "postprocessing" and serving.decoupled and serving.postprocessing_instance_count > 1:
        config.dynamic_batching.preserve_ordering = True  # else the pieces of a stream may overtake each other
    return config


def _parameter(name: str, written: str, values: Mapping[str, Any], serving: ServingOptions) -> str:
    """A parameter's value. What the template leaves open is filled; what it fixes stays, unless the spec says it."""
    if PLACEHOLDER.search(written):
        return text(_filled(written, values))
    said = getattr(serving, name, None)
    return written if said is None else text(said)


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """The same with values in place of placeholders. Each stands alone in its place."""
    if isinstance(part, Mapping):
        return {name: _filled(each, values) for name, each in part.items()}
    if isinstance(part, list):
        return [_filled(each, values) for each in part]
    found = PLACEHOLDER.fullmatch(part) if isinstance(part, str) else None
    return values[found[1]] if found else part


def _tensors(tensors: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, **tensor} for name, tensor in tensors.items()]


def _add_steps(config: "ModelConfig", release: str) -> None:
    for model in STEPS:
        known = require_template(release, model)
        config.ensemble_scheduling.step.add(
            model_name=model, model_version=-1, input_map=dict(known.takes), output_map=dict(known.gives)
        )


def wiring(release: str) -> dict[str, dict[str, dict[str, str]]]:
    """What the ensemble does, for `tensorrt_llm_bls`, which does the same: model -> its tensors' names there."""
    found = {model: require_template(release, model) for model in STEPS}
    return {
        model: {"takes": dict(sorted(known.takes.items())), "gives": dict(sorted(known.gives.items()))}
        for model, known in found.items()
    }


# How to start a server for a repository: the command, the image, and a note for people with both.
#
# The command is that of the launcher script of NVIDIA's backend (`launch_triton_server.py`), release for release: one
# process of Triton for each rank, put together by `mpirun`; only rank 0 serves, the others load the engine alone. What
# is added: a server with one rank is in explicit model-control mode, so that builds can be rolled out to it later.


TRITON = "/opt/tritonserver/bin/tritonserver"
PORTS = ("--grpc-port=8001", "--http-port=8000", "--metrics-port=8002")
EXPLICIT = "--model-control-mode=explicit"
ORCHESTRATOR_SINCE = "0.9.0"
"""From then on one server can start the ranks itself, and so load engines of several GPUs while it runs."""
NO_IMAGE = "IMAGE"


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        world_size: GPUs, and processes, that the engine needs.
        command: what to run in the container, as a shell takes it.
        image: Triton's container with the release inside, without the registry's host; empty where none is known.
        shared_memory: for Triton's Python models, as Docker takes it.
        mount: where the model repository must lie in the container.
    """

    world_size: int
    command: str
    image: str
    shared_memory: str
    mount: str

    @property
    def docker(self) -> str:
        """The command that starts the container around it; `DIRECTORY` stands for the model repository's place."""
        limits = f"--gpus all --network host --shm-size={self.shared_memory} --ulimit memlock=-1"
        return f"docker run --rm {limits} -v DIRECTORY:{self.mount} {self.image or NO_IMAGE} {self.command}"

    def facts(self) -> dict[str, Any]:
        """For the step's record."""
        return asdict(self)


def how_to_launch(release: str, world_size: int, mount: str) -> Launch:
    """How to start a server of a release for an engine of so many ranks.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    found = containers(release).value
    argv = ["mpirun", "--allow-run-as-root"]
    for rank in range(world_size):
        argv += ["-n", "1", *_process(mount, rank, alone=world_size == 1), ":"]
    return Launch(
        world_size=world_size,
        command=shlex.join(argv[:-1]),
        image=found[0].image if found else "",
        shared_memory=f"{world_size}g",
        mount=mount,
    )


def _process(mount: str, rank: int, *, alone: bool) -> Iterator[str]:
    yield from (TRITON, f"--model-repository={mount}")
    if alone:
        yield from (EXPLICIT, "--load-model=*")
    elif rank:
        yield from (EXPLICIT, "--load-model=tensorrt_llm")
    yield from (
        *PORTS,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    )


def launch_note(launch: Launch, release: str, model: str) -> str:
    """A page for whoever starts the server."""
    return "\n".join([*_page(launch, release, model), ""])


def _page(launch: Launch, release: str, model: str) -> Iterator[str]:
    yield f"# Launching {model}\n"
    yield "| | |\n|---|---|"
    yield f"| release | TensorRT-LLM {release} |"
    yield f"| GPUs (world size) | {launch.world_size} |"
    yield f"| container | {_image(launch, release)} |"
    yield f"| model repository in the container | `{launch.mount}` |"
    yield f"| shared memory | {launch.shared_memory} |\n"
    yield "In the container:\n"
    yield f"```sh\n{launch.command}\n```\n"
    yield "With Docker, with the directory that holds this note in place of `DIRECTORY`:\n"
    yield f"```sh\n{launch.docker}\n```\n"
    yield "The engine's path in `config.pbtxt` is absolute, so for the server the repository must lie at"
    yield f"`{launch.mount}` (`serving.mount` in the spec). The Python models need `numpy` and `tokenizers`, which the"
    yield "container has."
    yield from _rollouts(launch, release)


def _image(launch: Launch, release: str) -> str:
    if launch.image:
        return f"`{launch.image}` of NVIDIA's registry"
    return f"none is known with {release} inside: build the backend, and put its image in place of `{NO_IMAGE}`"


def _rollouts(launch: Launch, release: str) -> Iterator[str]:
    if launch.world_size == 1:
        return
    yield "\nStarted like this, the ranks load their engine once: to serve another build, restart them."
    if version(release) >= version(ORCHESTRATOR_SINCE):
        yield "For `enginery rollout`, start one process instead, which starts the ranks itself (orchestrator mode):\n"
        alone = shlex.join(["mpirun", "--allow-run-as-root", "-n", "1", *_process(launch.mount, 0, alone=True)])
        yield f"```sh\nTRTLLM_ORCHESTRATOR=1 {alone}\n```"
