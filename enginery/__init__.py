"""Enginery: build, check, publish and roll out TensorRT-LLM engines.

`docs/architecture.md` shows the rooms of this package. Serving teams need one name of it:

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
    """`Registry`, imported when it is asked for: whatever imports a part of Enginery runs this file first."""
    if name == "Registry":
        return import_module("enginery.registry").Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
