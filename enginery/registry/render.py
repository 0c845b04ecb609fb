"""What the commands on channels and `resolve` show."""

from collections.abc import Iterable

from pydantic import JsonValue

from enginery.registry.channels import ChannelPointer, Move
from enginery.registry.layout import channel_reference
from enginery.registry.resolving import Resolved
from enginery.render import console, plain_table
from enginery.units import human_bytes


def print_channels(pointers: Iterable[ChannelPointer]) -> None:
    """Where channels point, a line each."""
    shown = plain_table("channel", "target", "build", "since", "by", "how", "from")
    for pointer in pointers:
        move = pointer.last
        since = f"{move.moved:%Y-%m-%d %H:%M}"
        shown.add_row(
            pointer.channel, pointer.target, pointer.build_id, since, move.by or "?", move.action, move.previous or "-"
        )
    console().print(shown)


def print_history(pointers: Iterable[ChannelPointer]) -> None:
    """Every move of channels that is kept, the last one first."""
    for pointer in pointers:
        console().print(channel_reference(pointer.model, pointer.channel, pointer.target), markup=False)
        shown = plain_table("when", "by", "how", "build", "from", "why")
        for move in reversed(pointer.history):
            when = f"{move.moved:%Y-%m-%d %H:%M:%S}"
            shown.add_row(when, move.by or "?", move.action, move.build_id, move.previous or "-", _why(move))
        console().print(shown)
        if pointer.dropped:
            console().print(f"  and {pointer.dropped} older moves, which are not kept")


def _why(move: Move) -> str:
    from rich.markup import escape  # noqa: PLC0415  rich is slow to import

    forced = f"forced: {'; '.join(move.forced)}" if move.forced else ""
    return escape("; ".join(filter(None, (move.reason, forced))))


def resolved_line(resolved: Resolved) -> str:
    """The build in a line for people."""
    manifest, target = resolved.manifest, resolved.manifest.target
    gpus = "" if target.gpu == "cpu" else f", {target.world_size} x {target.gpu}"
    kind = f"{target.name}: {target.backend} {target.release}, {target.precision}{gpus}, {human_bytes(manifest.size)}"
    if resolved.pointer is None:
        return kind
    return f"{kind}; on {resolved.pointer.channel} since {resolved.pointer.moved:%Y-%m-%d %H:%M} UTC"


def resolved_json(resolved: Resolved) -> dict[str, JsonValue]:
    """The build for scripts."""
    manifest, pointer = resolved.manifest, resolved.pointer
    return {
        "model": manifest.model,
        "build_id": manifest.build_id,
        "uri": resolved.uri,
        "target": {**manifest.target.model_dump(mode="json"), "world_size": manifest.target.world_size},
        "engine": manifest.engine.model_dump(mode="json"),
        "license": manifest.license.model_dump(mode="json"),
        "created": manifest.created.isoformat(),
        "size": manifest.size,
        "channel": pointer.channel if pointer else None,
        "moved": pointer.moved.isoformat() if pointer else None,
        "etag": resolved.etag,
        "warnings": list(resolved.warnings),
    }
