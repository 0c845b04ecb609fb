"""The command `enginery releases`: what is known of TensorRT-LLM's releases. Each call imports what it needs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from enginery.releases.cli_watch import watch_app

releases_app = typer.Typer(help="What is known of TensorRT-LLM's releases, and how sure it is.")
releases_app.add_typer(watch_app)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Release = Annotated[str, typer.Argument(metavar="RELEASE", help="A release of TensorRT-LLM, such as 1.2.1.")]


@releases_app.callback(invoke_without_command=True)
def list_releases(context: typer.Context, as_json: AsJson = False) -> None:
    """List the releases there are facts of, the newest first."""
    if context.invoked_subcommand:
        return
    from enginery.releases import shown
    from enginery.render import console, print_json

    rows = shown.listed()
    if as_json:
        print_json(rows)
    else:
        shown.print_listed(console(), rows)


@releases_app.command(short_help="Show a release: versions, precisions, families.")
def show(release: Release, as_json: AsJson = False) -> None:
    """Show a release: its versions, containers, precisions by GPU, model families."""
    from enginery.releases import shown
    from enginery.render import console, print_json

    one = shown.described(release)
    if as_json:
        print_json(one)
    else:
        shown.print_described(console(), one)


@releases_app.command(short_help="Show what changes between two, also for a spec.")
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The release to come from.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The release to go to.")],
    spec_file: Annotated[Path | None, typer.Argument(metavar="SPEC", help="Say what it means for this spec.")] = None,
    command: Annotated[
        str, typer.Option("--command", help="trtllm-build, quantize.py, run.py or 'convert_checkpoint.py FAMILY'.")
    ] = "trtllm-build",
    as_json: AsJson = False,
) -> None:
    """Show which flags come, go and change from one release to another, and what that means for a spec."""
    from enginery.releases import shown
    from enginery.releases.changes import changes
    from enginery.render import console, print_json

    found = changes(old, new, command)
    spec, meant = _for_spec(spec_file, old, new)
    if as_json:
        print_json(shown.as_data(found, meant))
        return
    shown.print_changes(console(), old, new, found)
    if meant is not None:
        shown.print_spec_changes(console(), spec, meant)


def _for_spec(spec_file: Path | None, old: str, new: str) -> tuple[str, Any]:
    """The spec's name and what it meets; nothing without a spec."""
    if spec_file is None:
        return "", None
    from enginery.releases.spec_changes import spec_changes
    from enginery.spec import read_spec

    spec = read_spec(spec_file, ())
    return spec.name, spec_changes(spec, old, new)
