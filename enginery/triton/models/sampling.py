"""Chooses the next token: the sampling parameters of one request, applied to one row of logits.

The rows of a batch share nothing, so an answer does not depend on the other requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """A request's sampling parameters.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token; None is 1.
        top_k: choose among this many of the likeliest tokens; 0 means all; None means not given.
        top_p: choose among the likeliest tokens that together have this probability; 0 and 1 mean all.
        seed: makes the choices repeatable; with None they differ every time.
        repetition_penalty: divides the likelihood of tokens that occurred before; 1 does nothing.
        presence_penalty: subtracted from the logits of tokens that occurred before.
        frequency_penalty: subtracted once for each time the token occurred.
        min_tokens: the answer cannot end before it has this many.
        bad_words: token sequences that are never produced.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    bad_words: Sequence[Sequence[int]] = field(default_factory=tuple)

    @property
    def greedy(self) -> bool:
        """Whether to take the likeliest token: the request says so, or says nothing."""
        if self.top_k == 1 or self.temperature == 0:
            return True
        return self.temperature is None and not self.top_k and not self.top_p

    @property
    def penalizes(self) -> bool:
        """Whether earlier tokens change the choice."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: Sampling, end_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._end_ids = list(end_ids)
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: Logits, prompt: Sequence[int], answer: Sequence[int]) -> int:
        """The next token after `prompt` and `answer`. The logits are not changed."""
        scores = logits.astype(np.float64)
        if self._sampling.penalizes:
            self._penalize(scores, [*prompt, *answer])
        self._forbid(scores, prompt, answer)
        if self._sampling.greedy:
            return int(scores.argmax())
        return self._draw(scores)

    def _penalize(self, scores: npt.NDArray[np.float64], sequence: Sequence[int]) -> None:
        tokens, counts = np.unique(np.asarray(sequence, dtype=np.int64), return_counts=True)
        there = scores[tokens]
        factor = self._sampling.repetition_penalty
        there = np.where(there > 0, there / factor, there * factor)
        scores[tokens] = there - self._sampling.presence_penalty - self._sampling.frequency_penalty * counts

    def _forbid(self, scores: npt.NDArray[np.float64], prompt: Sequence[int], answer: Sequence[int]) -> None:
        if len(answer) < self._sampling.min_tokens:
            scores[[token for token in self._end_ids if 0 <= token < len(scores)]] = -np.inf
        if not self._sampling.bad_words:
            return
        reach = max(map(len, self._sampling.bad_words)) - 1
        behind = [*prompt[-reach:], *answer[-reach:]] if reach else []
        for *before, last in self._sampling.bad_words:
            if not before or behind[-len(before) :] == before:
                scores[last] = -np.inf

    def _draw(self, scores: npt.NDArray[np.float64]) -> int:
        order = _likeliest(scores, self._sampling.top_k or len(scores))
        heat = 1.0 if self._sampling.temperature is None else self._sampling.temperature
        weights = np.exp((scores[order] - scores[order[0]]) / heat)
        shares = np.cumsum(weights) / weights.sum()
        limit = self._sampling.top_p or 1.0
        kept = min(int(np.searchsorted(shares, limit)) + 1, len(order))
        point = self._random.random() * shares[kept - 1]
        return int(order[min(int(np.searchsorted(shares[:kept], point, side="right")), kept - 1)])


def _likeliest(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """The best `count` tokens, best first, without sorting the whole vocabulary."""
    best = np.arange(len(scores)) if count >= len(scores) else np.argpartition(-scores, count - 1)[:count]
    return best[np.lexsort((best, -scores[best]))]


def log_probability(logits: Logits, token: int) -> float:
    """The natural logarithm of the probability that the model gives to `token`."""
    exact = logits.astype(np.float64)
    top = exact.max()
    return float(exact[token] - top - np.log(np.exp(exact - top).sum()))
