"""The command `resolve`: the one build that fits a GPU and a runtime, or why there is none."""

from typing import TYPE_CHECKING, Annotated

import typer

from enginery.cli_options import AsJson, RegistryAddress, named_registry, note

if TYPE_CHECKING:
    from enginery.registry import Resolved

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
    from enginery.registry.render import resolved_json, resolved_line
    from enginery.render import print_json

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
        print_json(resolved_json(found))
        return
    note(resolved_line(found))
    print(found.manifest.reference)
