"""The texts a quantization measures the model with: a name that the converter knows, or files of the user's."""

from pathlib import Path

from enginery.digests import json_digest, remembered_digest

PLACEHOLDER = "{dataset}"
SUFFIXES = (".jsonl", ".json", ".txt", ".csv", ".parquet")


def is_path(dataset: str) -> bool:
    """Whether it names a file or directory; reading a spec makes those that exist absolute."""
    return Path(dataset).is_absolute() or dataset.startswith((".", "~")) or dataset.endswith(SUFFIXES)


def dataset_argument(dataset: str) -> str:
    """How a command names it: files by a placeholder, so that where they lie is no part of the key."""
    return PLACEHOLDER if is_path(dataset) else dataset


def dataset_digest(dataset: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a directory.

    Raises:
        OSError: when it cannot be read.
    """
    if dataset.is_file():
        return remembered_digest(dataset)
    found = sorted(path for path in dataset.rglob("*") if path.is_file())
    return json_digest({str(path.relative_to(dataset)): remembered_digest(path) for path in found})
