"""The Python model that serves the LLM API: its sources, and the digest that stands for them in keys."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from enginery.digests import file_digest, json_digest
from enginery.triton.served import archive_of, served_models_dir

SUBPACKAGE = "llm"
HELPERS = (
    "__init__",
    "answers",
    "generation",
    "refusals",
    "requests",
    "responses",
    "sampling",
    "text",
    "tokens",
    "words",
)
"""What it needs of the other served models: reading requests, with all that this imports."""


def served_llm_sources() -> Iterator[tuple[str, Path]]:
    """Each source with its path in the archive."""
    directory = served_models_dir()
    for name in HELPERS:
        yield f"{name}.py", directory / f"{name}.py"
    for path in sorted((directory / SUBPACKAGE).glob("*.py")):
        yield f"{SUBPACKAGE}/{path.name}", path


@cache
def served_llm_digest() -> str:
    """One SHA-256 for all of them: a changed model makes another model repository."""
    return json_digest({name: file_digest(path) for name, path in served_llm_sources()})


def served_llm_archive() -> bytes:
    """They as one archive that Python imports from."""
    return archive_of(served_llm_sources())
