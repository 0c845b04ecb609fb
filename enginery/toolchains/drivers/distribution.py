"""Measures how likely an engine finds the tokens of a reference. Drivers import it when they get a reference.

A reference has sequences of tokens. Row by row, in their order, it names the tokens that the original weights think
most likely there. This module keeps what the engine thinks of the same tokens, and writes `distribution.npz`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS_AT_ONCE = 64
"""So many rows of logits are made into probabilities at once: a row has as many as the vocabulary has tokens."""


@dataclass(frozen=True)
class Sequence:
    """A sequence of tokens, of which those from `first` on are predicted.

    Attributes:
        ids: the tokens.
        first: the position of the first that is predicted.
        row: the row of its prediction.
    """

    ids: list[int]
    first: int
    row: int

    def rows(self, count: int) -> slice:
        """The rows of the first `count` predictions."""
        return slice(self.row, self.row + count)


class Recorder:
    """Takes an engine's predictions, and writes them."""

    def __init__(self, reference: Path) -> None:
        """Read the reference. No row is measured yet."""
        facts = json.loads((reference / "reference.json").read_text(encoding="utf-8"))
        with np.load(reference / "logprobs.npz", allow_pickle=False) as arrays:
            self.top_ids = arrays["top_ids"].astype(np.int64)
        self.vocabulary = int(facts["vocab_size"])
        self.sequences = list(_sequences(facts["sequences"]))
        rows, kept = self.top_ids.shape
        self.top_logprobs = np.full((rows, kept), np.nan, np.float32)
        self.next_logprobs = np.full(rows, np.nan, np.float32)
        self.argmax = np.full(rows, -1, np.int32)
        self.nonfinite = np.zeros(rows, np.int32)
        self.measured = np.zeros(rows, np.bool_)

    @property
    def longest_input(self) -> int:
        """Tokens of the longest input: the last token of a sequence is only predicted."""
        return max((len(one.ids) - 1 for one in self.sequences), default=0)

    def logits(self, sequence: Sequence, found: Any, skipped: int = 0) -> None:
        """Keep the logits of a sequence's predictions.

        Args:
            sequence: the sequence.
            found: [predictions, width]; a width beyond the vocabulary is padding.
            skipped: how many predictions of the sequence come before.

        Raises:
            ValueError: when the engine has fewer logits than the vocabulary has tokens.
        """
        if found.shape[-1] < self.vocabulary:
            raise ValueError(f"the engine has {found.shape[-1]} logits, the original weights {self.vocabulary}")
        for start in range(0, len(found), ROWS_AT_ONCE):
            part = as_float(found[start : start + ROWS_AT_ONCE])[:, : self.vocabulary]
            begin = skipped + start
            self._keep(sequence, begin, part)

    def _keep(self, sequence: Sequence, begin: int, logits: Any) -> None:
        rows = slice(sequence.row + begin, sequence.row + begin + len(logits))
        following = np.array(sequence.ids[sequence.first + begin :][: len(logits)], np.int64)
        top, lines = self.top_ids[rows], np.arange(len(logits))
        total = log_of_sum(logits)
        # A token may be forbidden with minus infinity, but none of those that the original weights think likely.
        likely, comes = logits[lines[:, None], top], logits[lines, following]
        forbidden = np.isneginf(likely).sum(axis=1) + np.isneginf(comes)
        wrong = np.where(np.isfinite(total), 0, (np.isnan(logits) | np.isposinf(logits)).sum(axis=1))
        self.nonfinite[rows] = wrong + forbidden
        with np.errstate(invalid="ignore"):
            self.top_logprobs[rows] = likely - total[:, None]
            self.next_logprobs[rows] = comes - total
        self.argmax[rows] = logits.argmax(axis=1)
        self.measured[rows] = True

    def token(self, row: int, token: int) -> None:
        """Keep the most likely token of one row, when the runtime says nothing else."""
        self.argmax[row] = token
        self.measured[row] = True

    def write(self, path: Path) -> None:
        """Write everything."""
        np.savez_compressed(
            path,
            top_logprobs=self.top_logprobs,
            next_logprobs=self.next_logprobs,
            argmax=self.argmax,
            nonfinite=self.nonfinite,
            measured=self.measured,
        )

    def described(self, method: str, why: str) -> dict[str, Any]:
        """What the report says of the measurement."""
        rows, missing = int(self.measured.sum()), int((~self.measured).sum())
        left = f"{missing:,} of {len(self.measured):,} predictions were not measured" if missing else ""
        return {"method": method if rows else "none", "why": "; ".join(filter(None, [why, left])), "rows": rows}


def _sequences(written: list[dict[str, Any]]) -> Iterator[Sequence]:
    row = 0
    for one in written:
        yield Sequence([int(token) for token in one["ids"]], int(one["first"]), row)
        row += len(one["ids"]) - int(one["first"])


def as_float(logits: Any) -> Any:
    """Logits in float32. NumPy has no bfloat16: some libraries give its bits as whole numbers of 16 bits."""
    found = np.asarray(logits)
    if found.dtype == np.uint16:
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def log_of_sum(logits: Any) -> Any:
    """The logarithm of the sum of exponentials of each row, in float64; not finite if a logit is NaN or infinite."""
    largest = logits.max(axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.exp(logits - largest[:, None]).sum(axis=-1, dtype=np.float64)
        return largest.astype(np.float64) + np.log(sums)
