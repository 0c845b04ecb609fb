"""The texts that an engine is compared on: those that come with Enginery, or the user's own.

A text is a `.txt` file, or a line of a `.jsonl` file with an object that has `text`. A directory may hold both.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from enginery.core.digests import json_digest, remembered_digest
from enginery.core.errors import SourceError
from enginery.spec import ReferenceOptions

SHIPPED = Path(__file__).parent / "texts"
SUFFIXES = (".txt", ".jsonl")
FORMS = "a .txt file, a .jsonl file whose lines are objects with `text`, or a directory of such files"


class Text(NamedTuple):
    """One text, with a name for people: its file's name, and for a `.jsonl` file the line."""

    name: str
    text: str


def own_texts(options: ReferenceOptions) -> Path | None:
    """The path of the user's own texts; None for those that come with Enginery."""
    return Path(options.texts).expanduser() if options.texts is not None else None


def texts_digest(path: Path | None) -> str:
    """SHA-256 of the names and contents of all files with texts at a path; of the shipped ones if it is None.

    Raises:
        SourceError: when there are none, or one cannot be read.
    """
    return _shipped_digest() if path is None else _digest(path)


@lru_cache  # the plan of every target needs it
def _shipped_digest() -> str:
    return _digest(SHIPPED)


def _digest(path: Path) -> str:
    found = text_files(path)
    try:
        return json_digest({name: remembered_digest(file) for name, file in found.items()})
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error


def text_files(path: Path) -> Mapping[str, Path]:
    """The files with texts at a path, by the names of their texts, in the order of the names.

    Raises:
        SourceError: when there are none.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise _unusable(path, f"has no files that end in {' or '.join(SUFFIXES)}")
        names = [file.relative_to(path).with_suffix("").as_posix() for file in found]
        whole = [file.relative_to(path).as_posix() for file in found]
        return {
            name if names.count(name) == 1 else full: file for name, full, file in zip(names, whole, found, strict=True)
        }
    if not path.is_file():
        raise _unusable(path, "does not exist on this machine")
    if path.suffix.lower() not in SUFFIXES:
        raise _unusable(path, f"does not end in {' or '.join(SUFFIXES)}")
    return {path.stem: path}


def read_texts(path: Path | None) -> list[Text]:
    """All texts at a path that are not empty, without white space at their ends; the shipped ones if it is None.

    Raises:
        SourceError: when one cannot be read, is not in a form that is known, or all are empty.
    """
    found = [text for name, file in text_files(path or SHIPPED).items() for text in _texts_of(name, file)]
    if not found:
        raise _unusable(path or SHIPPED, "has only empty texts")
    return found


def require_readable(path: Path) -> None:
    """Make sure that the texts at a path can be read. Texts that did not change since are not read again.

    Raises:
        SourceError: when one cannot be read, is not in a form that is known, or all are empty.
    """
    _read_once(path, texts_digest(path))


@lru_cache
def _read_once(path: Path, digest: str) -> None:
    del digest
    read_texts(path)


def require_texts(path: Path | None, expected: str) -> list[Text]:
    """The texts, if they are those of the plan: the step's key contains their digest.

    Raises:
        SourceError: when they cannot be read, or are others.
    """
    if texts_digest(path) != expected:
        problem = "these are not the texts that the plan was made for"
        remedy = "plan again, or put the same texts there"
        raise SourceError(problem, subject=str(path or SHIPPED), remedy=remedy)
    return read_texts(path)


def _unusable(path: Path, problem: str) -> SourceError:
    return SourceError(problem, subject=str(path), remedy=f"name {FORMS}")


def _texts_of(name: str, file: Path) -> Iterator[Text]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unusable(file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unusable(file, f"is not UTF-8: byte {error.start} cannot be decoded") from error
    if file.suffix.lower() != ".jsonl":
        yield from [Text(name, content.strip())] if content.strip() else []
        return
    # Only line feeds end a line: a text may have other characters that `splitlines` would take for an end.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip() and (text := _text_in(file, number, line)).strip():
            yield Text(f"{name}:{number}", text.strip())


def _text_in(file: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise _unusable(file, f"line {number} is not JSON: {error}") from error
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise _unusable(file, f"line {number} is not an object with a text under `text`")
    return text
