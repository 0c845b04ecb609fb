"""Which batch sizes CUDA graphs are captured for, and which the server warms up with.

A graph is captured when the model is loaded, so the first user does not wait for it; a batch without one runs without,
slower. Batches are filled up to the next size that has a graph, so powers of two and the largest are enough.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from enginery.backends.pytorch.setting import Path, Setting, Settings

GRAPHS = "cuda_graph_config"
MOST_WARMED = 64
"""Larger batches only cost time at the start: what is compiled at first use does not depend on the size any more."""


def graph_sizes(largest: int) -> list[int]:
    """Powers of two up to the largest batch, and that."""
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def graph_arguments(given: Settings, largest: int) -> Iterator[tuple[Path, Setting]]:
    """The arguments that follow from the largest batch, where the user has not decided otherwise."""
    if (GRAPHS,) in given and given[GRAPHS,].value is None:
        return
    chosen = {(GRAPHS, "batch_sizes"), (GRAPHS, "max_batch_size")} & set(given)
    field = "serving.max_batch_size"
    if not chosen:
        yield (GRAPHS, "batch_sizes"), Setting(graph_sizes(largest), field, given=False)
    if (GRAPHS, "enable_padding") not in given:
        yield (GRAPHS, "enable_padding"), Setting(value=True, field=field, given=False)


def warm_up_sizes(triton: Mapping[str, Any], largest: int) -> list[int]:
    """The batch sizes to warm up with; none where the user says `warm_up: false`."""
    wanted = triton.get("warm_up", True)
    if isinstance(wanted, list):
        return sorted(set(wanted))
    return [size for size in graph_sizes(largest) if size <= MOST_WARMED] if wanted else []
