"""Whether a chat template belongs to the model: whether the markers that it writes are tokens of the model's tokenizer.

A model was trained with certain markers of turns, such as `<|im_start|>`, and each is one token. With another model's
template these markers are cut into pieces. The model has never seen them so, and cannot end its answer with one.

Some models use markers that are no tokens, and that is right: `[INST]` of Llama 2, `<|user|>` of Zephyr and Tulu. These
end an answer with a token all the same. So a marker that is no token is wrong in three cases: if it is what ends an
answer, if it is one that models only have as a token, and if the tokenizer has tokens for turns that the template does
not use. `<|user|>` and its like are used as plain words even then.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from enginery.core.model import Frozen
from enginery.models.chat.rendering import Chat, Rendered
from enginery.spec import Message

TOKENIZER_FILE = "tokenizer.json"
ASKED, SAID = "enginery asks this", "enginery hears this"
"""What a probe says. A template leaves plain words as they are."""

USER = Message(role="user", content=ASKED)
PROBES = (
    Chat(messages=(USER, Message(role="assistant", content=SAID)), add_generation_prompt=False),
    Chat(messages=(USER,), add_generation_prompt=True),
    Chat(messages=(USER,), add_generation_prompt=False),
)
"""Chats that show what a template writes around the words of a user and of the model."""

MARKER = re.compile(
    r"<\|[^\s<>|]{1,60}\|>|<\uff5c[^\s<>\uff5c]{1,60}\uff5c>|<(?:start|end)_of_[a-z]+>|\[/?[A-Z][A-Z_]{2,}\]"
)
END = re.compile(r"\s*(<\|[^\s<>|]{1,60}\|>|<\uff5c[^\s<>\uff5c]{1,60}\uff5c>|</s>|<eos>|<eot>|<end_of_[a-z]+>)")
ROLE = re.compile(
    r"im_start|start_header_id|start_of_turn|START_OF_TURN|\[INST\]|<[|\uff5c](user|User|assistant|Assistant|start)[|\uff5c]>"
)
"""A special token that begins somebody's turn."""
ALWAYS_TOKENS = re.compile(r"im_start|im_end|header_id|eot_id|_of_turn|\uff5c")
"""A marker that is a token in every model that uses it."""
PLAIN_WORDS = re.compile(r"<\|(system|user|assistant|tool)\|>")
"""Markers that models use as plain words, also beside a tokenizer that has tokens for turns."""

NO_TURN = "the chat template has no generation prompt: it does not tell the model that it is its turn"


class Vocabulary(Frozen):
    """The tokens of a tokenizer, as far as its files say them.

    Attributes:
        tokens: the text of every token.
        special: the text of those that are marked as special.
    """

    tokens: frozenset[str]
    special: frozenset[str]


class Fit(Frozen):
    """How a template fits a tokenizer.

    Attributes:
        wrong: why the template cannot be the model's; empty if nothing speaks against it.
        notes: what is strange, but may be right.
    """

    wrong: str = ""
    notes: tuple[str, ...] = ()


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """The tokens in `tokenizer.json`; None if there is no such file, or it is not one."""
    path = directory / TOKENIZER_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    added = [one for one in document.get("added_tokens") or [] if isinstance(one, dict) and one.get("content")]
    special = frozenset(str(one["content"]) for one in added if one.get("special"))
    return Vocabulary(tokens=special | {str(one["content"]) for one in added} | _words(document), special=special)


def fit(probes: Collection[Rendered], vocabulary: Vocabulary | None, bos: str = "") -> Fit:
    """How a template fits a tokenizer.

    Args:
        probes: what the template makes of `PROBES`.
        vocabulary: the tokenizer's tokens; None if they are not known.
        bos: the token that begins a text. Every template may write it, also one that is another model's.
    """
    both, asking, asked = (one.text for one in probes)
    answered = _after(both, SAID)
    notes = [NO_TURN] if asking is not None and asking == asked and _after(asked, ASKED) == answered else []
    if vocabulary is None or both is None:
        return Fit(notes=tuple(notes))
    end = END.match(answered or "")
    written = both.removeprefix(bos) + (asking or "").removeprefix(bos)
    unknown = [marker for marker in dict.fromkeys(MARKER.findall(written)) if marker not in vocabulary.tokens]
    unused = _unused_roles(vocabulary, written)
    if end and end[1] not in vocabulary.tokens:
        return Fit(wrong=f"it ends an answer with {end[1]}, which is no token of", notes=tuple(notes))
    if certain := [marker for marker in unknown if ALWAYS_TOKENS.search(marker)]:
        return Fit(wrong=f"it writes {_few(certain)}, {_no_token(certain)} of", notes=tuple(notes))
    if (strange := [marker for marker in unknown if not PLAIN_WORDS.fullmatch(marker)]) and unused:
        wrong = f"it does not use {_few(unused)}, and writes {_few(strange)}, {_no_token(strange)} of"
        return Fit(wrong=wrong, notes=tuple(notes))
    if unknown:
        notes.append(f"the chat template writes {_few(unknown)}, {_no_token(unknown)} of this tokenizer")
    if unused:
        notes.append(f"the chat template does not use the tokenizer's {_few(unused)}")
    return Fit(notes=tuple(notes))


def _words(document: Mapping[str, Any]) -> frozenset[str]:
    """The tokens of a tokenizer's model: a dictionary, or for Unigram a list of pairs."""
    model = document.get("model")
    found = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(found, dict):
        return frozenset(map(str, found))
    pairs = found if isinstance(found, list) else []
    return frozenset(str(pair[0]) for pair in pairs if isinstance(pair, list) and pair)


def _unused_roles(vocabulary: Vocabulary, text: str) -> list[str]:
    """The special tokens that begin a turn, if the text has none of them."""
    roles = sorted(token for token in vocabulary.special if ROLE.search(token))
    return [] if any(token in text for token in roles) else roles


def _after(text: str | None, words: str) -> str | None:
    """What follows these words in a text; None if the text does not have them."""
    return text.rpartition(words)[2] if text is not None and words in text else None


def _few(tokens: Collection[str]) -> str:
    shown = list(tokens)[:3]
    return ", ".join(shown) + (", …" if len(tokens) > len(shown) else "")


def _no_token(tokens: Collection[str]) -> str:
    return "which is no token" if len(tokens) == 1 else "which are no tokens"
