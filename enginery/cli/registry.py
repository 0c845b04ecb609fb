"""The commands `promote`, `demote` and `channels`: which build a channel points at, and moving it."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from enginery.cli import rooms
from enginery.cli.options import AsJson, BuildReference, RegistryAddress, TrustedKeys, named_registry, note
from enginery.core.errors import RegistryError, UsageError
from enginery.core.progress import LogProgress

if TYPE_CHECKING:
    from enginery.registry import ChannelPointer, Resolved

channels_app = typer.Typer()

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the channel's history.")]
IfNow = Annotated[
    str | None, typer.Option("--if-now", metavar="BUILD", help="Only while the channel points at this build id.")
]
Unconditional = Annotated[
    bool, typer.Option("--allow-unconditional-writes", help="Accept an S3 endpoint that ignores If-Match.")
]


@channels_app.command(short_help="Point a channel at a build.")
def promote(  # noqa: PLR0913, PLR0917  each is an option of the command
    reference: BuildReference,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name, such as stable.")],
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Although it failed a gate; needs --reason.")] = False,
    if_now: IfNow = None,
    unconditional: Unconditional = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Point a channel at a build, for the build's target. A build that failed its validation is refused."""
    pointer = named_registry(registry).promote(
        reference, channel, reason=reason, force=force, expected=if_now, allow_unconditional_writes=unconditional
    )
    _show_moved(pointer, as_json=as_json)


@channels_app.command(short_help="Point a channel back at its previous build.")
def demote(  # noqa: PLR0913, PLR0917  each is an option of the command
    channel: Annotated[str, typer.Argument(metavar="MODEL@CHANNEL/TARGET", help="The channel of one target.")],
    reason: Reason = "",
    if_now: IfNow = None,
    unconditional: Unconditional = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Point a channel back at the build it pointed at before; once more goes one further back."""
    pointer = named_registry(registry).demote(
        channel, reason=reason, expected=if_now, allow_unconditional_writes=unconditional
    )
    _show_moved(pointer, as_json=as_json)


@channels_app.command(short_help="Show where a model's channels point.")
def channels(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    history: Annotated[bool, typer.Option("--history", help="Show every move, the last one first.")] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show where each channel of a model points, for each target: since when, moved by whom, and from what."""
    found, unsound = named_registry(registry).pointers(model)
    pointers = [pointed.pointer for pointed in found]
    if as_json:
        rooms.output.print_json([pointer.model_dump(mode="json") for pointer in pointers])
    elif history:
        rooms.output.print_history(pointers)
    else:
        rooms.output.print_channels(pointers)
    for error in unsound:
        note(f"error: {error}")
    if unsound:
        raise typer.Exit(unsound[0].exit_code)


def _show_moved(pointer: "ChannelPointer", *, as_json: bool) -> None:

    if as_json:
        print(pointer.model_dump_json(indent=2))
        return
    where = rooms.registry.channel_reference(pointer.model, pointer.channel, pointer.target)
    print(f"{where} is {pointer.build_id}" + (f", it was {pointer.previous}" if pointer.previous else ""))
    for failure in pointer.last.forced:
        note(f"warning: forced although it failed a gate: {failure}")


# The command `enginery diff`: what differs between two published builds.


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
    opened = named_registry(registry)
    found = rooms.builds.compare_builds(opened.find(before), opened.find(after))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        rooms.output.print_comparison(rooms.output.console(), found)


# The command `resolve`: the one build that fits a GPU and a runtime, or why there is none.


resolve_app = typer.Typer()

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Channel = Annotated[str | None, typer.Option("--channel", metavar="NAME", help="The channel it is on.")]
Build = Annotated[str | None, typer.Option("--build", metavar="ID", help="Its id, or how that begins.")]
Target = Annotated[str | None, typer.Option("--target", metavar="NAME", help="Its target.")]
GpuName = Annotated[
    str, typer.Option("--gpu", metavar="GPU", help="A product name, cpu, any, or auto for what this machine has.")
]
Gpus = Annotated[int | None, typer.Option("--gpus", metavar="N", help="How many GPUs there are.")]
WorldSize = Annotated[int | None, typer.Option("--world-size", metavar="N", help="The GPUs it takes, exactly.")]
BackendName = Annotated[str | None, typer.Option("--backend", metavar="NAME", help="tensorrt, pytorch or onnxruntime.")]
Release = Annotated[
    str | None, typer.Option("--release", metavar="RANGE", help="Its backend's version, or a range: '>=1.0,<1.3'.")
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="VERSION", help="The TensorRT-LLM of the serving container.")
]
PrecisionName = Annotated[str | None, typer.Option("--precision", metavar="NAME", help="The format of its weights.")]
OtherProduct = Annotated[
    bool,
    typer.Option("--other-product", help="Accept an engine of another product with the same compute capability."),
]


@resolve_app.command(short_help="Find the one build that fits a GPU and a runtime.")
def resolve(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: Model,
    channel: Channel = None,
    build: Build = None,
    target: Target = None,
    gpu: GpuName = "auto",
    gpus: Gpus = None,
    world_size: WorldSize = None,
    backend: BackendName = None,
    release: Release = None,
    runtime: Runtime = None,
    precision: PrecisionName = None,
    other_product: OtherProduct = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Find the one build of a model that fits, and print it as MODEL/BUILD; or say why none does.

    Without --channel every build that passed its gates is looked at, the highest release first.
    """
    found: Resolved = named_registry(registry).resolve(
        model,
        channel=channel,
        build=build,
        target=target,
        gpu=gpu,
        gpus=gpus,
        world_size=world_size,
        backend=backend,
        release=release,
        runtime=runtime,
        precision=precision,
        other_product=other_product,
    )
    for warning in found.warnings:
        note(f"warning: {warning}")
    if as_json:
        rooms.output.print_json(rooms.output.resolved_json(found))
        return
    note(rooms.output.resolved_line(found))
    print(found.manifest.reference)


# `enginery pull` and `enginery verify`: a build on this machine, and whether it or one in the registry is whole.


pull_app = typer.Typer()


@pull_app.command(short_help="Bring the build that fits into a directory.")
def pull(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: Annotated[
        str, typer.Argument(metavar="MODEL|BUILD", help="A model; or MODEL/BUILD, MODEL@CHANNEL/TARGET or a build id.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where: new, empty, or pulled into before.")],
    channel: Channel = None,
    build: Build = None,
    target: Target = None,
    gpu: GpuName = "auto",
    gpus: Gpus = None,
    world_size: WorldSize = None,
    backend: BackendName = None,
    release: Release = None,
    runtime: Runtime = None,
    precision: PrecisionName = None,
    other_product: OtherProduct = False,
    link: Annotated[
        Path | None,
        typer.Option("--link", metavar="CACHE", help="A directory that pulls here share; each file comes once."),
    ] = None,
    mount: Annotated[
        str | None,
        typer.Option("--mount", metavar="PATH", help="Where a server sees DIR/model_repository [default: there]"),
    ] = None,
    trusted_keys: TrustedKeys = None,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Bring the build of a model that fits into a directory, or the build that is named.

    It is checked to the last byte; until it is whole, what was there stays.
    """
    asked = rooms.registry.BuildQuery(
        model=model,
        channel=channel,
        build=build,
        target=target,
        gpu=gpu,
        gpus=gpus,
        world_size=world_size,
        backend=backend,
        release=release,
        runtime=runtime,
        precision=precision,
        other_product=other_product,
    )
    policy = rooms.builds.Policy.chosen(trusted_keys)
    opened = named_registry(registry)
    manifest, found_by = rooms.registry.choose_build(opened, asked, note)
    note(f"pulling {manifest.reference} from {opened.address}")
    with rooms.output.shown_progress(note) as progress:
        pulled = rooms.registry.pull(
            opened,
            manifest,
            to,
            link=link,
            mount=mount,
            channel=found_by,
            trust=partial(rooms.registry.require_signed, policy=policy),
            progress=progress,
            log=note,
        )
    if as_json:
        print(pulled.model_dump_json(indent=2))
        return
    size = f"{pulled.size:,} bytes, {pulled.fetched:,} of them fetched"
    print(f"{pulled.model}/{pulled.build_id} is at {pulled.directory}: {size}")
    print(f"serve it with: tritonserver --model-repository={pulled.mount}")
    if pulled.rewritten:
        note(f"{len(pulled.rewritten)} configurations name {pulled.mount}; see --mount if a server sees it elsewhere")


@pull_app.command(short_help="Check every byte of a build, here or in the registry.")
def verify(
    place: Annotated[
        str | None,
        typer.Argument(metavar="DIR|BUILD", help="Where a build was pulled to, or one published; a model with --all."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every build of the registry or of a model, its channels, and leftovers.")
    ] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a build against its manifest: of one in a directory, or of one in the registry."""
    if every:
        _audit(place, registry, as_json=as_json)
        return
    if place is None:
        raise UsageError("which build?", remedy="name a directory or a build, or give --all")

    directory = Path(place).expanduser()
    if directory.is_dir() or place.startswith((".", "/", "~")):
        manifest, found = rooms.registry.local_build(directory).manifest, rooms.registry.verify_directory(directory)
    else:
        opened = named_registry(registry)
        manifest = opened.find(place)
        found = rooms.registry.verify_build(opened, manifest)
    if as_json:
        build = {"model": manifest.model, "build_id": manifest.build_id, "files": len(manifest.files)}
        rooms.output.print_json({**build, "size": manifest.size, "findings": [damage.model_dump() for damage in found]})
    else:
        for damage in found:
            print(damage)
        checked = f"{manifest.model}/{manifest.build_id}: {len(manifest.files)} files, {manifest.size:,} bytes"
        print(f"{checked}, {len(found)} not as published" if found else f"{checked}, all as published")
    if found:
        raise typer.Exit(RegistryError.exit_code)


def _audit(model: str | None, registry: str | None, *, as_json: bool) -> None:
    """Audit a registry or a model's builds, and end with the exit code of what was found."""
    found = rooms.registry.audit(named_registry(registry), model, LogProgress(note))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        rooms.output.print_audit(found)
    if found.damaged:
        raise typer.Exit(RegistryError.exit_code)


# The commands that keep a registry in order.


upkeep_app = typer.Typer()

OnlyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model's builds.")]


@upkeep_app.command(short_help="Remove old builds and what died publishers have left.")
def prune(  # noqa: PLR0913, PLR0917  each is an option of the command
    model: OnlyModel = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Builds that stay of each target, the newest.")] = 3,
    days: Annotated[float, typer.Option("--days", min=0, help="Builds younger than this stay.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it nothing is removed.")] = False,
    registry: RegistryAddress = None,
    as_json: AsJson = False,
) -> None:
    """Remove builds that no channel needs and that are old and not among the newest; without --yes only say which."""
    policy = rooms.registry.Retention(keep=keep, days=days)
    done = rooms.registry.prune(named_registry(registry), policy, model=model, dry_run=not yes, log=note)
    if as_json:
        print(done.model_dump_json(indent=2))
    else:
        rooms.output.print_pruning(done)


@upkeep_app.command(short_help="Print the IAM policy of a role for a registry.")
def iam(
    role: Annotated[
        Literal["consumer", "publisher", "pruner", "auditor"],
        typer.Argument(metavar="ROLE", help="consumer, publisher, pruner or auditor."),
    ],
    address: Annotated[str, typer.Argument(metavar="S3", help="The registry: s3://bucket/prefix.")],
) -> None:
    """Print the least that a role must be allowed, as an IAM policy for one registry."""
    rooms.output.print_json(rooms.registry.policy(role, address))


# The commands of trust: `enginery sign` signs a published build, `enginery provenance` tells where one came from.


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
    if key is None:
        raise UsageError("no key is named", remedy="give --key key.pem or set ENGINERY_SIGNING_KEY")
    signing_key = rooms.builds.SigningKey.read(key)
    opened = named_registry(registry)
    found = opened.find(reference)
    prefix = opened.build_prefix(found.model, found.build_id)
    print(
        prefix.where(rooms.registry.sign_build(prefix, opened.manifest_json(found.model, found.build_id), signing_key))
    )


@trust_app.command(short_help="Print a build's provenance statement (in-toto, SLSA v1).")
def provenance(reference: BuildReference, registry: RegistryAddress = None) -> None:
    """Print the in-toto statement with SLSA v1 provenance that was published with a build: one line of JSON."""
    opened = named_registry(registry)
    manifest = opened.find(reference)
    statement = rooms.builds.published_statement(manifest, opened.build_prefix(manifest.model, manifest.build_id))
    sys.stdout.write(statement.decode())
