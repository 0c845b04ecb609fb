"""A `config.pbtxt` of the release's own shape: the template's tensors, settings and parameters, with values in it."""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from enginery.errors import UsageError
from enginery.releases.templates import STEPS, Template, template
from enginery.spec import ServingOptions
from enginery.triton.inflight.values import text

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # type: ignore[import-untyped,unused-ignore]

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
    from google.protobuf import json_format  # noqa: PLC0415  heavy, and a plan needs none of it
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # noqa: PLC0415

    known = require_template(release, model)
    described = {
        "name": model,
        "max_batch_size": values["triton_max_batch_size"],
        **known.settings,
        "input": _tensors(known.inputs),
        "output": _tensors(known.outputs),
    }
    config = json_format.ParseDict(_filled(described, values), ModelConfig())
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
