"""Several answers made together, one token of each at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .answers import Answer, Question
from .sampling import Logits

Tokens = npt.NDArray[np.int32]


class Session(Protocol):
    """A model at work on a batch of prompts."""

    def logits(self) -> Logits:
        """What the model thinks of each possible next token: shape (rows, vocabulary)."""

    def append(self, tokens: Sequence[int]) -> None:
        """Put one token behind each row."""


class Engine(Protocol):
    """A model.

    Attributes:
        context_length: most tokens in prompt and answer together.
        end_ids: tokens that end an answer unless the request says otherwise.
        filler: a token that fills rows which are shorter than others.
        last_token: a token that ends an answer in any case: nothing can be put behind it.
        vocabulary: the number of tokens the model knows.
    """

    context_length: int
    vocabulary: int
    last_token: int
    end_ids: list[int]
    filler: int

    def start(self, prompts: Sequence[Sequence[int]], length: int) -> Session:
        """Begin with these prompts; no row will grow beyond `length` tokens."""


def generate(engine: Engine, answers: Sequence[Answer], after_step: Callable[[], None]) -> None:
    """Make all answers; `after_step` is called whenever each unfinished one has got a token."""
    questions = [answer.question for answer in answers]
    length = max(len(question.prompt) for question in questions) + max(question.max_tokens for question in questions)
    session = engine.start([question.prompt for question in questions], length)
    while True:
        logits = session.logits()
        tokens = [
            engine.filler if answer.finished else answer.step(row) for answer, row in zip(answers, logits, strict=True)
        ]
        after_step()
        if all(answer.finished for answer in answers):
            return
        session.append(tokens)


def fitting(engine: Engine, questions: Sequence[Sequence[Question]], most: int) -> Iterator[list[int]]:
    """Which requests can share a batch, as lists of their indices.

    Shorter prompts are filled up at the end and the model masks the filling, so results are the same as alone, with
    two exceptions: a prompt that itself ends with the filler cannot be told from a filled one, and the longest prompt
    with the longest answer must not exceed the context. Such requests go separately.

    Args:
        engine: the model.
        questions: of each request.
        most: the largest number of rows in a batch.
    """
    waiting = list(range(len(questions)))
    while waiting:
        taken: list[int] = []
        for index in waiting:
            if not taken or _fit(engine, [row for each in [*taken, index] for row in questions[each]], most):
                taken.append(index)
        waiting = [index for index in waiting if index not in taken]
        yield taken


def _fit(engine: Engine, rows: Sequence[Question], most: int) -> bool:
    longest = max(len(row.prompt) for row in rows) + max(row.max_tokens for row in rows)
    ends_like_filling = any(row.prompt[-1] == engine.filler for row in rows)
    return len(rows) <= most and longest <= engine.context_length and not ends_like_filling
