"""Writes references into directories, as a reference step does."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builds import LOGPROBS_FILE, MOST_KEPT, REFERENCE_FILE, Reference, ReferenceFacts, ReferenceSequence
from enginery.core.errors import CommandError
from enginery.core.process import Completed
from enginery.store import StepContext

VOCABULARY = 100


def text(name: str = "english-1", ids: Sequence[int] = (1, 5, 6, 7, 8), first: int = 1) -> ReferenceSequence:
    return ReferenceSequence(name=name, kind="text", ids=tuple(ids), first=first)


def answer(
    name: str = "prompt 1",
    prompt: str = "How?",
    prompt_ids: Sequence[int] = (1, 5),
    answer_ids: Sequence[int] = (6, 7, 2),
) -> ReferenceSequence:
    described = {"prompt": prompt, "finish": "eos", "text": "So."}
    ids = (*prompt_ids, *answer_ids)
    return ReferenceSequence.model_validate(
        {"name": name, "kind": "answer", "ids": ids, "first": len(prompt_ids), **described}
    )


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    exact = logits.astype(np.float64)
    exact = exact - exact.max(axis=-1, keepdims=True)
    found: npt.NDArray[np.float32] = (exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))).astype(np.float32)
    return found


def write_reference(
    directory: Path,
    sequences: Sequence[ReferenceSequence] = (text(), answer()),
    logits: npt.NDArray[np.float32] | None = None,
    vocabulary: int = VOCABULARY,
) -> Reference:
    """Write a reference whose rows come from `logits`, one row for each predicted token; random ones if left out."""
    facts = ReferenceFacts(dtype="float32", device="cpu", vocab_size=vocabulary, sequences=tuple(sequences))
    if logits is None:
        logits = np.random.default_rng(0).normal(size=(facts.total_rows, vocabulary)).astype(np.float32) * 3
    logprobs, kept = log_softmax(logits), min(MOST_KEPT, vocabulary)
    top_ids = np.argsort(-logprobs, axis=-1, kind="stable")[:, :kept].astype(np.int32)
    following = np.array([token for sequence in sequences for token in sequence.answer_ids], dtype=np.int64)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        directory / LOGPROBS_FILE,
        top_ids=top_ids,
        top_logprobs=np.take_along_axis(logprobs, top_ids.astype(np.int64), axis=-1),
        next_logprobs=logprobs[np.arange(len(following)), following],
    )
    (directory / REFERENCE_FILE).write_text(facts.model_dump_json(indent=1), encoding="utf-8")
    return Reference(directory, facts)


class RecordedContext(StepContext):
    """A reference step whose command is not started. It writes a small reference, and keeps what it was asked.

    Attributes:
        asked: the driver's request.
        failure: the error with which the command ends, if any.
    """

    asked: Mapping[str, Any]
    failure: CommandError | None = None

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, *, cwd: Path | None = None
    ) -> Completed:
        del cwd
        words = dict(zip(argv[2::2], argv[3::2], strict=True))
        self.asked = json.loads(Path(words["--request"]).read_text(encoding="utf-8"))
        if self.failure:
            raise self.failure
        write_reference(Path(words["--output"]), [text(), answer()])
        return Completed(argv=tuple(argv), seconds=0.0, peak_memory_bytes=0, last_lines=tuple(environment or ()))
