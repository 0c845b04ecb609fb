"""The commands `pull`, `verify` and `resolve`: the build of a model for a GPU and runtime, and whether it is whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enginery.cli import rooms
from enginery.cli.options import AsJson, RegistryAddress, TrustedKeys, named_registry, note
from enginery.core.errors import RegistryError, UsageError

if TYPE_CHECKING:
    from enginery.registry import Resolved

pull_app = typer.Typer()

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
    query = rooms.registry.BuildQuery(
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
    manifest, found_by = rooms.registry.choose_build(opened, query, note)
    note(f"pulling {manifest.reference} from {opened.address}")
    with rooms.output.shown_progress(note) as progress:
        pulled = rooms.registry.pull(
            opened,
            manifest,
            to,
            link=link,
            mount=mount,
            channel=found_by,
            policy=policy,
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


@pull_app.command(short_help="Find the one build that fits a GPU and a runtime.")
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


def _audit(model: str | None, registry: str | None, *, as_json: bool) -> None:
    """Audit a registry or a model's builds, and end with the exit code of what was found."""
    found = rooms.registry.audit(named_registry(registry), model, rooms.output.log_progress(note))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        rooms.output.print_audit(found)
    if found.damaged:
        raise typer.Exit(RegistryError.exit_code)
