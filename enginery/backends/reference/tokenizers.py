"""The digest of a tokenizer: equal for tokenizers that make the same tokens of a text."""

import json
from pathlib import Path

from enginery.core.digests import bytes_digest, file_digest, json_digest

TOKENIZER = "tokenizer.json"
DECIDING = ("added_tokens", "model", "normalizer", "post_processor", "pre_tokenizer")
"""The parts of a `tokenizer.json` that decide the tokens. Its layout and its settings for padding do not."""
OLDER = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "merges.txt", "vocab.txt")
OLDER_PATTERN = "*.tiktoken"


def tokenizer_digest(directory: Path) -> str:
    """SHA-256 of what decides the tokens of a text; empty if the directory has no tokenizer that is known."""
    try:
        whole = json.loads((directory / TOKENIZER).read_bytes())
        return json_digest({part: whole.get(part) for part in DECIDING})
    except FileNotFoundError:
        return _digest_of_older(directory)
    except (ValueError, AttributeError):  # it is not JSON: whoever loads it will say so
        return bytes_digest((directory / TOKENIZER).read_bytes())


def _digest_of_older(directory: Path) -> str:
    named = (directory / name for name in OLDER)
    found = sorted(file for file in (*named, *directory.glob(OLDER_PATTERN)) if file.is_file())
    return json_digest({file.name: file_digest(file) for file in found}) if found else ""
