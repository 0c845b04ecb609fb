"""Reads the JSON files of a model as strictly as the tools that read them later.

Transformers opens a model's JSON files as UTF-8, and refuses a byte order mark. Python's `json` also guesses other
encodings, such as UTF-16. A plan that let it guess would accept what the builder refuses.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from enginery.models import WeightsFault

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
TOKENIZER = "tokenizer.json"
"""Read by a library in Rust, which does not know NaN and Infinity. Python does, and some `config.json` have them."""

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""First bytes of a file -> its encoding. The longer marks come first, because they begin with the shorter ones."""
DEEPEST = 100
"""Levels of nesting. A model's configuration has fewer than ten."""
LARGEST = 10**300
"""Larger numbers do not fit into a float. No setting is that large."""

AS_UTF8 = "save it as UTF-8 without a byte order mark"
COMPLETE = "check that the model is complete"


def read_object(name: str, content: bytes) -> Mapping[str, Any] | WeightsFault:
    """The JSON object in a file, or what is wrong with the file.

    Args:
        name: the file's name.
        content: its bytes.
    """
    if content.startswith(LFS_POINTER):
        return WeightsFault(f"{name} is a pointer of Git LFS, not the file itself", "run `git lfs pull` there")
    if encoding := _other_encoding(content):
        return WeightsFault(f"{name} is not JSON that can be read: {encoding}", AS_UTF8)
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse if name == TOKENIZER else None)
    except (ValueError, RecursionError) as error:
        remedy = AS_UTF8 if isinstance(error, UnicodeDecodeError) else COMPLETE
        return WeightsFault(f"{name} is not JSON: {_mistake(error, content)}", remedy)
    if not isinstance(document, dict):
        return WeightsFault(f"{name} is not a JSON object", "check that this is a model in Hugging Face's format")
    if strange := _strange(document):
        return WeightsFault(f"{name} is not a file of a model: {strange}", COMPLETE)
    return document


def text_problem(name: str, content: bytes) -> WeightsFault | None:
    """What is wrong with a file of plain text; None for UTF-8 without a byte order mark, which would become text."""
    if encoding := _other_encoding(content):
        return WeightsFault(f"{name} is not a text that can be read: {encoding}", AS_UTF8)
    return None


def _other_encoding(content: bytes) -> str:
    """Words for an encoding other than plain UTF-8; empty for UTF-8, and for bytes that are no text at all."""
    if content.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark"
    named = next((name for mark, name in MARKS.items() if content.startswith(mark)), "")
    if not named and 0 in content[:4]:  # JSON begins with an ASCII character, which has a zero byte in these encodings
        named = "UTF-16 or UTF-32"
    return f"it is {named}, not UTF-8" if named else ""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _mistake(error: ValueError | RecursionError, content: bytes) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte 0x{content[error.start]:02X} at position {error.start})"
    if not content.strip():
        return "it is empty"
    if "int_max_str_digits" in str(error):
        return "it has a number of thousands of digits"
    return str(error)


def _strange(document: Mapping[str, Any]) -> str:
    """What no file of a model has, and what would break the code that reads it; empty if there is nothing of this."""
    for depth, value in _values(document):
        if depth > DEEPEST:
            return f"it is nested deeper than {DEEPEST} levels"
        if isinstance(value, int) and abs(value) > LARGEST:
            return "it has a number of hundreds of digits"
        if isinstance(value, str) and not _is_unicode(value):
            return "it has a text that is not Unicode"
    return ""


def _values(document: Any) -> Iterator[tuple[int, Any]]:
    """All keys and values of a document, each with its depth. A loop, because the nesting may be deep."""
    waiting = [(0, document)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        if isinstance(value, dict):
            waiting += [(depth + 1, key) for key in value]
            value = list(value.values())
        if isinstance(value, list):
            waiting += [(depth + 1, item) for item in value]


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair. A text with such a half cannot be printed or written."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
