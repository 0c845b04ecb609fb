"""The reference of a model: what its original weights predict. The gates compare an engine with it.

A reference step writes two files. `reference.json` has the sequences of tokens: windows of texts, and prompts with the
answers of the original weights. `logprobs.npz` has one row for each predicted token of them.

    reference = read_reference(Path("reference"))
    for sequence, rows in reference.rows():
        print(sequence.name, reference.logprobs.next_logprobs[rows].mean())
"""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Self

from pydantic import Field, model_validator

from enginery.core.errors import StoreError
from enginery.core.late import late
from enginery.core.model import Frozen

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = late("numpy")

REFERENCE_SCHEMA = 1
REFERENCE_FILE = "reference.json"
LOGPROBS_FILE = "logprobs.npz"
REFERENCE_DIRECTORY = "reference"
"""The directory of both files in a published build."""
NOT_ARRAYS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
"""What NumPy raises for a damaged `.npz` file: its own errors, and those of the archive, its data and its headers."""
MOST_KEPT = 64
"""How many of the most likely tokens each row has at most; the whole vocabulary if it is smaller."""


class ReferenceSequence(Frozen):
    """A sequence of tokens, of which those from `first` on are predicted.

    Attributes:
        name: such as `english-1`, the first window of the text `english`, or `prompt 2`.
        kind: `text`, or `answer` for a prompt with the reference's greedy answer.
        ids: all tokens. Those of an answer begin with the prompt's; the one that ended it is the last.
        first: the position of the first token that is predicted; in an answer, the length of the prompt.
        prompt: of an answer, the prompt as it was sent.
        finish: of an answer, `eos` when the model ended it, `length` when it reached its limit.
        text: of an answer, its text without special tokens; empty if the answer was cut later.
    """

    name: str
    kind: Literal["text", "answer"]
    ids: tuple[int, ...]
    first: int = Field(ge=1)
    prompt: str = ""
    finish: Literal["", "eos", "length"] = ""
    text: str = ""

    @model_validator(mode="after")
    def _predicts_a_token(self) -> Self:
        if self.first >= len(self.ids):
            raise ValueError(f"{self.name} has {len(self.ids)} tokens, and the first predicted one is {self.first}")
        return self

    @property
    def rows(self) -> int:
        """The number of its predicted tokens: so many rows it has."""
        return len(self.ids) - self.first

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The predicted tokens."""
        return self.ids[self.first :]


class ReferenceFacts(Frozen):
    """What `reference.json` says.

    Attributes:
        dtype: the number format that the weights were run in, such as `float32`.
        device: where they were run, such as `cpu` or `cuda`.
        vocab_size: the number of tokens that have a logit.
        seconds: how long the run took.
        peak_memory_bytes: the highest memory of the run on its device.
        window: the longest sequence of a text, in tokens.
        tokenizer_sha256: digest of the tokenizer's data; empty if it is not known.
        texts_sha256: digest of the texts; empty if it is not known.
        offloaded: whether the weights did not fit into memory and were read from disk layer by layer.
        near_ties: tokens of answers that are not the most likely ones when the whole answer is predicted at once.
            Rounding decides between tokens that are nearly equally likely.
        sequences: the sequences, in the order of their rows.
    """

    schema_version: int = REFERENCE_SCHEMA
    dtype: str
    device: str
    vocab_size: int = Field(ge=1)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    window: int = 0
    tokenizer_sha256: str = ""
    texts_sha256: str = ""
    offloaded: bool = False
    near_ties: int = 0
    sequences: tuple[ReferenceSequence, ...] = ()

    @property
    def total_rows(self) -> int:
        """The number of predicted tokens of all sequences."""
        return sum(sequence.rows for sequence in self.sequences)

    @property
    def kept(self) -> int:
        """How many of the most likely tokens each row has."""
        return min(MOST_KEPT, self.vocab_size)


@dataclass(frozen=True)
class LogProbs:
    """What the reference predicts: one row for each predicted token, in the order of the sequences.

    Attributes:
        top_ids: [N, K]; the tokens that the reference thinks most likely, the most likely first.
        top_logprobs: [N, K]; their log-probabilities.
        next_logprobs: [N]; the log-probability of the token that really comes.
    """

    top_ids: "npt.NDArray[np.int32]"
    top_logprobs: "npt.NDArray[np.float32]"
    next_logprobs: "npt.NDArray[np.float32]"


@dataclass(frozen=True)
class Reference:
    """The output of a reference step.

    Attributes:
        directory: where its two files are.
        facts: what `reference.json` says.
    """

    directory: Path
    facts: ReferenceFacts

    @property
    def sequences(self) -> tuple[ReferenceSequence, ...]:
        """The sequences, in the order of their rows."""
        return self.facts.sequences

    @property
    def answers(self) -> tuple[ReferenceSequence, ...]:
        """The prompts with their answers."""
        return tuple(sequence for sequence in self.sequences if sequence.kind == "answer")

    @cached_property
    def logprobs(self) -> LogProbs:
        """The predictions, read from `logprobs.npz` when they are first used.

        Raises:
            StoreError: when the file cannot be read, or its rows are not those of the sequences.
        """
        path = self.directory / LOGPROBS_FILE
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = LogProbs(arrays["top_ids"], arrays["top_logprobs"], arrays["next_logprobs"])
        except NOT_ARRAYS as error:
            _refuse(path, f"is not the predictions of a reference: {error}", error)
        _check(path, found, self.facts)
        return found

    def rows(self) -> Iterator[tuple[ReferenceSequence, slice]]:
        """Each sequence with the rows of its predicted tokens."""
        start = 0
        for sequence in self.sequences:
            yield sequence, slice(start, start + sequence.rows)
            start += sequence.rows

    def perplexities(self) -> Mapping[str, float]:
        """The perplexity of each text, by its name without the window's number; of answers under `answers`."""
        found: dict[str, list[npt.NDArray[np.float32]]] = {}
        for sequence, rows in self.rows():
            name = "answers" if sequence.kind == "answer" else sequence.name.rpartition("-")[0] or sequence.name
            found.setdefault(name, []).append(self.logprobs.next_logprobs[rows])
        return {name: float(np.exp(-np.concatenate(parts).mean(dtype=np.float64))) for name, parts in found.items()}


def read_reference(directory: Path) -> Reference:
    """The reference in the output of a reference step, or in a published build. The predictions are read later.

    Raises:
        StoreError: when there is none, or it is not valid.
    """
    path = directory / REFERENCE_FILE
    try:
        facts = ReferenceFacts.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        _refuse(path, f"is not a reference: {error}", error)
    if facts.schema_version != REFERENCE_SCHEMA:
        _refuse(path, f"has schema {facts.schema_version}, and this version of Enginery reads {REFERENCE_SCHEMA}")
    return Reference(directory, facts)


def _check(path: Path, found: LogProbs, facts: ReferenceFacts) -> None:
    rows, kept = facts.total_rows, facts.kept
    shapes = {
        "top_ids": (found.top_ids, (rows, kept), np.int32),
        "top_logprobs": (found.top_logprobs, (rows, kept), np.float32),
        "next_logprobs": (found.next_logprobs, (rows,), np.float32),
    }
    for name, (array, shape, kind) in shapes.items():
        if array.shape != shape or array.dtype != kind:
            _refuse(path, f"{name} is {array.dtype} of shape {array.shape}, not {np.dtype(kind)} of shape {shape}")
    if not (np.isfinite(found.top_logprobs).all() and np.isfinite(found.next_logprobs).all()):
        _refuse(path, "has values that are NaN or infinite")
    if rows and not (0 <= int(found.top_ids.min()) <= int(found.top_ids.max()) < facts.vocab_size):
        _refuse(path, f"has tokens that are not among the {facts.vocab_size} of the vocabulary")


def _refuse(path: Path, problem: str, cause: Exception | None = None) -> NoReturn:
    remedy = "remove the step from the store and run the build again"
    raise StoreError(problem, subject=str(path), remedy=remedy) from cause
