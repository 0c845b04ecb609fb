"""Channels: movable names on builds, one pointer for each target, swapped only against what was read.

The history of a channel is part of its pointer: a move and its entry are one write, so that whoever loses a race has
moved nothing, reads the winner's move, and adds his own to it.
"""

import getpass
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from enginery.builds import SafeName
from enginery.core.errors import RegistryError
from enginery.core.model import Frozen
from enginery.core.s3 import PreconditionFailed, Prefix
from enginery.core.text import masked, secrets_in
from enginery.registry.layout import channel_path
from enginery.spec import Name

# Who moves a channel, as its history tells it.


SETTING = "ENGINERY_WHO"
LONGEST = 200


def who() -> str:
    """The setting `ENGINERY_WHO`, such as the name of a CI job, else `user@host`."""
    return one_line(os.environ.get(SETTING, "")) or f"{_user()}@{socket.gethostname()}"


def one_line(text: str) -> str:
    """A text for the history: one line, not too long, without this process's secrets."""
    return " ".join(masked(text, secrets_in(os.environ)).split())[:LONGEST]


def _user() -> str:
    """A process in a container may have a number that no user has."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


CHANNEL_SCHEMA = 2
"""2 has a history. A pointer of schema 1 is read as one with a single move, of which it is not known who made it."""
ATTEMPTS = 20
"""Each lost race means that another one was won, so these are enough for as many who move a channel at once."""
KEPT_MOVES = 200
"""The pointer is read by everyone who pulls, so it must stay small: about 60 kB at the most."""


class Action(StrEnum):
    """How a channel came to its build."""

    PUBLISH = "publish"
    PROMOTE = "promote"
    DEMOTE = "demote"
    UNKNOWN = "unknown"


class Move(Frozen):
    """One move of a channel.

    Attributes:
        action: what moved it.
        build_id: the build it was moved to.
        previous: the build it was moved from; None at first.
        moved: when, UTC.
        by: who; empty where it is not known.
        reason: why, in the words of whoever moved it.
        forced: the gates that the build had failed and that were overruled, each with what it found.
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
        build_id: the build it names.
        previous: the build it named before; None at first.
        moved: when it was moved, UTC.
        history: the last moves, oldest first; the last one made it what it is.
        dropped: how many older moves are not kept any more.
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

    @model_validator(mode="after")
    def _last_move_led_here(self) -> Self:
        if self.history[-1].build_id != self.build_id:
            raise ValueError(f"history ends at {self.history[-1].build_id}, and build_id is {self.build_id}")
        return self

    @property
    def last(self) -> Move:
        """The move that made it what it is."""
        return self.history[-1]

    def way_back(self) -> list[str]:
        """The builds that a demotion leads back to, the next one last: what was moved away from and not taken back."""
        first, *rest = self.history
        path = [first.build_id] if first.action is Action.DEMOTE else [first.previous, first.build_id]
        for move in rest:
            if move.action is Action.DEMOTE:
                while path and path[-1] != move.build_id:
                    path.pop()
                path = path or [move.build_id]  # whence it came is not kept any more
            else:
                path.append(move.build_id)
        return [build_id for build_id in path[:-1] if build_id is not None]

    def was_on(self, build_id: str, published: datetime) -> bool:
        """Whether the channel has pointed at a build before: as its history tells, or its age where that is cut.

        Args:
            build_id: the build.
            published: when it was published.
        """
        named = {name for move in self.history for name in (move.build_id, move.previous)}
        return build_id in named or (self.dropped > 0 and published < self.history[0].moved)


class Pointed(NamedTuple):
    """A pointer as it was read, with the etag of the object that it was read from."""

    pointer: ChannelPointer
    etag: str


class Moved(NamedTuple):
    """What came of an attempt to move a channel: the pointer that is there then, and whether it was written now."""

    pointer: ChannelPointer
    written: bool


Decide = Callable[[ChannelPointer | None], Move | None]
"""From where a channel points now, the move to make; None to leave one that points somewhere as it is.

It is asked again after a lost race.
"""


def read_channel(prefix: Prefix, model: str, channel: str, target: str) -> Pointed | None:
    """The pointer, or None when the channel has none for this target.

    Raises:
        RegistryError: when what is there is no pointer, or of a newer Enginery.
    """
    path = channel_path(model, channel, target)
    found = prefix.get(path)
    if found is None:
        return None
    pointer = _parsed(found.data, prefix.where(path))
    if (pointer.model, pointer.channel, pointer.target) != (model, channel, target):
        problem = f"is the pointer of another channel: {pointer.model}@{pointer.channel}/{pointer.target}"
        raise RegistryError(problem, subject=prefix.where(path), remedy=_REMEDY)
    return Pointed(pointer, found.etag)


def change_channel(prefix: Prefix, model: str, channel: str, target: str, decide: Decide) -> Moved:
    """Move a channel as `decide` says.

    Raises:
        RegistryError: when others keep moving it at the same time.
    """
    path = channel_path(model, channel, target)
    move: Move | None = None
    for _ in range(ATTEMPTS):
        now = read_channel(prefix, model, channel, target)
        if now and move in now.pointer.history:
            return Moved(now.pointer, written=True)  # the answer was lost, and others have moved it since
        move = decide(now.pointer if now else None)
        if move is None and now:
            return Moved(now.pointer, written=False)
        assert move is not None  # noqa: S101  there is nothing to be left as it is
        pointer = _after(now.pointer if now else None, move, (model, channel, target))
        if _swap(prefix, path, pointer, now.etag if now else None):
            return Moved(pointer, written=True)
    remedy = "find out who else moves this channel, then try again"
    raise RegistryError("others keep moving the channel", subject=prefix.where(path), remedy=remedy)


def a_move(
    action: Action, now: ChannelPointer | None, build_id: str, reason: str, forced: tuple[str, ...] = ()
) -> Move:
    """A move that this process makes now, from where the channel points."""
    return Move(
        action=action,
        build_id=build_id,
        previous=now.build_id if now else None,
        moved=datetime.now(UTC),
        by=who(),
        reason=reason,
        forced=forced,
    )


def _after(now: ChannelPointer | None, move: Move, names: tuple[str, str, str]) -> ChannelPointer:
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


def _swap(prefix: Prefix, path: str, pointer: ChannelPointer, etag: str | None) -> bool:
    data = pointer.model_dump_json(indent=1).encode()
    try:
        prefix.put_bytes(path, data, if_none_match=etag is None, if_match=etag, content_type="application/json")
    except PreconditionFailed:
        return False
    return True


def _parsed(data: bytes, subject: str) -> ChannelPointer:
    try:
        plain = json.loads(data)
        version = plain["schema_version"]
        if isinstance(version, int) and version > CHANNEL_SCHEMA:
            problem = f"was written by a newer Enginery (schema {version}; this one reads up to {CHANNEL_SCHEMA})"
            raise RegistryError(problem, subject=subject, remedy="upgrade Enginery")
        return ChannelPointer.model_validate(_with_history(plain))
    except (ValueError, TypeError, KeyError) as error:  # a ValidationError is a ValueError
        raise RegistryError("is not a channel pointer", subject=subject, remedy=_REMEDY) from error


def _with_history(plain: dict[str, Any]) -> dict[str, Any]:
    """A pointer of schema 1 in the form of this schema."""
    if plain["schema_version"] != 1:
        return plain
    move = {name: plain[name] for name in ("build_id", "previous", "moved")}
    return {**plain, "schema_version": CHANNEL_SCHEMA, "history": [{"action": Action.UNKNOWN, **move}]}


_REMEDY = "remove it, and promote a build to the channel again"
