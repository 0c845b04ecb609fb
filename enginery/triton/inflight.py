"""Writes the model repository of a TensorRT-LLM engine: five models, made from the templates of its release.

Placeholders in the templates are filled with values of the spec, else with the defaults below. If a value is empty, the
release's C++ backend uses its own default.

`tensorrt_llm` is served by the release's own C++ backend, which needs the absolute path of the engine. The others are
served by our Python models. Their tokenizer lies beside them, so they work at any path.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version
from pydantic import Field

from enginery.builds import ENGINE_BACKEND, LAUNCH_NOTE, PACKAGED_VERSION
from enginery.core import files
from enginery.core.errors import StoreError, UsageError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.models import template_files
from enginery.releases import MODELS, STEPS, Template, template
from enginery.sources import CONFIGS, TOKENIZER_PARTS, TOKENIZERS
from enginery.spec import DEFAULT_BATCH, ServingOptions
from enginery.triton.launch import Launch, launch_of_engine, note_of_engine
from enginery.triton.models.wiring import WIRING_FILE, Step
from enginery.triton.repository import add_steps, find_tokenizer, write_model

if TYPE_CHECKING:
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    json_format = late("google.protobuf.json_format")
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")

ENGINE_CONFIG = "config.json"
ENGINE_REMEDY = "build it again; `enginery run-step` on the build step shows what happened"
ENGINE_MODEL = "tensorrt_llm"
TOKENIZER_DIRECTORY = "tokenizer"
WITH_TOKENIZER = ("preprocessing", "postprocessing")
TOKENIZER_FILES = frozenset({*TOKENIZERS, *TOKENIZER_PARTS, *CONFIGS[:2]})
"""The files of a tokenizer, and the two configurations that name its end token and the size of its vocabulary."""

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
FIELDS = {
    "triton_max_batch_size": "max_batch_size",
    "decoupled_mode": "decoupled",
    "batch_scheduler_policy": "scheduler_policy",
}
"""Placeholder -> its name in the spec, if the two differ."""

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
"""For every release: values that must not be empty, and values of NVIDIA's article that suit every release."""

OF_RELEASE: Mapping[str, Mapping[str, Any]] = {
    "0.8.0": {
        "max_tokens_in_paged_kv_cache": 2560,
        "max_attention_window_size": 2560,
        "kv_cache_free_gpu_mem_fraction": 0.5,
        "enable_kv_cache_reuse": False,
    },
}
"""For one release only: values of NVIDIA's article, chosen for its engine. In other releases they would cut prompts
short, leave half of the GPU's memory unused, and switch off the reuse of KV caches.
"""

FIXED = {
    "triton_backend": ENGINE_BACKEND,
    "tokenizer_type": "auto",
    "tensorrt_llm_model_name": "tensorrt_llm",
    "tensorrt_llm_draft_model_name": "",
    "multimodal_encoders_name": "",
    "encoder_engine_dir": "",
    "visual_model_path": "",
    "multimodal_model_path": "",
    "max_num_images": "",
}
"""Values that no spec sets. A repository has one decoder; it has no draft model and no model for images."""

PLACES = ("engine_dir", "tokenizer_dir")
KNOWN = frozenset({*FIXED, *PLACES, *FIELDS, *ServingOptions.model_fields} - set(FIELDS.values()))
"""Every placeholder that can be filled."""


class InflightOptions(Frozen):
    """How to serve the engine.

    Attributes:
        release: the release of TensorRT-LLM whose templates are filled.
        model: the model's name, for the launch note.
        serving: the serving options of the spec.
        world_size: the number of ranks that the engine must have; None accepts any.
    """

    release: str
    model: str = "the model"
    serving: ServingOptions = Field(default_factory=ServingOptions)
    world_size: int | None = None


def write_inflight_repository(destination: Path, *, engine: Path, weights: Path, options: InflightOptions) -> Launch:
    """Write the model repository of a TensorRT-LLM engine into `destination`; large files are linked where possible.

    Args:
        destination: an empty or missing directory.
        engine: an engine directory of `trtllm-build`.
        weights: the model that the engine was made from. Its tokenizer is used.
        options: the release, and how to serve the engine.

    Returns:
        How to start a server for it; the note `launch.md` in `destination` says the same.

    Raises:
        StoreError: when the engine is incomplete, or something cannot be written.
        UsageError: when the engine does not match the spec, or the release has no templates.
        SourceError: when the model has no tokenizer in the `tokenizer.json` format.
    """
    world_size, max_beam_width = _read_engine(engine)
    _require_fit(world_size, max_beam_width, options)
    find_tokenizer(weights)
    names = {path.name for path in weights.iterdir() if path.name in TOKENIZER_FILES}
    tokenizer = sorted({*names, *template_files(weights)})
    for name in MODELS:
        directory = write_model(destination, model_config(name, options.release, options.serving))
        for part in tokenizer if name in WITH_TOKENIZER else ():
            files.link_or_copy(weights / part, directory / TOKENIZER_DIRECTORY / part)
    for path in files.list_files(engine):
        files.link_or_copy(engine / path, destination / ENGINE_MODEL / PACKAGED_VERSION / path)
    wired = {step.model: {"takes": step.takes, "gives": step.gives} for step in _steps(options.release)}
    wiring_file = destination / "tensorrt_llm_bls" / PACKAGED_VERSION / WIRING_FILE
    files.write_atomic(wiring_file, json.dumps(wired, indent=1))
    launch = launch_of_engine(options.release, world_size, options.serving.mount)
    files.write_atomic(destination / LAUNCH_NOTE, note_of_engine(launch, options.release, options.model))
    return launch


def model_config(model: str, release: str, serving: ServingOptions) -> "ModelConfig":
    """The configuration of one of the five models.

    Args:
        model: the name of the model.
        release: the release whose template is filled.
        serving: the serving options of the spec. They also override parameters with a fixed value in the template.

    Raises:
        UsageError: when the release has no templates any more.
    """
    known, values = _template(release, model), _values(model, release, serving)
    described = {
        "name": model,
        "max_batch_size": values["triton_max_batch_size"],
        **known.settings,
        "input": [{"name": name, **tensor} for name, tensor in known.inputs.items()],
        "output": [{"name": name, **tensor} for name, tensor in known.outputs.items()],
    }
    config = json_format.ParseDict(_filled(described, values), model_config_pb2.ModelConfig())
    for name, written in known.parameters.items():
        config.parameters[name].string_value = _parameter(name, written, values, serving)
    if model == "ensemble":
        add_steps(config, _steps(release))
    if model == "postprocessing" and serving.decoupled and serving.postprocessing_instance_count > 1:
        config.dynamic_batching.preserve_ordering = True  # the pieces of a stream must stay in order
    return config


def text(value: Any) -> str:
    """A value as text, in the notation of the C++ backend's parameters."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        lists = bool(value) and isinstance(value[0], tuple)
        return ", ".join(f"{{{text(each)}}}" for each in value) if lists else ",".join(map(str, value))
    return str(value)


def _template(release: str, model: str) -> Template:
    found = template(release, model).value
    if found is None:
        raise UsageError(
            f"TensorRT-LLM {release} has no Triton templates for engines any more",
            subject="release",
            remedy="use backend: pytorch, or an earlier release",
        )
    return found


def _steps(release: str) -> tuple[Step, ...]:
    """The steps of the ensemble. The script of `tensorrt_llm_bls` has the same steps."""
    found = [_template(release, model) for model in STEPS]
    return tuple(Step(known.model, known.takes, known.gives) for known in found)


def _values(model: str, release: str, serving: ServingOptions) -> dict[str, Any]:
    """The value of every placeholder, of any release. With None, the release uses its own default."""
    own = next((found for known, found in OF_RELEASE.items() if Version(known) == Version(release)), {})
    unset = {**DEFAULTS, **own}
    owner = model if model in WITH_TOKENIZER else WITH_TOKENIZER[0]
    found: dict[str, Any] = {
        **FIXED,
        "engine_dir": f"{serving.mount}/{ENGINE_MODEL}/{PACKAGED_VERSION}",
        "tokenizer_dir": f"{serving.mount}/{owner}/{PACKAGED_VERSION}/{TOKENIZER_DIRECTORY}",
    }
    for placeholder in KNOWN - found.keys():
        field = FIELDS.get(placeholder, placeholder)
        given = getattr(serving, field)
        found[placeholder] = unset.get(field) if given is None else given
    return found


def _parameter(name: str, written: str, values: Mapping[str, Any], serving: ServingOptions) -> str:
    """A parameter's value: placeholders are filled, and a fixed value stays unless the spec sets the parameter."""
    if PLACEHOLDER.search(written):
        return text(_filled(written, values))
    given = getattr(serving, name, None)
    return written if given is None else text(given)


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """`part` with values in place of its placeholders. A placeholder is always a whole string."""
    if isinstance(part, Mapping):
        return {name: _filled(each, values) for name, each in part.items()}
    if isinstance(part, list):
        return [_filled(each, values) for each in part]
    found = PLACEHOLDER.fullmatch(part) if isinstance(part, str) else None
    return values[found[1]] if found else part


def _read_engine(directory: Path) -> tuple[int, int | None]:
    """Read the number of ranks of an engine, and the most beams of a request (None if the engine does not say)."""
    content = _read(directory)
    world_size = int(_part(_part(content, "pretrained_config"), "mapping").get("world_size") or 1)
    missing = [f"rank{rank}.engine" for rank in range(world_size) if not (directory / f"rank{rank}.engine").is_file()]
    if missing:
        problem = f"the engine says that it has {world_size} ranks, but {', '.join(missing)} is not there"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY)
    return world_size, _part(content, "build_config").get("max_beam_width")


def _read(directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((directory / ENGINE_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"is not an engine of trtllm-build: {ENGINE_CONFIG}: {error}"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY) from error
    if not isinstance(content, dict) or "pretrained_config" not in content:
        problem = f"is not an engine of trtllm-build: {ENGINE_CONFIG} has no pretrained_config"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY)
    return content


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _require_fit(world_size: int, max_beam_width: int | None, options: InflightOptions) -> None:
    wanted = options.world_size
    if wanted is not None and world_size != wanted:
        raise UsageError(
            f"the engine has {world_size} ranks, but the target asks for {wanted}",
            subject="engine",
            remedy="build it again: tensor_parallel and pipeline_parallel decide its ranks",
        )
    beams = options.serving.max_beam_width or DEFAULTS["max_beam_width"]
    if max_beam_width is not None and beams > max_beam_width:
        raise UsageError(
            f"max_beam_width is {beams}, but the engine was built for {max_beam_width}",
            subject="serving.max_beam_width",
            remedy=f"set it to {max_beam_width}, or build.max_beam_width to {beams}",
        )
