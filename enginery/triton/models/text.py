"""Text from tokens as they come, cut only where it is complete.

A character may take several tokens, and some tokenizers write a token differently at the beginning of a text. So a
piece is the difference between two texts: with the new tokens and without, both beginning at the same earlier token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[list[int]], str]

INCOMPLETE = "\ufffd"
"""What stands for bytes that do not make a character (yet)."""


def new_text(decode: Decode, context: Sequence[int], tokens: Sequence[int]) -> str:
    """What `tokens` add to the text of `context`, the tokens before them."""
    whole = decode([*context, *tokens])
    return whole[len(decode(list(context))) :] if context else whole


@dataclass(frozen=True)
class Piece:
    """Tokens whose text is complete.

    Attributes:
        context: tokens before them that their text depends on.
        tokens: the new tokens.
        text: what they add.
    """

    context: list[int]
    tokens: list[int]
    text: str


class TextStream:
    """Takes tokens one by one and gives pieces of text; joined, these are the text of all tokens."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> Piece | None:
        """Take a token; returns a piece once there is new text that ends with a whole character."""
        self._waiting.append(token)
        text = new_text(self._decode, self._context, self._waiting)
        return self._cut(text) if text and not text.endswith(INCOMPLETE) else None

    def finish(self) -> Piece:
        """Whatever is left, complete or not."""
        return self._cut(new_text(self._decode, self._context, self._waiting))

    def _cut(self, text: str) -> Piece:
        piece = Piece(self._context, self._waiting, text)
        if text:
            self._context = self._waiting
        self._waiting = []
        return piece


class StopWatch:
    """Says when one of the stop words has appeared, as text or as its own tokens.

    A word may begin in one token and end in another, or in the middle of one. A special token has no text and is
    found by its token.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], decode: Decode) -> None:
        self._sequences = [list(sequence) for sequence in sequences]
        self._words = [word for word in (decode(sequence) for sequence in self._sequences) if word]
        self._longest = max(map(len, self._words), default=0)
        self._tail = ""
        self._stream = TextStream(decode)

    def push(self, tokens: Sequence[int]) -> bool:
        """Take the tokens so far, one more than before; says whether a stop word is complete."""
        if any(list(tokens[-len(sequence) :]) == sequence for sequence in self._sequences):
            return True
        piece = self._stream.push(tokens[-1])
        if piece is None:
            return False
        text = self._tail + piece.text
        self._tail = text[-self._longest :]
        return any(word in text for word in self._words)
