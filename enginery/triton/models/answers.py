"""One answer in the making: from the model's logits to tokens, until there is a reason to stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .sampling import Logits, Sampler, Sampling, log_probability
from .text import Decode, Piece, StopWatch, TextStream


@dataclass(frozen=True)
class Question:
    """One prompt, and how it wants to be answered.

    Attributes:
        prompt: its tokens, at least one.
        max_tokens: the longest answer, at least 1.
        sampling: how tokens are chosen.
        end_ids: tokens that end the answer and do not belong to it.
        stop_words: token sequences whose text ends the answer and belongs to it.
        log_probs: whether the probability of each token is wanted.
        echo: whether the answer begins with the prompt.
    """

    prompt: list[int]
    max_tokens: int
    end_ids: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop_words: Sequence[Sequence[int]] = ()
    log_probs: bool = False
    echo: bool = False


class Answer:
    """The answer to one question.

    Attributes:
        tokens: those made so far.
        log_probs: of each token, when they are wanted.
        finished: whether it is complete.
    """

    def __init__(self, question: Question, decode: Decode, *, stream: bool) -> None:
        self.question = question
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.finished = False
        self._sampler = Sampler(question.sampling, question.end_ids)
        self._stops = StopWatch(question.stop_words, decode) if question.stop_words else None
        self._stream = TextStream(decode) if stream else None
        self._pieces: list[Piece] = []
        if self._stream and question.echo:
            self._keep([piece for token in question.prompt if (piece := self._stream.push(token))])

    def step(self, logits: Logits) -> int:
        """Choose the next token from the model's logits, and finish when it is the last one."""
        token = self._sampler.choose(logits, self.question.prompt, self.tokens)
        if token in self.question.end_ids:
            self._finish()
            return token
        self.tokens.append(token)
        if self.question.log_probs:
            self.log_probs.append(log_probability(logits, token))
        if self._stream:
            piece = self._stream.push(token)
            self._keep([piece] if piece else [])
        if len(self.tokens) >= self.question.max_tokens or (self._stops and self._stops.push(self.tokens)):
            self._finish()
        return token

    def stop(self) -> None:
        """End it here: nobody wants the rest."""
        self.finished = True

    def take_pieces(self) -> list[Piece]:
        """The pieces of text that have become complete since the last call; only of a streamed answer."""
        taken, self._pieces = self._pieces, []
        return taken

    def _finish(self) -> None:
        self.finished = True
        if self._stream:
            self._keep([self._stream.finish()])

    def _keep(self, pieces: list[Piece]) -> None:
        self._pieces += pieces
