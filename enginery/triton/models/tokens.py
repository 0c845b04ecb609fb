"""The tokenizer that lies beside a served model."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

TOKENIZER_FILE = "tokenizer.json"


def version_directory(arguments: Mapping[str, str]) -> Path:
    """Where Triton has put the version's files: the repository itself, or its own copy of one in S3."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


def load_tokenizer(directory: Path) -> Any:
    """The `tokenizers.Tokenizer` in a directory."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def parameter(config: Mapping[str, Any], name: str, default: str) -> str:
    """A string parameter of a model's configuration."""
    found = config.get("parameters", {}).get(name, {})
    return str(found.get("string_value", default))


def is_true(text: str) -> bool:
    """Whether a parameter says yes."""
    return text.strip().lower() in {"true", "1", "yes"}
