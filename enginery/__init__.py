"""Enginery: build, check, publish and roll out TensorRT-LLM engines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.registry import Registry as Registry

__all__ = ["Registry", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Registry`, imported when it is asked for: the command line and the steps shall start fast."""
    if name == "Registry":
        from enginery.registry import Registry  # noqa: PLC0415

        return Registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
