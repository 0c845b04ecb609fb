"""The Python models that Triton serves: where they are, and the digest that stands for them in keys."""

from functools import cache
from pathlib import Path

from enginery.digests import file_digest, json_digest


def served_models_dir() -> Path:
    """The directory of the served models' sources."""
    return Path(__file__).parent / "models"


@cache
def served_models_digest() -> str:
    """One SHA-256 for all of them: a changed model makes another model repository."""
    return json_digest({path.name: file_digest(path) for path in sorted(served_models_dir().glob("*.py"))})
