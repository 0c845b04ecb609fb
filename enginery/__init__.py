"""Enginery: build, check, publish and roll out TensorRT-LLM engines.

`docs/architecture.md` shows the folders of this package. Serving teams need only `Registry`:

    from enginery import Registry

    build = Registry("s3://engines/prod").resolve("llama-3-8b-instruct", channel="stable")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from enginery.core import __version__

if TYPE_CHECKING:
    from enginery.registry import Registry

__all__ = ["Registry", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Registry` at its first use. Every import of a part of Enginery runs this file, so it must be fast."""
    if name == "Registry":
        return import_module("enginery.registry").Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
