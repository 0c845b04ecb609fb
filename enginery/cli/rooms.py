"""The rooms that commands use. Each is imported when a command first uses it, so `enginery --help` imports none.

Commands write `rooms.pipeline.make_plan(…)`. Only `output`, which is one of them, imports rooms late itself.
"""

from typing import TYPE_CHECKING

from enginery.core.late import late

if TYPE_CHECKING:
    from enginery import backends, builds, dev, pipeline, registry, releases, sources, spec, store, toolchains, triton
    from enginery.cli import demo, doctor, output, release_tables
    from enginery.core import progress
else:
    backends = late("enginery.backends")
    builds, dev, pipeline = late("enginery.builds"), late("enginery.dev"), late("enginery.pipeline")
    registry, releases, spec = late("enginery.registry"), late("enginery.releases"), late("enginery.spec")
    sources = late("enginery.sources")
    store, toolchains, triton = late("enginery.store"), late("enginery.toolchains"), late("enginery.triton")
    demo, doctor = late("enginery.cli.demo"), late("enginery.cli.doctor")
    progress = late("enginery.core.progress")
    output, release_tables = late("enginery.cli.output"), late("enginery.cli.release_tables")

__all__ = [
    "backends",
    "builds",
    "demo",
    "dev",
    "doctor",
    "output",
    "pipeline",
    "progress",
    "registry",
    "release_tables",
    "releases",
    "sources",
    "spec",
    "store",
    "toolchains",
    "triton",
]
