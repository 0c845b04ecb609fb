"""What several commands use: options with their help, the registry they name, lines for people."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from enginery.cli import rooms
from enginery.core.errors import UsageError

if TYPE_CHECKING:
    from enginery.registry import Registry

StoreAddress = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="ENGINERY_STORE",
        metavar="PLACE",
        help="Where finished steps are kept: a directory or s3://… [default: store/ in ENGINERY_HOME, ~/.enginery]",
    ),
]
RegistryAddress = Annotated[
    str | None,
    typer.Option("--registry", envvar="ENGINERY_REGISTRY", metavar="S3", help="Where builds are published: s3://…"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
BuildReference = Annotated[
    str, typer.Argument(metavar="BUILD", help="A build id, MODEL/BUILD, or MODEL@CHANNEL/TARGET.")
]

TrustedKeys = Annotated[
    str | None,
    typer.Option(
        "--trusted-keys",
        metavar="KEYS",
        help="Take only builds that one of these has signed: public keys in a directory, or files with a colon between"
        " [default: ENGINERY_TRUSTED_KEYS; nothing is required where that is not set]",
    ),
]


def note(line: str) -> None:
    """Print a line for people to standard error, so that the output stays readable for scripts."""
    print(line, file=sys.stderr, flush=True)


def named_registry(address: str | None) -> "Registry":
    """The registry that the user named.

    Raises:
        UsageError: when the user named none.
    """
    if address is None:
        raise UsageError("no registry is named", remedy="give --registry s3://… or set ENGINERY_REGISTRY")
    return rooms.registry.Registry(address)
