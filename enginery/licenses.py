"""The licence that travels with a build, and which one it is, by the title its text begins with."""

import re
from collections.abc import Mapping
from pathlib import Path

from enginery.steps import Frozen

HEAD = 600
"""Characters in which a licence says its name."""

TITLES = (
    ("Apache-2.0", r"apache license,?\s+version 2\.0"),
    ("MIT", r"\bmit license\b|permission is hereby granted, free of charge"),
    ("BSD-3-Clause", r"\bbsd 3-clause license\b"),
    ("llama2", r"llama 2 community license"),
    ("llama3", r"llama 3 community license"),
    ("llama3.1", r"llama 3\.1 community license"),
    ("llama3.2", r"llama 3\.2 community license"),
    ("llama3.3", r"llama 3\.3 community license"),
    ("gemma", r"gemma terms of use"),
    ("qwen", r"tongyi qianwen license|qwen license agreement"),
)
"""Identifier -> how its text begins: SPDX's identifiers, and the Hugging Face Hub's for those that SPDX has not."""


class License(Frozen):
    """The licence of a model.

    Attributes:
        id: such as `Apache-2.0` or `llama3`; empty where it is not known.
        files: its texts, with paths relative to the build's prefix.
    """

    id: str = ""
    files: tuple[str, ...] = ()


def read_license(texts: Mapping[str, Path]) -> License:
    """The licence of these texts: path in the build -> file."""
    found = (license_id(file.read_text(encoding="utf-8", errors="replace")) for file in texts.values())
    return License(id=next(filter(None, found), ""), files=tuple(texts))


def license_id(text: str) -> str:
    """The identifier of a licence text, such as `Apache-2.0`; empty for one that is not known."""
    head = re.sub(r"\s+", " ", text[:HEAD]).lower()
    return next((name for name, title in TITLES if re.search(title, head)), "")
