"""`enginery pull` and `enginery verify`: a build on this machine, and whether it or one in the registry is whole."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from enginery.cli_options import AsJson, RegistryAddress, TrustedKeys, named_registry, note
from enginery.errors import RegistryError, UsageError
from enginery.registry.cli_resolve import (
    BackendName,
    Build,
    Channel,
    GpuName,
    Gpus,
    OtherProduct,
    PrecisionName,
    Release,
    Runtime,
    Target,
    WorldSize,
)

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
    from enginery.progress_bar import shown_progress
    from enginery.registry.asked import Asked
    from enginery.registry.choosing import choose_build
    from enginery.registry.pulling import pull as bring
    from enginery.signing.policy import Policy
    from enginery.signing.signatures import require_signed

    asked = Asked(
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
    policy = Policy.chosen(trusted_keys)
    opened = named_registry(registry)
    manifest, found_by = choose_build(opened, asked, note)
    note(f"pulling {manifest.reference} from {opened.address}")
    with shown_progress(note) as progress:
        pulled = bring(
            opened,
            manifest,
            to,
            link=link,
            mount=mount,
            channel=found_by,
            trust=partial(require_signed, policy=policy),
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
    from enginery.registry.choosing import find_build
    from enginery.registry.verifying import local_build, verify_build, verify_directory

    directory = Path(place).expanduser()
    if directory.is_dir() or place.startswith((".", "/", "~")):
        manifest, found = local_build(directory).manifest, verify_directory(directory)
    else:
        opened = named_registry(registry)
        manifest, _ = find_build(opened, place)
        found = verify_build(opened, manifest)
    if as_json:
        from enginery.render import print_json

        build = {"model": manifest.model, "build_id": manifest.build_id, "files": len(manifest.files)}
        print_json({**build, "size": manifest.size, "findings": [damage.model_dump() for damage in found]})
    else:
        for damage in found:
            print(damage)
        checked = f"{manifest.model}/{manifest.build_id}: {len(manifest.files)} files, {manifest.size:,} bytes"
        print(f"{checked}, {len(found)} not as published" if found else f"{checked}, all as published")
    if found:
        raise typer.Exit(RegistryError.exit_code)


def _audit(model: str | None, registry: str | None, *, as_json: bool) -> None:
    """Audit a registry or a model's builds, and end with the exit code of what was found."""
    from enginery.progress import LogProgress
    from enginery.registry.auditing import audit
    from enginery.render_upkeep import print_audit

    found = audit(named_registry(registry), model, LogProgress(note))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        print_audit(found)
    if found.damaged:
        raise typer.Exit(RegistryError.exit_code)
