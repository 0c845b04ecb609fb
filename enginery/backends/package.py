"""The steps that write the Triton model repository of an engine, or of a checkpoint for the LLM API.

The input `engine` is the engine or, for the LLM API, the checkpoint. The input `weights` has the tokenizer.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from enginery.backends.pytorch.quantize import algorithm_name, quantized_to, read_quantization
from enginery.core.errors import SourceError
from enginery.core.progress import Facts
from enginery.releases import MODELS as INFLIGHT_MODELS
from enginery.releases import Certainty, template
from enginery.spec import FLOATS
from enginery.store import StepContext
from enginery.triton import (
    ENGINE_MODEL,
    MODELS,
    InflightOptions,
    LlmApiOptions,
    write_inflight_repository,
    write_llmapi_repository,
)


class InflightParameters(InflightOptions):
    """The parameters of `package_inflight`: how the engine is to be served, and what else is in the step's key."""

    target: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    served_models_sha256: str


class LlmApiParameters(LlmApiOptions):
    """The parameters of `package_llmapi`: how the checkpoint is to be served, and what else is in the step's key."""

    target: str
    precision: str
    served_models_sha256: str


def package_inflight(context: StepContext) -> Facts:
    """Write the model repository of a TensorRT-LLM engine. The step function `package_inflight`.

    Raises:
        EngineryError: when the engine or the tokenizer is not what the repository needs.
    """
    parameters = InflightParameters.model_validate(dict(context.parameters))
    world_size = parameters.tensor_parallel * parameters.pipeline_parallel
    options = parameters.model_copy(update={"world_size": world_size})
    launch = write_inflight_repository(
        context.output, engine=context.inputs["engine"], weights=context.inputs["weights"], options=options
    )
    provenance = template(parameters.release, ENGINE_MODEL).provenance
    note = provenance.note if provenance.certainty is Certainty.NEAREST else ""
    used: dict[str, JsonValue] = {"release": provenance.release, "certainty": str(provenance.certainty), "note": note}
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
        SourceError: when the checkpoint has another precision than the target, or no tokenizer.
        StoreError: when something cannot be written.
    """
    parameters = LlmApiParameters.model_validate(dict(context.parameters))
    checkpoint, weights = context.inputs["engine"], context.inputs["weights"]
    _require_precision(parameters.precision, read_quantization(checkpoint))
    labels = {"enginery_model": parameters.model, "enginery_target": parameters.target}
    options = parameters.model_copy(update={"labels": labels})
    launch = write_llmapi_repository(context.output, checkpoint=checkpoint, weights=weights, options=options)
    context.log(f"model repository with {', '.join(MODELS)}")
    return {"models": list(MODELS), "decoupled": parameters.serving.decoupled, "launch": launch.facts()}


def _require_precision(wanted: str, quantization: Mapping[str, object]) -> None:
    """Check the precision in the checkpoint's own files: a plan may be made without the file that contains it."""
    found = quantized_to(quantization) if quantization else None
    if found == wanted or (not quantization and wanted in FLOATS):
        return
    described = algorithm_name(quantization) if quantization else "not quantized"
    raise SourceError(
        f"the checkpoint is {described}; the target's precision is {wanted}",
        subject="source",
        remedy=f"use precision: {found}" if found else "use a source that is not quantized",
    )
