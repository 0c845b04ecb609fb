"""Answers that no working model gives: empty ones, ones that only repeat themselves, ones in another script.

An answer that does not end by itself, and whose end is the same few words again and again, is a loop. An answer that
the model has ended is one only if it is nothing but repetition: a list or a program may end with equal lines.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import ceil

from enginery.core.model import Frozen

PIECE = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]|_"
)
"""A word, a character of a script that has no blanks between words, or a symbol."""
LONGEST_UNIT = 120
"""The longest unit that is looked for, in pieces."""
LONG_WORD = 40
"""A word of so many letters is looked at letter by letter, as in `aaaa…`."""
ALL, HALF = 0.9, 0.5
"""Shares of an answer: all but its beginning, and the larger part."""
LONG_TAIL = 24
"""So many repeated pieces are a loop even if more came before them."""

FEWEST_FOREIGN = 8
FEWEST_SIGNS = 4
FOREIGN_SHARE = 0.3
"""So large a share of an answer's letters, and so many of them, are another script; fewer are a name or a quotation."""
WORDS_IN_SIGNS = {"CJK", "HANGUL"}
"""Scripts in which a letter is about as much as a syllable or a word."""
ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "BOPOMOFO": "CJK"}
"""Scripts that are written together."""


class Degenerate(StrEnum):
    """How an answer is degenerate."""

    EMPTY = "empty"
    REPEATS = "repeats"
    SCRIPT = "script"


class Loop(Frozen):
    """What an answer repeats.

    Attributes:
        unit: the repeated text.
        times: how many times it stands one after the other at the end of the answer.
        share: the share of the answer that this is.
    """

    unit: str
    times: int
    share: float


def is_empty(answer: str) -> bool:
    """Whether there is nothing in an answer but white space."""
    return not answer.strip()


def loop_in(answer: str, *, ended: bool) -> Loop | None:
    """What an answer repeats, if it only repeats itself; None for other answers.

    Args:
        answer: the text.
        ended: whether the model ended it, and it was not cut off.
    """
    without_end = answer.rstrip(".!?… \n") or answer
    spans = [match.span() for match in PIECE.finditer(without_end if ended else answer)]
    if word := _long_word(answer, spans, ended=ended):
        return word
    pieces = [answer[begin:end] for begin, end in spans]
    # The last word may be cut off in its middle.
    cuts = [(pieces, spans)] if ended else [(pieces, spans), (pieces[:-1], spans[:-1])]
    for words, places in cuts:
        for period, tail in _periods(words):
            unit = _unit(answer, places[-tail:], period)
            found = Loop(unit=unit, times=ceil(tail / period), share=tail / len(words))
            if _is_loop(found, period, tail, ended=ended):
                return found.model_copy(update={"unit": unit.strip()})
    return None


def foreign_script(answer: str, *others: str) -> str:
    """The script of an answer that is in none of the other texts, such as `CYRILLIC`; empty if there is no such one."""
    counted = Counter(scripts_of(answer))
    known = {script for text in others for script in scripts_of(text)}
    for script, letters in counted.most_common():
        fewest = FEWEST_SIGNS if script in WORDS_IN_SIGNS else FEWEST_FOREIGN
        if script not in known and letters >= max(fewest, FOREIGN_SHARE * counted.total()):
            return script
    return ""


def scripts_of(text: str) -> Iterator[str]:
    """The script of each letter of a text, by the letter's name in Unicode."""
    for letter in unicodedata.normalize("NFKC", text):
        if letter.isalpha():
            script = unicodedata.name(letter, "UNNAMED").partition(" ")[0]
            yield ONE_SCRIPT.get(script, script)


def _unit(answer: str, places: Sequence[tuple[int, int]], period: int) -> str:
    """The repeated text. It begins with a word if it has one."""
    begins = (index for index in range(period) if answer[places[index][0]].isalnum() and index + period < len(places))
    begin = next(begins, 0)
    return answer[places[begin][0] : places[begin + period][0]]


def _periods(pieces: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each number of pieces after which the end of an answer repeats, with the length of what repeats so."""
    for period in range(1, min(LONGEST_UNIT, len(pieces) // 2) + 1):
        place = len(pieces) - 1
        while place >= period and pieces[place] == pieces[place - period]:
            place -= 1
        if (tail := len(pieces) - 1 - place + period) > period:
            yield period, tail


def _is_loop(found: Loop, period: int, tail: int, *, ended: bool) -> bool:
    if not any(map(str.isalnum, found.unit)):  # as the lines of a table
        return tail >= 16 * period if found.share < ALL else tail >= 6 * period
    if ended:
        return found.times >= 4 and tail >= 6 and found.share >= ALL and "\n" not in found.unit  # noqa: PLR2004
    if found.share < HALF and tail < LONG_TAIL:
        return False
    fewest = 8 if "\n" in found.unit and period < 12 else 4 if period < 5 else 3  # noqa: PLR2004
    return found.times >= fewest and tail >= 6  # noqa: PLR2004


def _long_word(answer: str, spans: Sequence[tuple[int, int]], *, ended: bool) -> Loop | None:
    """A loop within a word without blanks, if that word is most of the answer."""
    if not spans:
        return None
    begin, end = max(spans, key=lambda span: span[1] - span[0])
    word, share = answer[begin:end], (end - begin) / len(answer.strip())
    if len(word) < LONG_WORD or share < HALF or (ended and word.isdigit()):
        return None
    for period, tail in _periods(word):
        if tail >= 4 * period and tail >= ALL * len(word):
            return Loop(unit=word[-period:], times=tail // period, share=share * tail / len(word))
    return None
