"""The step that packages a checkpoint for the LLM API."""

from collections.abc import Mapping

from pydantic import JsonValue

from enginery.backends.pytorch.quantize import PLAIN, quantized_to, read_quantization, said_algorithm
from enginery.core.errors import SourceError
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.store import StepContext
from enginery.triton import MODELS, LlmApiOptions, Served, write_llmapi_repository


class PackageParameters(Frozen):
    """The parameters of the step.

    Attributes:
        served_models_sha256: only there for the step's key: another served model makes another repository.
    """

    model: str
    target: str
    release: str
    precision: str
    world_size: int
    arguments: Mapping[str, JsonValue]
    llm_class: str
    serving: Served
    warm_up: tuple[int, ...]
    served_models_sha256: str


def package(context: StepContext) -> Facts:
    """Make the model repository of a checkpoint. The inputs are `engine`, the checkpoint, and `weights`.

    Raises:
        SourceError: when the checkpoint is quantized to something else than the target says, or has no tokenizer.
        StoreError: when something cannot be written.
    """
    order = PackageParameters.model_validate(dict(context.parameters))
    checkpoint, weights = context.inputs["engine"], context.inputs["weights"]
    _require_precision(order.precision, read_quantization(checkpoint))
    options = LlmApiOptions(
        release=order.release,
        model=order.model,
        arguments=order.arguments,
        llm_class=order.llm_class,
        serving=order.serving,
        warm_up=order.warm_up,
        world_size=order.world_size,
        labels={"enginery_model": order.model, "enginery_target": order.target},
    )
    launch = write_llmapi_repository(context.output, checkpoint=checkpoint, weights=weights, options=options)
    context.log(f"model repository with {', '.join(MODELS)}")
    return {"models": list(MODELS), "decoupled": order.serving.decoupled, "launch": launch.facts()}


def _require_precision(wanted: str, quantization: Mapping[str, object]) -> None:
    """What a source is quantized to may stand in a file that the plan has not seen."""
    found = quantized_to(quantization) if quantization else None
    if found == wanted or (not quantization and wanted in set(PLAIN)):
        return
    said = said_algorithm(quantization) if quantization else "not quantized"
    raise SourceError(
        f"the checkpoint is {said}; the target's precision is {wanted}",
        subject="source",
        remedy=f"use precision: {found}" if found else "use a source that is not quantized",
    )
