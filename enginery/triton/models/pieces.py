"""Text for the pieces of tokens that TensorRT-LLM's backend streams.

A piece alone cannot be turned into text: a character may take several tokens, and some tokenizers write a token
differently at the beginning of a text. So all tokens so far are, and what is new of that is the piece's text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .text import INCOMPLETE

Outputs = dict[str, Any]


class TokensSoFar:
    """Collects the tokens of one streamed answer.

    Args:
        tokens: the name of the tensor of tokens, shape (1, 1, length).
        lengths: the name of the tensor that says how many of them count, shape (1, 1).
        whole: whether each piece is to be the whole text so far.
    """

    def __init__(self, tokens: str, lengths: str, *, whole: bool) -> None:
        self._tokens, self._lengths = tokens, lengths
        self._whole = whole
        self._so_far = np.empty(0, dtype=np.int32)
        self._shown = ""
        self._text = ""

    def add(self, part: Mapping[str, Any]) -> Outputs:
        """The tensors of a piece, with all tokens so far in place of its own."""
        count = int(part[self._lengths].reshape(-1)[0])
        self._so_far = np.concatenate([self._so_far, part[self._tokens].reshape(-1)[:count]])
        tokens = self._so_far.astype(np.int32)[None, None, :]
        lengths = np.full((1, 1), len(self._so_far), dtype=np.int32)
        return {**part, self._tokens: tokens, self._lengths: lengths}

    def show(self, text: str) -> str:
        """What of the text of all tokens so far is to be sent now: only whole characters."""
        self._text = text
        return self._cut(text.rstrip(INCOMPLETE))

    def rest(self) -> str:
        """What has not been sent at the end of the answer."""
        return "" if self._whole else self._cut(self._text)

    def _cut(self, text: str) -> str:
        new = text[len(self._shown) :]
        self._shown = text if len(text) > len(self._shown) else self._shown
        return text if self._whole else new
