"""The commands for a registry: move channels, sign builds, print provenance, remove old builds, compare two builds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from enginery.cli import rooms
from enginery.cli.options import (
    BUILD_HELP,
    AsJson,
    BuildReference,
    OnlyModel,
    RegistryAddress,
    named_registry,
    note,
    print_json,
    print_result,
)
from enginery.core.errors import UsageError

if TYPE_CHECKING:
    from enginery.registry import ChannelPointer

registry_app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="The reason, for the channel's history.")]
IfNow = Annotated[
    str | None, typer.Option("--if-now", metavar="BUILD", help="Move only if the channel points at this build id.")
]
Unconditional = Annotated[
    bool, typer.Option("--allow-unconditional-writes", help="Accept an S3 endpoint that ignores If-Match.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="ENGINERY_SIGNING_KEY",
        metavar="FILE",
        help="The private key. If it is encrypted, set ENGINERY_SIGNING_KEY_PASSWORD.",
    ),
]


@registry_app.command(short_help="Point a channel at a build.")
def promote(  # noqa: PLR0913, PLR0917  each is an option of the command
    reference: BuildReference,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name, such as stable.")],
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Accept a failed gate; needs --reason.")] = False,
    if_now: IfNow = None,
    unconditional: Unconditional = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Point a channel at a build, for the build's target. A build that failed its validation is refused."""
    pointer = named_registry(registry).promote(
        reference, channel, reason=reason, force=force, expected=if_now, allow_unconditional_writes=unconditional
    )
    print_result(pointer, _print_moved, as_json=as_json)


@registry_app.command(short_help="Point a channel back at its previous build.")
def demote(  # noqa: PLR0913, PLR0917  each is an option of the command
    channel: Annotated[str, typer.Argument(metavar="MODEL@CHANNEL/TARGET", help="The channel of one target.")],
    reason: Reason = "",
    if_now: IfNow = None,
    unconditional: Unconditional = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Point a channel back at its previous build. A second demotion goes one build further back."""
    pointer = named_registry(registry).demote(
        channel, reason=reason, expected=if_now, allow_unconditional_writes=unconditional
    )
    print_result(pointer, _print_moved, as_json=as_json)


@registry_app.command(short_help="Show where a model's channels point.")
def channels(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    history: Annotated[bool, typer.Option("--history", help="Show every move, the last one first.")] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show where each channel of a model points, for each target: since when, who moved it, and from which build."""
    pointers, unreadable = named_registry(registry).pointers(model)
    for_people = rooms.output.print_history if history else rooms.output.print_channels
    print_result(pointers, for_people, as_json=as_json)
    for error in unreadable:
        note(f"error: {error}")
    if unreadable:
        raise typer.Exit(unreadable[0].exit_code)


@registry_app.command(short_help="Sign a published build.")
def sign(reference: BuildReference, key: KeyFile = None, registry: RegistryAddress = None) -> None:
    """Sign a published build: its manifest and the digests of its files."""
    if key is None:
        raise UsageError("no key is named", remedy="give --key key.pem or set ENGINERY_SIGNING_KEY")
    signing_key = rooms.builds.SigningKey.read(key)
    opened = named_registry(registry)
    found = opened.find(reference)
    prefix = opened.build_prefix(found.model, found.build_id)
    bundle = rooms.registry.sign_build(prefix, opened.manifest_json(found.model, found.build_id), signing_key)
    print(prefix.where(bundle))


@registry_app.command(short_help="Print a build's provenance statement (in-toto, SLSA v1).")
def provenance(
    reference: BuildReference,
    gates: Annotated[
        bool, typer.Option("--gates", help="Print the statement on the build's gates (test-result).")
    ] = False,
    registry: RegistryAddress = None,
) -> None:
    """Print an in-toto statement that was published with a build: one line of JSON.

    It has SLSA v1 provenance, or with --gates the verdicts of the build's gates (test-result v0.1).
    """
    opened = named_registry(registry)
    manifest = opened.find(reference)
    prefix = opened.build_prefix(manifest.model, manifest.build_id)
    if gates:
        published = rooms.builds.published_file(manifest, prefix, rooms.builds.ATTESTATION)
        statement = published or rooms.builds.test_result_statement(manifest)
    else:
        statement = rooms.builds.published_statement(manifest, prefix)
    sys.stdout.write(statement.decode())


@registry_app.command(short_help="Remove old builds and leftovers of dead publishers.")
def prune(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: OnlyModel = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="How many of a target's newest builds stay.")] = 3,
    days: Annotated[float, typer.Option("--days", min=0, help="Builds younger than this stay.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it nothing is removed.")] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Remove old builds that no channel needs; the newest stay. Without --yes, only show which would be removed."""
    policy = rooms.registry.Retention(keep=keep, days=days)
    done = rooms.registry.prune(named_registry(registry), policy, model=model, dry_run=not yes, log=note)
    print_result(done, rooms.output.print_pruning, as_json=as_json)


@registry_app.command(short_help="Print the IAM policy of a role for a registry.")
def iam(
    role: Annotated[
        Literal["consumer", "publisher", "pruner", "auditor"],
        typer.Argument(metavar="ROLE", help="consumer, publisher, pruner or auditor."),
    ],
    address: Annotated[str, typer.Argument(metavar="S3", help="The registry: s3://bucket/prefix.")],
) -> None:
    """Print an IAM policy with the permissions that a role needs in one registry, and no others."""
    print_json(rooms.registry.policy(role, address))


@registry_app.command(short_help="Compare two published builds.")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=BUILD_HELP)],
    after: Annotated[str, typer.Argument(metavar="B", help=BUILD_HELP)],
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Compare two published builds by their manifests: origin, answers, speed, size, build time."""
    opened = named_registry(registry)
    found = rooms.builds.compare_builds(opened.find(before), opened.find(after))
    print_result(found, rooms.output.print_comparison, as_json=as_json)


def _print_moved(pointer: "ChannelPointer") -> None:
    where = rooms.registry.channel_reference(pointer.model, pointer.channel, pointer.target)
    print(f"{where} is {pointer.build_id}" + (f", it was {pointer.previous}" if pointer.previous else ""))
    for failure in pointer.last.forced:
        note(f"warning: forced although it failed a gate: {failure}")
