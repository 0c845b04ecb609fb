"""The commands `promote`, `demote` and `channels`: which build a channel points at, and moving it."""

from typing import TYPE_CHECKING, Annotated

import typer

from enginery.cli_options import AsJson, BuildReference, RegistryAddress, named_registry, note

if TYPE_CHECKING:
    from enginery.registry import ChannelPointer

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
    from enginery.registry.render import print_channels, print_history
    from enginery.render import print_json

    found, unsound = named_registry(registry).pointers(model)
    pointers = [pointed.pointer for pointed in found]
    if as_json:
        print_json([pointer.model_dump(mode="json") for pointer in pointers])
    elif history:
        print_history(pointers)
    else:
        print_channels(pointers)
    for error in unsound:
        note(f"error: {error}")
    if unsound:
        raise typer.Exit(unsound[0].exit_code)


def _show_moved(pointer: "ChannelPointer", *, as_json: bool) -> None:
    from enginery.registry.layout import channel_reference

    if as_json:
        print(pointer.model_dump_json(indent=2))
        return
    where = channel_reference(pointer.model, pointer.channel, pointer.target)
    print(f"{where} is {pointer.build_id}" + (f", it was {pointer.previous}" if pointer.previous else ""))
    for failure in pointer.last.forced:
        note(f"warning: forced although it failed a gate: {failure}")
