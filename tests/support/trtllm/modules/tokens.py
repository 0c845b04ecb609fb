"""A model's own tokenizer, with the method names of `transformers`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """A small version of the tokenizer that `AutoTokenizer.from_pretrained` returns.

    Attributes:
        tokenizer: the real tokenizer.
        special: special tokens such as `eos_token`, from the model's `tokenizer_config.json`.
    """

    tokenizer: Tokenizer
    special: dict[str, Any]

    @classmethod
    def from_pretrained(cls, directory: str | Path, **_options: Any) -> "Tokens":
        """Read a tokenizer."""
        path = Path(directory)
        if not (path / "tokenizer.json").exists():
            raise OSError(f"Can't load tokenizer for '{directory}'. Make sure it contains all relevant files.")
        config = path / "tokenizer_config.json"
        special = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        return cls(Tokenizer.from_file(str(path / "tokenizer.json")), special)

    def encode(self, text: str, *, add_special_tokens: bool = True, **options: Any) -> list[int]:
        """The tokens of a text, at most `max_length` if that is given."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids[: options.get("max_length")]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return str(self.tokenizer.decode([int(one) for one in ids], skip_special_tokens=skip_special_tokens))

    @property
    def eos_token_id(self) -> int | None:
        return self._special("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._special("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special("pad_token")

    def _special(self, name: str) -> int | None:
        found = self.special.get(name)
        text = found["content"] if isinstance(found, dict) else found
        return None if text is None else self.tokenizer.token_to_id(text)
