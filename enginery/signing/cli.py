"""The commands of trust: `enginery sign` signs a published build, `enginery provenance` tells where one came from."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from enginery.cli_options import BuildReference, RegistryAddress, named_registry
from enginery.errors import UsageError

trust_app = typer.Typer()

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="ENGINERY_SIGNING_KEY",
        metavar="FILE",
        help="The private key; its password, where it has one, is read from ENGINERY_SIGNING_KEY_PASSWORD.",
    ),
]


@trust_app.command(short_help="Sign a published build.")
def sign(reference: BuildReference, key: KeyFile = None, registry: RegistryAddress = None) -> None:
    """Sign a build that is published already: its manifest and, by their digests, its files."""
    from enginery.signing.keys import SigningKey
    from enginery.signing.signatures import sign_build

    if key is None:
        raise UsageError("no key is named", remedy="give --key key.pem or set ENGINERY_SIGNING_KEY")
    signing_key = SigningKey.read(key)
    opened = named_registry(registry)
    found = opened.find(reference)
    prefix = opened.build_prefix(found.model, found.build_id)
    print(prefix.where(sign_build(prefix, opened.manifest_json(found.model, found.build_id), signing_key)))


@trust_app.command(short_help="Print a build's provenance statement (in-toto, SLSA v1).")
def provenance(reference: BuildReference, registry: RegistryAddress = None) -> None:
    """Print the in-toto statement with SLSA v1 provenance that was published with a build: one line of JSON."""
    from enginery.provenance import published_statement

    opened = named_registry(registry)
    manifest = opened.find(reference)
    statement = published_statement(manifest, opened.build_prefix(manifest.model, manifest.build_id))
    sys.stdout.write(statement.decode())
