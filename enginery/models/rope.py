"""The rotary embeddings of a model, however its `config.json` writes them.

They are written as `rope_theta` and `rope_scaling`; in one object, `rope_parameters`; in such an object for each kind
of layer; with a base of its own for layers with a sliding window (`rope_local_base_freq`); and under older names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from enginery.models.settings import Settings, is_positive

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
OF_A_KIND = "_attention"
"""The end of the name of a kind of layers."""
CHATGLM_BASE = 10000.0
"""ChatGLM's base before it is multiplied with `rope_ratio`."""
KINDS = ("rope_type", "type")
NEVER_SCALED = (None, "default")
BASES = ("rope_theta", "rotary_emb_base", "rotary_base", "rope_embedding_base")
SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_percent")
NEW = "rope_parameters"
OBJECTS = ("rope_scaling", NEW)
"""Objects in which a file has rotary settings. What `rope_scaling` says goes first, as in transformers."""
NUMBERS = (
    *("low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    *("attention_factor", "mscale", "mscale_all_dim", "short_mscale", "long_mscale"),
)
"""Settings of scaled embeddings that are single numbers."""
FACTORS = ("short_factor", "long_factor")
"""Settings that are lists of numbers, one for each pair of dimensions."""
NEEDED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
"""Kind of scaling -> settings without which transformers cannot compute it."""
OF_A_ROPE = frozenset({"rope_theta", "factor", *KINDS})


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
    if nested := by_layer_type(settings):
        return nested
    main, usual = _main(settings, head_size), _class_ropes(settings)
    local = settings.number("rope_local_base_freq", "rope_local_theta")
    if local is not None:
        return {FULL: main, SLIDING: Rope(local, None, main.share)}
    return {**usual, FULL: main}


def is_read_without(settings: Settings, head_size: int, ropes: Mapping[str, Rope]) -> bool:
    """Whether these are the rotary embeddings for a reader that does not know `rope_parameters`, too.

    transformers 4 does not. It takes what the file says elsewhere, else what the class has.
    """
    if NEW not in settings.own or any(map(_is_about_ropes, settings.problems.items())):
        return True  # what cannot be read at all is reported as that
    others = {name: value for name, value in settings.own.items() if name != NEW}
    found = read_ropes(Settings(others, settings.defaults), head_size)
    usual = found.get(FULL, Rope())
    return all(_same(rope, found.get(kind, usual)) for kind, rope in ropes.items())


def _is_about_ropes(found: tuple[str, str]) -> bool:
    """Whether a rotary setting has a value that cannot be read. One that is left out is no such value."""
    place, problem = found
    return ("rope" in place or "rotary" in place) and not problem.startswith("is None")


def _same(rope: Rope, other: Rope) -> bool:
    return rope == replace(other, share=rope.share if other.share is None else other.share)


def _main(settings: Settings, head_size: int) -> Rope:
    """The rotary embeddings of a model that has one kind, or of its layers that attend to the whole sequence."""
    own = settings.file_only()
    objects = [*map(own.inside, OBJECTS), own.part("attn_config")]
    usual = _class_ropes(settings).get(FULL, Rope())
    scaling = _scaling(objects[:2])
    if not {*OBJECTS} & set(settings.own):
        scaling = usual.scaling
    theta = _theta(objects, settings)
    if theta is None and not _is_unreadable(settings):
        theta = usual.theta
    return Rope(theta, scaling, _share(objects, settings, head_size) or usual.share)


def _theta(objects: list[Settings], settings: Settings) -> float | None:
    found = (inner.number("rope_theta") for inner in objects)
    if (theta := next((theta for theta in found if theta is not None), None)) is not None:
        return theta
    bases = settings.stated("rope_theta")
    if isinstance(bases, list) and not settings.defaults and bases and all(map(is_positive, bases)):
        return float(bases[0]) if len(set(bases)) == 1 else None  # one for each layer, in a model with its own code
    if (theta := settings.number(*BASES)) is not None:
        return theta
    ratio = settings.number("rope_ratio")
    return CHATGLM_BASE * ratio if ratio is not None else None


def _is_unreadable(settings: Settings) -> bool:
    """Whether the file says a base, but in a way that cannot be read."""
    wrong = {problem.rpartition(".")[2] for problem in settings.problems}
    return bool(wrong & {*BASES, *OBJECTS, "rope_ratio"}) or isinstance(settings.stated("rope_theta"), list)


def _share(objects: list[Settings], settings: Settings, head_size: int) -> float | None:
    found = (inner.number("partial_rotary_factor") for inner in objects)
    share = next((share for share in found if share is not None), None) or settings.number(*SHARES)
    rotated = settings.size("rotary_dim")
    return share or (rotated / head_size if rotated and head_size else None)


def _scaling(objects: list[Settings]) -> Mapping[str, Any] | None:
    """How positions are scaled, with the kind under one name. None if they are not, or the file cannot be read."""
    merged = {name: value for inner in reversed(objects) for name, value in inner.own.items()}
    left_out = {"rope_theta", "partial_rotary_factor", *KINDS}
    scaling = {name: value for name, value in merged.items() if name not in left_out}
    kinds = [(inner, name, inner.own[name]) for inner in objects for name in KINDS if inner.own.get(name) is not None]
    factors = [(inner, inner.own["factor"]) for inner in objects if inner.own.get("factor") is not None]
    for inner, name, kind in kinds:
        if not isinstance(kind, str):
            inner.note(name, kind, "the name of a kind of scaling, as text")
            return None
    for inner, factor in factors:
        if not is_positive(factor) and not isinstance(factor, list):
            inner.note("factor", factor, "a positive number")
            return None
    if factors and not kinds:
        factors[0][0].note("rope_type", None, "the name of a kind of scaling, because there is a factor")
    for inner in objects:
        _check_numbers(inner)
    kind = kinds[0][2] if kinds else None
    if missing := [name for name in NEEDED.get(str(kind), ()) if merged.get(name) is None]:
        kinds[0][0].note(missing[0], None, f"a number, because the kind of scaling is {kind}")
    return None if kind in NEVER_SCALED else {**scaling, "rope_type": kind}


def _check_numbers(inner: Settings) -> None:
    for name in NUMBERS:
        value = inner.own.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            inner.note(name, value, "a number")
    for name in FACTORS:
        value = inner.own.get(name)
        if value is not None and not (isinstance(value, list) and value and all(map(is_positive, value))):
            inner.note(name, value, "a list of positive numbers")


def by_layer_type(settings: Settings) -> dict[str, Rope]:
    """The rotary embeddings where each kind of layer has an object of its own; empty where that is not so."""
    for name in (NEW, "rope_scaling"):
        kinds = [kind for kind, value in _items(settings.own.get(name)) if isinstance(value, Mapping)]
        if kinds and not OF_A_ROPE.intersection(kinds):
            outer = settings.file_only().inside(name)
            for kind, value in _items(outer.own):
                if kind.endswith(OF_A_KIND) and value is not None and not isinstance(value, Mapping):
                    outer.note(kind, value, "an object")
            return {kind: _nested(outer.inside(kind), settings, kind) for kind in kinds}
    return {}


def _items(value: object) -> Iterator[tuple[str, Any]]:
    yield from value.items() if isinstance(value, Mapping) else ()


def _nested(inner: Settings, settings: Settings, kind: str) -> Rope:
    classes = _class_ropes(settings)
    usual = classes.get(kind) or classes.get(FULL) or Rope()
    theta = inner.number("rope_theta")
    if theta is None and not _is_unreadable(settings):
        theta = settings.number(*BASES) or usual.theta
    return Rope(theta, _scaling([inner]), inner.number("partial_rotary_factor") or settings.number(*SHARES))


def _class_ropes(settings: Settings) -> dict[str, Rope]:
    """The rotary embeddings of the class, by kind of layer."""
    parameters = settings.defaults.get(NEW)
    if not isinstance(parameters, Mapping):
        return {}
    nested = {kind: value for kind, value in parameters.items() if isinstance(value, Mapping)}
    kinds = nested or {FULL: parameters}
    return {
        kind: Rope(value.get("rope_theta"), _scaling([Settings(value)]), value.get("partial_rotary_factor"))
        for kind, value in kinds.items()
    }
