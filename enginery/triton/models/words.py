"""Word lists as tensors, in the layout that NVIDIA's models pass between them.

A list of token sequences is an array of two rows: all tokens one after the other, and the position behind each
sequence's last token, filled up with -1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NO_OFFSET = -1


def word_sequences(tokenizer: Any, words: Iterable[str], *, spaced: bool) -> list[list[int]]:
    """The tokens of each word; empty words are none.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        words: as the request gives them.
        spaced: also as they are written behind a space, which most tokenizers write with other tokens.
    """
    written: list[str] = []
    for word in words:
        if word:
            written += [word, f" {word}"] if spaced and not word[0].isspace() else [word]
    found = [tokenizer.encode(text, add_special_tokens=False).ids for text in written]
    return [ids for index, ids in enumerate(found) if ids and ids not in found[:index]]


def pack(lists: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.int32]:
    """One tensor for the word lists of a whole batch: shape (batch, 2, width), at least one wide."""
    width = max([1, *(sum(map(len, sequences)) for sequences in lists)])
    packed = np.zeros((len(lists), 2, width), dtype=np.int32)
    packed[:, 1, :] = NO_OFFSET
    for row, sequences in zip(packed, lists, strict=True):
        flat = [token for sequence in sequences for token in sequence]
        row[0, : len(flat)] = flat
        row[1, : len(sequences)] = np.cumsum([len(sequence) for sequence in sequences])
    return packed


def unpack(row: npt.NDArray[np.int32]) -> list[list[int]]:
    """The token sequences of one row, shape (2, width), of a packed tensor."""
    sequences: list[list[int]] = []
    begin = 0
    for end in (int(offset) for offset in row[1] if offset != NO_OFFSET):
        sequences.append([int(token) for token in row[0, begin:end]])
        begin = end
    return [sequence for sequence in sequences if sequence]
