"""The rooms that commands use, each imported when a command first uses it.

`enginery --help` imports none of them. Commands write `rooms.pipeline.make_plan(…)`. No other file of the command line
imports a room late.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery import builds, dev, pipeline, registry, releases, spec, store, toolchains, triton
    from enginery.cli import demo, doctor, output, release_tables

__all__ = [
    "builds",
    "demo",
    "dev",
    "doctor",
    "output",
    "pipeline",
    "registry",
    "release_tables",
    "releases",
    "spec",
    "store",
    "toolchains",
    "triton",
]

_OF_THE_COMMAND_LINE = ("demo", "doctor", "output", "release_tables")


def __getattr__(name: str) -> Any:
    """The room of that name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"enginery.cli.{name}" if name in _OF_THE_COMMAND_LINE else f"enginery.{name}")
