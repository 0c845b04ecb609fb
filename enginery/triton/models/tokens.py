"""The tokenizer that lies beside a served model."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_DIRECTORY = "tokenizer"


def version_directory(arguments: Mapping[str, str]) -> Path:
    """Where Triton has put the version's files: the repository itself, or its own copy of one in S3."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


def tokenizer_directory(arguments: Mapping[str, str]) -> Path:
    """Where the tokenizer is: the parameter `tokenizer_dir`, when there is one there, else beside the model."""
    beside = version_directory(arguments)
    named = parameter(json.loads(arguments["model_config"]), "tokenizer_dir", "")
    places = [*([Path(named)] if named else []), beside / TOKENIZER_DIRECTORY]
    return next((place for place in places if (place / TOKENIZER_FILE).is_file()), beside)


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
