"""How near weights are to the originals, by value, and what they look like if they are others.

Drivers import it as the file beside them. It needs numpy only.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MOST_VALUES = 1 << 22
"""Of larger matrices, only so many values are compared."""
SMALL_BLOCK = 0.25
"""The error of a block is relative to its own size, or to this share of an average block if it is smaller."""
ALIKE = 0.9
"""Two matrices with such a cosine between them are the same, but for rounding and scale."""
FARTHEST = 200
"""How many layers away another layer is looked for."""
LAYER = re.compile(r"(?<=model\.layers\.)(\d+)")


def relative(ours: Array, original: Array) -> float:
    """The norm of the difference, relative to the original's; infinite if ours has a NaN."""
    norm = float(np.linalg.norm(original))
    found = float(np.linalg.norm(ours - original)) / norm if norm else float(np.linalg.norm(ours))
    return found if math.isfinite(found) else math.inf


def worst_block(ours: Array, original: Array, block: int) -> tuple[float, tuple[int, int, int]]:
    """The largest error of a block, its row, and its first and last column."""
    wide = np.atleast_2d(original)
    columns = wide.shape[1]
    padding = ((0, 0), (0, -columns % block))
    different, whole = (
        np.linalg.norm(np.pad(each, padding).reshape(len(wide), -1, block), axis=-1)
        for each in (np.atleast_2d(ours) - wide, wide)
    )
    floor = SMALL_BLOCK * float(np.sqrt((whole**2).mean())) or 1.0
    errors = np.nan_to_num(different / np.maximum(whole, floor), nan=math.inf)
    row, column = np.unravel_index(int(errors.argmax()), errors.shape)
    start = int(column) * block
    return float(errors[row, column]), (int(row), start, min(start + block, columns) - 1)


Others = Iterator[tuple[str, Callable[[], Array]]]
"""Names of other weights of the same shape, and how to read each."""


def likeness(ours: Array, original: Array, others: Others, *, whole: bool) -> str:
    """What these values are, if they are not the original's; empty if they are.

    Args:
        ours: the values.
        original: those that they should be.
        others: what they may be in their place.
        whole: whether all of the matrix is there, and not a sample of its rows.
    """
    if not np.isfinite(ours).all():
        return "not finite"
    if not ours.any():
        return "all zero" if original.any() else ""
    if cosine(ours, original) >= ALIKE:
        factor = float((ours * original).sum() / (original * original).sum())
        return f"scaled by {factor:.2g}" if abs(factor - 1) > 1 - ALIKE else ""
    square = whole and ours.ndim > 1 and ours.shape[0] == ours.shape[1]
    if square and cosine(ours, original.T) >= ALIKE:
        return "transposed"
    like = next((name for name, read in others if cosine(ours, read()) >= ALIKE), "")
    if like:
        return f"those of {like}"
    return "its rows in another order" if same_rows(ours, original) else "other values"


def same_rows(ours: Array, original: Array) -> bool:
    """Whether two matrices have rows of the same lengths, in whatever order."""
    if ours.ndim == 1:
        return False
    lengths, others = (np.sort(np.linalg.norm(each, axis=1)) for each in (ours, original))
    return relative(lengths, others) < 1 - ALIKE


def layers_in(name: str) -> list[int]:
    """The number of the layer that a weight belongs to, if it belongs to one."""
    return [int(number) for number in LAYER.findall(name)]


def neighbours(name: str) -> Iterator[str]:
    """The names of the same weight in other layers, the nearest first."""
    layer = LAYER.search(name)
    if layer:
        for distance in range(1, FARTHEST):
            for other in (int(layer[0]) + distance, int(layer[0]) - distance):
                yield LAYER.sub(str(other), name, count=1)


def cosine(one: Array, other: Array) -> float:
    """The cosine between two matrices; 0 if one is zero."""
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float((one * other).sum()) / norms if norms else 0.0
