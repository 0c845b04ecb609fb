"""Channels: names that point at builds. A channel has one pointer, an object in S3, for each target.

A pointer is replaced only while its ETag is the one that was read (If-Match). The history of a channel is part of its
pointer, so a move and its history entry are one write. When two processes move a channel at once, one of the writes
fails. That process reads the new pointer and tries again.
"""

import getpass
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from enginery.builds import SafeName
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.s3 import Prefix
from enginery.core.text import masked, secrets_in
from enginery.registry.layout import channel_path
from enginery.spec import Name

USER_SETTING = "ENGINERY_WHO"
MAX_TEXT = 200
"""The largest number of characters of a text in the history."""
CHANNEL_SCHEMA = 2
"""Schema 2 added the history. A pointer of schema 1 is read as a pointer with one move by an unknown user."""
ATTEMPTS = 20
"""An attempt fails only when another process has moved the channel. So up to 20 processes can move it at once."""
KEPT_MOVES = 200
"""The moves that a history holds. Every pull by channel reads them: about 60 kB at most."""
REMEDY = "remove it, and promote a build to the channel again"


class Action(StrEnum):
    """What moved a channel."""

    PUBLISH = "publish"
    PROMOTE = "promote"
    DEMOTE = "demote"
    UNKNOWN = "unknown"


class Move(Frozen):
    """One move of a channel.

    Attributes:
        action: the kind of command that moved the channel.
        build_id: the build that the channel points at after the move.
        previous: the build that it pointed at before; None for the first move.
        moved: when it was moved, UTC.
        by: the user; empty when not known.
        reason: why, in the user's words.
        forced: the gates that the build failed and the user overruled, each with its failure in words.
    """

    action: Action
    build_id: SafeName
    previous: SafeName | None
    moved: datetime
    by: str = ""
    reason: str = ""
    forced: tuple[str, ...] = ()


class ChannelPointer(Frozen):
    """Where a channel points for one target.

    Attributes:
        build_id: the build that the channel points at.
        previous: the build that it pointed at before; None after the first move.
        moved: when it was moved, UTC.
        history: the latest moves, oldest first; the last one led to `build_id`.
        dropped: how many older moves have been dropped.
        etag: the ETag of the pointer's object; it changes when the channel is moved.
    """

    schema_version: int = CHANNEL_SCHEMA
    model: Name
    channel: Name
    target: Name
    build_id: SafeName
    previous: SafeName | None
    moved: datetime
    history: Annotated[tuple[Move, ...], Field(min_length=1)]
    dropped: int = 0
    etag: str | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _last_move_led_here(self) -> Self:
        if self.history[-1].build_id != self.build_id:
            raise ValueError(f"history ends at {self.history[-1].build_id}, and build_id is {self.build_id}")
        return self

    @property
    def last(self) -> Move:
        """The move that led to the current build."""
        return self.history[-1]

    def way_back(self) -> list[str]:
        """The builds that demotions would go back to; the next demotion goes to the last one."""
        first, *rest = self.history
        path = [first.build_id] if first.action is Action.DEMOTE else [first.previous, first.build_id]
        for move in rest:
            if move.action is Action.DEMOTE:
                while path and path[-1] != move.build_id:
                    path.pop()
                path = path or [move.build_id]  # older moves have been dropped
            else:
                path.append(move.build_id)
        return [build_id for build_id in path[:-1] if build_id is not None]

    def was_on(self, build_id: str, published: datetime) -> bool:
        """Whether the channel has pointed at a build. If moves were dropped, that is assumed of all older builds."""
        named = {name for move in self.history for name in (move.build_id, move.previous)}
        return build_id in named or (self.dropped > 0 and published < self.history[0].moved)


class Moved(NamedTuple):
    """The result of moving a channel: the current pointer, and whether this process has written it."""

    pointer: ChannelPointer
    written: bool


Decide = Callable[[ChannelPointer | None], Move | None]
"""Gets the current pointer of a channel and returns the move to make; None leaves an existing pointer as it is.

It is called again when another process has moved the channel first.
"""


def read_channel(prefix: Prefix, model: str, channel: str, target: str) -> ChannelPointer | None:
    """Read the pointer of a channel; None when the channel has none for this target.

    Raises:
        RegistryError: when the object is not a valid pointer, or was written by a newer Enginery.
    """
    path = channel_path(model, channel, target)
    found = prefix.get(path)
    if found is None:
        return None
    pointer = _parse(found.data, prefix.where(path))
    if (pointer.model, pointer.channel, pointer.target) != (model, channel, target):
        problem = f"is the pointer of another channel: {pointer.model}@{pointer.channel}/{pointer.target}"
        raise RegistryError(problem, subject=prefix.where(path), remedy=REMEDY)
    return pointer.model_copy(update={"etag": found.etag})


def change_channel(prefix: Prefix, model: str, channel: str, target: str, decide: Decide) -> Moved:
    """Move a channel as `decide` says.

    Raises:
        RegistryError: when other processes move the channel before each of `ATTEMPTS` attempts.
    """
    path = channel_path(model, channel, target)
    move: Move | None = None
    for _ in range(ATTEMPTS):
        now = read_channel(prefix, model, channel, target)
        if now and move in now.history:
            return Moved(now, written=True)  # the write before has succeeded; only the response of S3 was lost
        move = decide(now)
        if move is None and now:
            return Moved(now, written=False)
        assert move is not None  # noqa: S101  `decide` always makes the first move
        pointer = _moved_pointer(now, move, (model, channel, target))
        etag = prefix.swap(path, pointer.model_dump_json(indent=1).encode(), now.etag if now else None)
        if etag:
            return Moved(pointer.model_copy(update={"etag": etag}), written=True)
    remedy = "find out who else moves this channel, then try again"
    raise RegistryError("others keep moving the channel", subject=prefix.where(path), remedy=remedy)


def new_move(
    action: Action, now: ChannelPointer | None, build_id: str, reason: str, forced: tuple[str, ...] = ()
) -> Move:
    """The move of a channel from its current build to `build_id`, made now by this user."""
    return Move(
        action=action,
        build_id=build_id,
        previous=now.build_id if now else None,
        moved=datetime.now(UTC),
        by=user(),
        reason=reason,
        forced=forced,
    )


def user() -> str:
    """The user who moves a channel: `ENGINERY_WHO` if set, such as the name of a CI job, else `user@host`."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # in a container, the user id of the process may have no name
        login = str(os.getuid())
    return one_line(os.environ.get(USER_SETTING, "")) or f"{login}@{socket.gethostname()}"


def one_line(text: str) -> str:
    """The text as one line for the history: shortened, and with the secrets of this process masked."""
    return " ".join(masked(text, secrets_in(os.environ)).split())[:MAX_TEXT]


def _moved_pointer(now: ChannelPointer | None, move: Move, names: tuple[str, str, str]) -> ChannelPointer:
    history = (*(now.history if now else ()), move)
    kept = history[-KEPT_MOVES:]
    return ChannelPointer(
        model=names[0],
        channel=names[1],
        target=names[2],
        build_id=move.build_id,
        previous=move.previous,
        moved=move.moved,
        history=kept,
        dropped=(now.dropped if now else 0) + len(history) - len(kept),
    )


def _parse(data: bytes, subject: str) -> ChannelPointer:
    try:
        plain = json.loads(data)
        version = plain["schema_version"]
        if isinstance(version, int) and version > CHANNEL_SCHEMA:
            problem = f"was written by a newer Enginery (schema {version}; this one reads up to {CHANNEL_SCHEMA})"
            raise RegistryError(problem, subject=subject, remedy="upgrade Enginery")
        if version == 1:  # schema 1 has no history
            move = {name: plain[name] for name in ("build_id", "previous", "moved")}
            plain |= {"schema_version": CHANNEL_SCHEMA, "history": [{"action": Action.UNKNOWN, **move}]}
        return ChannelPointer.model_validate(plain)
    except (ValueError, TypeError, KeyError) as error:  # a ValidationError is a ValueError
        raise RegistryError("is not a channel pointer", subject=subject, remedy=REMEDY) from error
