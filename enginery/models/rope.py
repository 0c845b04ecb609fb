"""The rotary embeddings of a model, however its `config.json` writes them.

They are written as `rope_theta` and `rope_scaling`; in one object, `rope_parameters`; in such an object for each kind
of layer; with a base of its own for layers with a sliding window (`rope_local_base_freq`); and under older names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.models.settings import Settings, is_positive

FULL, SLIDING = "full_attention", "sliding_attention"
CHATGLM_BASE = 10000.0
"""ChatGLM's base before it is multiplied with `rope_ratio`."""
NEVER_SCALED = (None, "default")
SETTINGS_OF_A_ROPE = frozenset({"rope_theta", "rope_type", "type", "factor"})
OLD_NAMES = ("rope_theta", "rotary_emb_base", "rotary_base")
OBJECTS = ("rope_parameters", "rope_scaling")
SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_percent")


@dataclass(frozen=True)
class Rope:
    """The rotary embeddings of one kind of layers.

    Attributes:
        theta: the base; None if it is not known.
        scaling: how positions are scaled for longer sequences, with the kind as `rope_type`; None if they are not.
        share: the part of each head that is rotated; None if it is not known.
    """

    theta: float | None = None
    scaling: Mapping[str, Any] | None = None
    share: float | None = None


def read_ropes(settings: Settings, head_size: int) -> dict[str, Rope]:
    """The rotary embeddings by kind of layer: `full_attention`, and others where they differ."""
    nested = _by_layer_type(settings)
    if nested:
        return nested
    main = _main(settings, head_size)
    local = settings.number("rope_local_base_freq", "rope_local_theta")
    default = _class_ropes(settings).get(SLIDING)
    if local is not None:
        return {FULL: main, SLIDING: Rope(local, None, main.share)}
    return {FULL: main, SLIDING: default} if default and default != main else {FULL: main}


def _main(settings: Settings, head_size: int) -> Rope:
    """The rotary embeddings of a model that has one kind, or of its layers that attend to the whole sequence."""
    parameters = _flat(settings)
    usual = _class_ropes(settings).get(FULL, Rope())
    written = "rope_parameters" if settings.own.get("rope_parameters") else "rope_scaling"
    inner = Settings(parameters, problems=settings.problems, path=f"{written}.")
    scaling: Mapping[str, Any] | None = _scaling(inner)
    if not {"rope_parameters", "rope_scaling"} & set(settings.own):
        scaling = usual.scaling
    theta = _theta(inner, settings) or (None if _is_unreadable(settings) else usual.theta)
    return Rope(theta, scaling, _share(inner, settings, head_size) or usual.share)


def _flat(settings: Settings) -> dict[str, Any]:
    """The object of the file with the rotary settings. What `rope_scaling` says goes first, as in transformers."""
    own = Settings(settings.own, problems=settings.problems)
    base = own.mapping("attn_config").get("rope_theta")  # DBRX
    nested = {} if base is None else {"rope_theta": base}
    return {**nested, **own.mapping("rope_parameters"), **own.mapping("rope_scaling")}


def _theta(inner: Settings, settings: Settings) -> float | None:
    if (theta := inner.number("rope_theta")) is not None:
        return theta
    bases = settings.stated("rope_theta")
    if isinstance(bases, list) and not settings.defaults and bases and all(map(is_positive, bases)):
        return float(bases[0]) if len(set(bases)) == 1 else None  # one for each layer, in a model with its own code
    if (theta := settings.number(*OLD_NAMES)) is not None:
        return theta
    ratio = settings.number("rope_ratio")
    return CHATGLM_BASE * ratio if ratio is not None else None


def _is_unreadable(settings: Settings) -> bool:
    return any(problem.rpartition(".")[2] in {*OLD_NAMES, "rope_ratio", *OBJECTS} for problem in settings.problems)


def _share(inner: Settings, settings: Settings, head_size: int) -> float | None:
    share = inner.number("partial_rotary_factor") or settings.number(*SHARES)
    rotated = settings.size("rotary_dim")
    return share or (rotated / head_size if rotated and head_size else None)


def _scaling(rope: Settings) -> dict[str, Any] | None:
    """How positions are scaled, with the kind under one name. None if they are not, or the file cannot be read."""
    scaling = {name: value for name, value in rope.own.items() if name not in {"rope_theta", "partial_rotary_factor"}}
    kinds = [scaling.pop(name, None) for name in ("type", "rope_type")]
    kind = next((kind for kind in kinds if kind is not None), None)
    factor = scaling.get("factor")
    if kind is not None and not isinstance(kind, str):
        rope.note("rope_type", kind, "the name of a kind of scaling, as text")
        return None
    if factor is not None and not is_positive(factor) and not isinstance(factor, list):
        rope.note("factor", factor, "a positive number")
        return None
    if kind is None and factor is not None:
        rope.note("rope_type", None, "the name of a kind of scaling, because there is a factor")
    return None if kind in NEVER_SCALED else {**scaling, "rope_type": kind}


def _by_layer_type(settings: Settings) -> dict[str, Rope]:
    """The rotary embeddings where each kind of layer has an object of its own; empty where that is not so."""
    for name in OBJECTS:
        parameters = settings.own.get(name)
        kinds = [kind for kind, value in _items(parameters) if isinstance(value, Mapping)]
        if kinds and not SETTINGS_OF_A_ROPE.intersection(kinds):
            ropes = Settings(parameters or {}, problems=settings.problems, path=f"{name}.")
            return {kind: _nested(ropes.inside(kind), settings, kind) for kind in kinds}
    return {}


def _items(value: object) -> list[tuple[str, Any]]:
    return [(str(name), inner) for name, inner in value.items()] if isinstance(value, Mapping) else []


def _nested(inner: Settings, settings: Settings, kind: str) -> Rope:
    classes = _class_ropes(settings)
    usual = classes.get(kind) or classes.get(FULL) or Rope()
    theta = inner.number("rope_theta") or settings.number(*OLD_NAMES) or usual.theta
    return Rope(theta, _scaling(inner), inner.number("partial_rotary_factor") or settings.number(*SHARES))


def _class_ropes(settings: Settings) -> dict[str, Rope]:
    """The rotary embeddings of the class, by kind of layer."""
    parameters = settings.defaults.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return {}
    nested = {kind: value for kind, value in parameters.items() if isinstance(value, Mapping)}
    kinds = nested or {FULL: parameters}
    return {
        kind: Rope(value.get("rope_theta"), _scaling(Settings(value)), value.get("partial_rotary_factor"))
        for kind, value in kinds.items()
    }
