"""The command `enginery diff`: what differs between two published builds."""

from typing import Annotated

import typer

from enginery.cli_options import AsJson, RegistryAddress, named_registry

diff_app = typer.Typer()

HELP = "A build id, MODEL/BUILD, or MODEL@CHANNEL/TARGET."


@diff_app.command(short_help="Compare two published builds.")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=HELP)],
    after: Annotated[str, typer.Argument(metavar="B", help=HELP)],
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Compare two published builds by their manifests: what they are made of, answers, speed, size, build time."""
    from enginery.comparing import compare
    from enginery.render import console
    from enginery.watch.printing import print_comparison

    opened = named_registry(registry)
    found = compare(opened.find(before), opened.find(after))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        print_comparison(console(), found)
