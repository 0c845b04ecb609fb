"""What an engine predicts for each token of the reference's sequences, as a validation step measured it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.builds.verdicts.reference import NOT_ARRAYS, ReferenceFacts
from enginery.core.errors import StoreError
from enginery.core.late import late
from enginery.core.model import Frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = late("numpy")

DISTRIBUTION_FILE = "distribution.npz"


class DistributionFacts(Frozen):
    """How the engine's predictions were measured.

    Attributes:
        method: `logits` for all tokens of a sequence at once, `prefixes` for one generated token after the beginning of
            a sequence, `none` if nothing was measured.
        why: the reason for this method, and what it cannot measure; empty for `logits` of every row.
        rows: how many rows were measured.
    """

    method: str = "none"
    why: str = ""
    rows: int = 0


@dataclass(frozen=True)
class Distribution:
    """The engine's predictions: one row for each predicted token of the reference, in the same order.

    Attributes:
        top_logprobs: [N, K]; its log-probabilities of the tokens that the reference thinks most likely. NaN where the
            runtime does not say it.
        next_logprobs: [N]; its log-probability of the token that comes; NaN where the runtime does not say it.
        argmax: [N]; the token that it thinks most likely; -1 where it was not measured.
        nonfinite: [N]; how many logits were NaN or infinite.
        measured: [N]; whether the row was measured.
    """

    top_logprobs: "npt.NDArray[np.float32]"
    next_logprobs: "npt.NDArray[np.float32]"
    argmax: "npt.NDArray[np.int32]"
    nonfinite: "npt.NDArray[np.int32]"
    measured: "npt.NDArray[np.bool_]"


def read_distribution(directory: Path, reference: ReferenceFacts) -> Distribution | None:
    """The predictions in the output of a validation step; None if the step measured none.

    Args:
        directory: the output.
        reference: the reference that the engine was compared with.

    Raises:
        StoreError: when the file cannot be read, or its rows are not those of the reference.
    """
    path = directory / DISTRIBUTION_FILE
    if not path.exists():
        return None
    names = Distribution.__dataclass_fields__
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = Distribution(**{name: arrays[name] for name in names})
    except NOT_ARRAYS as error:
        raise _refused(path, f"is not the predictions of an engine: {error}") from error
    wanted = (reference.total_rows, reference.kept)
    shapes = {name: getattr(found, name).shape for name in names}
    for name, shape in shapes.items():
        if shape != (wanted if name == "top_logprobs" else wanted[:1]):
            raise _refused(path, f"has {name} of shape {shape} for {wanted[0]} rows of {wanted[1]} tokens")
    return found


def _refused(path: Path, problem: str) -> StoreError:
    remedy = "remove the step from the store and run the build again"
    return StoreError(problem, subject=str(path), remedy=remedy)
