"""Findings for models that are no language models, the same for every backend."""

from collections.abc import Iterator

from enginery.models import ANSWERS_NO_TEXT, ModelFacts, ModelKind, architecture_named, reads_more_than_text
from enginery.spec import Finding

REMEDIES = {
    ModelKind.DRAFT: "use the model that it drafts for",
    ModelKind.EMBEDDING: "use the model with its output layer, whose architecture ends in ForCausalLM",
    ModelKind.ENCODER_DECODER: "use a model of a decoder alone, whose architecture ends in ForCausalLM",
}
"""Kind -> what to do. The remedy of the other kinds is `OTHERWISE`."""
OTHERWISE = "use a model that continues texts, whose architecture ends in ForCausalLM"


def kind_finding(model: ModelFacts, backend: str, reason: str = "it builds decoders alone") -> Finding | None:
    """The finding for a model that generates no text, or that the backend has no way to build; None if it may be built.

    Args:
        model: the model.
        backend: words for the backend.
        reason: why it builds no encoder-decoder models; empty if it does.
    """
    kind = model.kind
    named = model.architecture or f"a model of type {model.model_type}"
    remedy = REMEDIES.get(kind, OTHERWISE)
    if kind in ANSWERS_NO_TEXT:
        return Finding("E195", "backend", f"{named} is {kind}", remedy)
    if kind is ModelKind.ENCODER_DECODER and reason:
        return Finding("E195", "backend", f"{named} is {kind}, and {backend} cannot serve it: {reason}", remedy)
    return None


def unnamed(code: str, reason: str, model: ModelFacts, known: frozenset[str]) -> Finding:
    """The finding for a `config.json` that does not say its architecture.

    Args:
        code: its code.
        reason: why the architecture is needed.
        model: the model; its type may tell the architecture.
        known: the architectures that the backend knows.
    """
    problem = f"the model's config.json does not say its architecture, and {reason}"
    likely = architecture_named(model.model_type, known)
    return Finding(code, "backend", problem, f'add "architectures": ["{likely or "…"}"] to config.json')


def model_notes(model: ModelFacts | None) -> Iterator[str]:
    """A note if the model could do more than the engine does."""
    if model is not None and reads_more_than_text(model.architecture):
        yield f"{model.architecture} also reads images, video or sound; its engine takes text alone"
