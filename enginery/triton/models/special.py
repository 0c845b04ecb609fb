"""The special tokens of a model, as the files beside its tokenizer name them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTINGS = ("generation_config.json", "config.json")
NONE = -1
"""What TensorRT-LLM takes for no token at all."""


@dataclass(frozen=True)
class SpecialTokens:
    """What an engine must be told of its tokenizer.

    Attributes:
        end: ends an answer; -1 where the model has none.
        pad: fills up shorter rows; the end token where there is none.
        vocabulary: how many tokens the model knows.
        others: tokens that end an answer of this model, too: the engine can be told of one only.
    """

    end: int
    pad: int
    vocabulary: int
    others: tuple[int, ...] = ()


def special_tokens(directory: Path, tokenizer: Any) -> SpecialTokens:
    """Read them: the tokenizer's own configuration says it first, then the model's."""
    end = next(_named(directory, tokenizer, "eos_token"), NONE)
    vocabulary = int(_read(directory / "config.json").get("vocab_size") or tokenizer.get_vocab_size())
    others = tuple(token for token in _ends(directory) if token != end)
    return SpecialTokens(end, next(_named(directory, tokenizer, "pad_token"), end), vocabulary, others)


def _ends(directory: Path) -> list[int]:
    """All end tokens of the model, by the first of its settings that has any."""
    found = (_ids(directory / file, "eos_token_id") for file in SETTINGS)
    return next((tokens for tokens in found if tokens), [])


def _named(directory: Path, tokenizer: Any, name: str) -> Iterator[int]:
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(directory / file).get(name)
        text = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(text) if text else None
        if found is not None:
            yield int(found)
    for file in SETTINGS:
        yield from _ids(directory / file, f"{name}_id")[:1]


def _ids(path: Path, name: str) -> list[int]:
    found = _read(path).get(name)
    return [token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int)]


def _read(path: Path) -> Mapping[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
