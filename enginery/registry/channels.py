"""Channels: movable names on builds, one pointer for each target, swapped only against what was read."""

from datetime import UTC, datetime

from pydantic import ValidationError

from enginery.errors import RegistryError
from enginery.registry.layout import channel_path
from enginery.s3 import PreconditionFailed, Prefix
from enginery.steps import Frozen

CHANNEL_SCHEMA = 1
ATTEMPTS = 5
"""Each lost race means that another one was won, so a few are enough."""


class ChannelPointer(Frozen):
    """Where a channel points for one target.

    Attributes:
        build_id: the build it names.
        previous: the build it named before; None at first.
        moved: when it was moved, UTC.
    """

    schema_version: int = CHANNEL_SCHEMA
    model: str
    channel: str
    target: str
    build_id: str
    previous: str | None
    moved: datetime


def read_channel(prefix: Prefix, model: str, channel: str, target: str) -> ChannelPointer | None:
    """The pointer, or None when the channel has none for this target.

    Raises:
        RegistryError: when what is there is no pointer.
    """
    return _read(prefix, channel_path(model, channel, target))[0]


def move_channel(prefix: Prefix, model: str, channel: str, target: str, build_id: str) -> ChannelPointer:
    """Point a channel at a build; nothing is written when it already does.

    Raises:
        RegistryError: when others keep moving it at the same time.
    """
    path = channel_path(model, channel, target)
    for _ in range(ATTEMPTS):
        now, etag = _read(prefix, path)
        if now and now.build_id == build_id:
            return now
        pointer = ChannelPointer(
            model=model,
            channel=channel,
            target=target,
            build_id=build_id,
            previous=now.build_id if now else None,
            moved=datetime.now(UTC),
        )
        if _swap(prefix, path, pointer, etag):
            return pointer
    remedy = "find out who else moves this channel, then try again"
    raise RegistryError("others keep moving the channel", subject=prefix.where(path), remedy=remedy)


def _swap(prefix: Prefix, path: str, pointer: ChannelPointer, etag: str | None) -> bool:
    data = pointer.model_dump_json(indent=1).encode()
    try:
        prefix.put_bytes(path, data, if_none_match=etag is None, if_match=etag, content_type="application/json")
    except PreconditionFailed:
        return False
    return True


def _read(prefix: Prefix, path: str) -> tuple[ChannelPointer | None, str | None]:
    found = prefix.get(path)
    if found is None:
        return None, None
    try:
        return ChannelPointer.model_validate_json(found.data), found.etag
    except ValidationError as error:
        remedy = "remove it and move the channel again"
        raise RegistryError("is not a channel pointer", subject=prefix.where(path), remedy=remedy) from error
