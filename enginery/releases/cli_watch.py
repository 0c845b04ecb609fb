"""The commands `enginery releases watch` and `listed`: what the package index has, and what it means for specs."""

from pathlib import Path
from typing import Annotated

import typer

from enginery.cli_options import AsJson, note

watch_app = typer.Typer()


@watch_app.command(short_help="Say what new releases mean for specs.")
def watch(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC…", help="Spec files, or directories of them.")],
    prereleases: Annotated[bool, typer.Option("--prereleases", help="Count previews as releases, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the releases that your package index lists mean for each target. Nothing is built or moved.

    Specs are looked at whether their policy (`releases.watch`) says so or not. The flow `watch-releases` gives the same
    verdicts, and acts on them.
    """
    from enginery.releases.index import listed_releases
    from enginery.render import console, print_json
    from enginery.watch.fleet import read_fleet, spec_files
    from enginery.watch.printing import print_verdicts
    from enginery.watch.watching import fleet_verdicts, with_prereleases

    fleet = read_fleet(spec_files(specs))
    found = fleet_verdicts([with_prereleases(one) for one in fleet] if prereleases else fleet, listed_releases)
    if as_json:
        print_json([verdict.model_dump(mode="json") for verdict in found])
    else:
        print_verdicts(console(), found)


@watch_app.command(short_help="List the releases that your package index has.")
def listed(
    project: Annotated[
        str, typer.Argument(metavar="PROJECT", help="The project's name on the index.")
    ] = "tensorrt-llm",
    prereleases: Annotated[bool, typer.Option("--prereleases", help="List previews, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the releases of a project that your own package index has, newest first, without those withdrawn."""
    from enginery.releases.index import listed_releases
    from enginery.render import console, print_json
    from enginery.watch.printing import print_listing

    found = listed_releases(project)
    for silent in found.silent:
        note(f"warning: no answer from {silent}")
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_listing(console(), found, prereleases=prereleases)
