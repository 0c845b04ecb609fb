"""Published builds on plain S3, which needs no server of its own and is never seen half-written.

What is here is imported when it is asked for: the command line, which has commands in this package, shall start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.registry.channels import ChannelPointer, Move
    from enginery.registry.listing import PublishedBuild
    from enginery.registry.publishing import is_published, publish, require_publishable
    from enginery.registry.reading import Registry
    from enginery.registry.resolving import Resolved
    from enginery.registry.unresolved import Miss, NothingFits, SeveralFit

__all__ = [
    "ChannelPointer",
    "Miss",
    "Move",
    "NothingFits",
    "PublishedBuild",
    "Registry",
    "Resolved",
    "SeveralFit",
    "is_published",
    "publish",
    "require_publishable",
]

_MODULES = {
    "channels": ("ChannelPointer", "Move"),
    "listing": ("PublishedBuild",),
    "publishing": ("is_published", "publish", "require_publishable"),
    "reading": ("Registry",),
    "resolving": ("Resolved",),
    "unresolved": ("Miss", "NothingFits", "SeveralFit"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
