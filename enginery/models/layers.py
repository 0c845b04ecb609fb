"""What each layer of a model is: which attention it has, and whether it has experts."""

from collections.abc import Sequence

from enginery.models.rope import FULL, SLIDING
from enginery.models.settings import Settings

ALL_SLIDE = frozenset({"mistral", "mixtral", "phi3", "phimoe", "starcoder2", "minimax", "smollm3"})
"""Types of models in which every layer has the window, if the model has one."""
LLAMA4 = "llama4_text"
MOST_LAYERS = 10_000
"""More layers than this are a mistake in the file."""


def attention_kinds(settings: Settings, layers: int, model_type: str, window: int) -> tuple[str, ...]:
    """The kind of each layer's attention, such as `full_attention`; empty if the number of layers is not known."""
    if not 0 < layers <= MOST_LAYERS:
        return ()
    if listed := _listed(settings, layers):
        return listed
    if repeated := _pattern(settings):
        return tuple(repeated[layer % len(repeated)] for layer in range(layers))
    by_flag = window and settings.flag("use_sliding_window")
    first = settings.size("max_window_layers") if by_flag else 0 if window and model_type in ALL_SLIDE else layers
    return tuple(SLIDING if layer >= first else FULL for layer in range(layers))


def expert_layers(settings: Settings, layers: int, model_type: str) -> tuple[int, ...]:
    """The numbers of the layers that have experts, in a model with a mixture of experts."""
    numbers = range(layers if layers <= MOST_LAYERS else 0)
    listed = [number for number in settings.items("moe_layers") if isinstance(number, int)]
    if listed:
        return tuple(number for number in numbers if number in set(listed))
    if model_type == LLAMA4:
        step = settings.size("interleave_moe_layer_step") or 1
        return tuple(number for number in numbers if (number + 1) % step == 0)
    if settings.size("moe_layer_interval"):
        return _ernie(settings, layers)
    dense, step = settings.items("mlp_only_layers"), settings.size("decoder_sparse_step") or 1
    first, every = settings.size("first_k_dense_replace"), settings.size("moe_layer_freq") or 1
    return tuple(
        number
        for number in numbers
        if number >= first and number % every == 0 and (number + 1) % step == 0 and number not in dense
    )


def _listed(settings: Settings, layers: int) -> tuple[str, ...]:
    kinds = settings.own.get("layer_types")
    if kinds is None:
        return ()
    if isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds):
        return tuple(kinds[:layers]) if len(kinds) >= layers else ()
    settings.note("layer_types", kinds, "a list with the kind of each layer, as text")
    return ()


def _pattern(settings: Settings) -> Sequence[str]:
    """The kinds of the first layers, which repeat. The last of them attends to the whole sequence."""
    pattern = settings.own.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        return [SLIDING if kind == "L" else FULL for kind in pattern]
    period = settings.size("_sliding_window_pattern") if pattern is None else settings.size("sliding_window_pattern")
    if 0 < period <= MOST_LAYERS:
        return [*[SLIDING] * (period - 1), FULL]
    kinds = settings.defaults.get("layer_types")
    return kinds if isinstance(kinds, list) else []


def _ernie(settings: Settings, layers: int) -> tuple[int, ...]:
    first, last = settings.size("moe_layer_start_index"), settings.own.get("moe_layer_end_index")
    end = last + 1 if isinstance(last, int) and 0 <= last < layers else layers
    every = settings.size("moe_layer_interval")
    return tuple(number for number in range(first, min(end, MOST_LAYERS)) if (number + 1) % every == 0)
