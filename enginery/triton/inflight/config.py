"""The `config.pbtxt` of the five models: the template of the release, filled with values.

The values come from the spec, else from the defaults below. A placeholder that is filled with nothing is left to the
release: its C++ backend then takes its own default, as for a template that was not filled.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from enginery.core.errors import UsageError
from enginery.core.late import late
from enginery.releases import STEPS, Template, template
from enginery.spec import DEFAULT_BATCH, ServingOptions

if TYPE_CHECKING:
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    json_format = late("google.protobuf.json_format")
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")


ENSEMBLE = "ensemble"
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
"""For every release: values that must not be empty, and those of NVIDIA's article that agree with the releases."""

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
"""Values that no spec sets: a repository has one decoder, and neither a draft model nor one for images."""

PATHS = frozenset({"engine_dir", "tokenizer_dir"})
"""Placeholders for the paths of the engine and the tokenizer."""

KNOWN = frozenset({*FIXED, *PATHS, *FIELDS, *(ServingOptions.model_fields.keys() - FIELDS.values())})
"""Every placeholder that can be filled."""


def values(release: str, serving: ServingOptions, paths: Mapping[str, str]) -> dict[str, Any]:
    """The value of each placeholder of any release; None leaves it to the release.

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
        given = getattr(serving, field)
        found[placeholder] = unset.get(field) if given is None else given
    return found


def text(value: Any) -> str:
    """A value in the notation of a parameter of the backend."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        lists = bool(value) and isinstance(value[0], tuple)
        return ", ".join(f"{{{text(each)}}}" for each in value) if lists else ",".join(map(str, value))
    return str(value)


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
        serving: what the spec says; it also overrides parameters that the template sets to a fixed value.

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
    config = json_format.ParseDict(_filled(described, values), model_config_pb2.ModelConfig())
    for name, written in known.parameters.items():
        config.parameters[name].string_value = _parameter(name, written, values, serving)
    if model == ENSEMBLE:
        _add_steps(config, release)
    if model == "postprocessing" and serving.decoupled and serving.postprocessing_instance_count > 1:
        config.dynamic_batching.preserve_ordering = True  # else the pieces of a stream may overtake each other
    return config


def _parameter(name: str, written: str, values: Mapping[str, Any], serving: ServingOptions) -> str:
    """A parameter's value: placeholders are filled, and a fixed value stays unless the spec sets the parameter."""
    if PLACEHOLDER.search(written):
        return text(_filled(written, values))
    given = getattr(serving, name, None)
    return written if given is None else text(given)


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """The same with values in place of placeholders, which are always whole strings."""
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
    """The steps of the ensemble, for `tensorrt_llm_bls`, which does the same: model -> names of its tensors there."""
    found = {model: require_template(release, model) for model in STEPS}
    return {
        model: {"takes": dict(sorted(known.takes.items())), "gives": dict(sorted(known.gives.items()))}
        for model, known in found.items()
    }
