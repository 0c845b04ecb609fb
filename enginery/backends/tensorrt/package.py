"""The step that packages an engine of TensorRT-LLM."""

from collections.abc import Mapping
from typing import Any

from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.releases import MODELS, Certainty, template
from enginery.store import StepContext
from enginery.triton import ENGINE_MODEL, InflightOptions, write_inflight_repository


class PackageParameters(Frozen):
    """The parameters of the step.

    Attributes:
        served_models_sha256: only there for the step's key: other served models make another repository.
    """

    model: str
    target: str
    release: str
    serving: Mapping[str, Any]
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    served_models_sha256: str


def package(context: StepContext) -> Facts:
    """Make the model repository of a TensorRT-LLM engine. The inputs are `engine` and `weights`.

    Raises:
        EngineryError: when the engine or the tokenizer is not what the repository needs.
    """
    order = PackageParameters.model_validate(dict(context.parameters))
    options = InflightOptions.model_validate(
        {
            "release": order.release,
            "model": order.model,
            "serving": order.serving,
            "world_size": order.tensor_parallel * order.pipeline_parallel,
        }
    )
    launch = write_inflight_repository(
        context.output, engine=context.inputs["engine"], weights=context.inputs["weights"], options=options
    )
    said = templates_used(order.release)
    context.log(f"model repository with {', '.join(MODELS)}; templates of {said['release']} ({said['certainty']})")
    return {
        "models": list(MODELS),
        "decoupled": options.serving.decoupled,
        "launch": launch.facts(),
        "templates": said,
    }


def templates_used(release: str) -> dict[str, Any]:
    """Whose templates are filled for a release, how they became known, and what is to be said of that."""
    provenance = template(release, ENGINE_MODEL).provenance
    note = provenance.note if provenance.certainty is Certainty.NEAREST else ""
    return {"release": provenance.release, "certainty": str(provenance.certainty), "note": note}
