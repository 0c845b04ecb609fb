"""The steps that write the Triton model repository of an engine, or of a checkpoint for the LLM API.

Their `engine` input is what was built: for the LLM API that is a checkpoint. `weights` has the tokenizer.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from enginery.backends.pytorch.quantize import PLAIN, algorithm_name, quantized_to, read_quantization
from enginery.core.errors import SourceError
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.releases import MODELS as INFLIGHT_MODELS
from enginery.releases import Certainty, template
from enginery.spec import ServingOptions
from enginery.store import StepContext
from enginery.triton import (
    ENGINE_MODEL,
    MODELS,
    InflightOptions,
    LlmApiOptions,
    write_inflight_repository,
    write_llmapi_repository,
)


class PackageParameters(Frozen):
    """What both steps are given.

    Attributes:
        served_models_sha256: only for the step's key: other served models make another repository.
    """

    model: str
    target: str
    release: str
    served_models_sha256: str


class InflightParameters(PackageParameters):
    """The parameters of `package_inflight`."""

    serving: Mapping[str, Any]
    tensor_parallel: int = 1
    pipeline_parallel: int = 1


class LlmApiParameters(PackageParameters):
    """The parameters of `package_llmapi`."""

    precision: str
    world_size: int
    arguments: Mapping[str, JsonValue]
    llm_class: str
    serving: ServingOptions
    warm_up: tuple[int, ...]


def package_inflight(context: StepContext) -> Facts:
    """Write the model repository of a TensorRT-LLM engine. The step function `package_inflight`.

    Raises:
        EngineryError: when the engine or the tokenizer is not what the repository needs.
    """
    parameters = InflightParameters.model_validate(dict(context.parameters))
    options = InflightOptions.model_validate(
        {
            "release": parameters.release,
            "model": parameters.model,
            "serving": parameters.serving,
            "world_size": parameters.tensor_parallel * parameters.pipeline_parallel,
        }
    )
    launch = write_inflight_repository(
        context.output, engine=context.inputs["engine"], weights=context.inputs["weights"], options=options
    )
    used = _templates_used(parameters.release)
    context.log(
        f"model repository with {', '.join(INFLIGHT_MODELS)}; templates of {used['release']} ({used['certainty']})"
    )
    return {
        "models": list(INFLIGHT_MODELS),
        "decoupled": options.serving.decoupled,
        "launch": launch.facts(),
        "templates": used,
    }


def package_llmapi(context: StepContext) -> Facts:
    """Write the model repository of a checkpoint. The step function `package_llmapi`.

    Raises:
        SourceError: when the checkpoint is quantized to something else than the target says, or has no tokenizer.
        StoreError: when something cannot be written.
    """
    parameters = LlmApiParameters.model_validate(dict(context.parameters))
    checkpoint, weights = context.inputs["engine"], context.inputs["weights"]
    _require_precision(parameters.precision, read_quantization(checkpoint))
    options = LlmApiOptions(
        **parameters.model_dump(include={"release", "model", "arguments", "llm_class", "warm_up", "world_size"}),
        serving=parameters.serving,
        labels={"enginery_model": parameters.model, "enginery_target": parameters.target},
    )
    launch = write_llmapi_repository(context.output, checkpoint=checkpoint, weights=weights, options=options)
    context.log(f"model repository with {', '.join(MODELS)}")
    return {"models": list(MODELS), "decoupled": parameters.serving.decoupled, "launch": launch.facts()}


def _templates_used(release: str) -> dict[str, Any]:
    """The release whose templates are filled in, and how surely they fit this one."""
    provenance = template(release, ENGINE_MODEL).provenance
    note = provenance.note if provenance.certainty is Certainty.NEAREST else ""
    return {"release": provenance.release, "certainty": str(provenance.certainty), "note": note}


def _require_precision(wanted: str, quantization: Mapping[str, object]) -> None:
    """Compare with the checkpoint's own files: a plan may not have seen the one that says how it is quantized."""
    found = quantized_to(quantization) if quantization else None
    if found == wanted or (not quantization and wanted in set(PLAIN)):
        return
    described = algorithm_name(quantization) if quantization else "not quantized"
    raise SourceError(
        f"the checkpoint is {described}; the target's precision is {wanted}",
        subject="source",
        remedy=f"use precision: {found}" if found else "use a source that is not quantized",
    )
