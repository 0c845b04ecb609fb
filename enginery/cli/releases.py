"""The commands `enginery releases …`: facts of TensorRT-LLM's releases, and the releases that a package index has."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from enginery.cli import rooms
from enginery.cli.options import AsJson, note, print_json, print_result

releases_app = typer.Typer(help="The facts of TensorRT-LLM's releases, and how sure they are.")

Release = Annotated[str, typer.Argument(metavar="RELEASE", help="A release of TensorRT-LLM, such as 1.2.1.")]


@releases_app.command(short_help="Say what new releases mean for specs.")
def watch(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC…", help="Spec files, or directories of them.")],
    prereleases: Annotated[bool, typer.Option("--prereleases", help="Count previews as releases, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the releases that your package index lists mean for each target. Nothing is built or moved.

    The field `releases.watch` of the specs is ignored. The flow `watch-releases` gives the same verdicts, and acts on
    them.
    """
    fleet = rooms.pipeline.read_fleet(rooms.pipeline.spec_files(specs))
    found = rooms.pipeline.fleet_verdicts(
        [rooms.pipeline.with_prereleases(one) for one in fleet] if prereleases else fleet,
        rooms.releases.listed_releases,
        partial(rooms.sources.resolve, log=note),
    )
    print_result(found, rooms.output.print_verdicts, as_json=as_json)


@releases_app.command(short_help="List the releases that your package index has.")
def listed(
    project: Annotated[
        str, typer.Argument(metavar="PROJECT", help="The project's name on the index.")
    ] = "tensorrt-llm",
    prereleases: Annotated[bool, typer.Option("--prereleases", help="List previews, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the releases of a project on your own package index, newest first. Withdrawn releases come last."""
    found = rooms.releases.listed_releases(project)
    for silent in found.silent:
        note(f"warning: no answer from {silent}")
    print_result(found, partial(rooms.output.print_listing, prereleases=prereleases), as_json=as_json)


@releases_app.callback(invoke_without_command=True)
def list_releases(context: typer.Context, as_json: AsJson = False) -> None:
    """List the releases that Enginery has facts of, the newest first."""
    if not context.invoked_subcommand:
        print_result(rooms.release_tables.release_rows(), rooms.release_tables.print_listed, as_json=as_json)


@releases_app.command(short_help="Show a release: versions, precisions, families.")
def show(release: Release, as_json: AsJson = False) -> None:
    """Show a release: its versions, containers, precisions by GPU, model families."""
    print_result(rooms.release_tables.described(release), rooms.release_tables.print_described, as_json=as_json)


@releases_app.command(short_help="Show what changes between two releases.")
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The old release.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new release.")],
    spec_file: Annotated[Path | None, typer.Argument(metavar="SPEC", help="Show what changes for this spec.")] = None,
    command: Annotated[
        str, typer.Option("--command", help="trtllm-build, quantize.py, run.py or 'convert_checkpoint.py FAMILY'.")
    ] = "trtllm-build",
    as_json: AsJson = False,
) -> None:
    """Show the flags that are new, removed or changed between two releases, and what that means for a spec."""
    found = rooms.releases.changes_between(old, new, command)
    spec = rooms.spec.read_spec(spec_file) if spec_file else None
    for_spec = rooms.pipeline.spec_changes(spec, old, new) if spec else None
    if as_json:
        print_json(rooms.release_tables.as_data(found, for_spec))
        return
    rooms.release_tables.print_changes(old, new, found)
    if spec and for_spec:
        rooms.release_tables.print_spec_changes(spec.name, for_spec)
