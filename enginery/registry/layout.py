"""Where things are in a registry, relative to its prefix."""

import re

from enginery.builds import MANIFEST, MODELS, build_path
from enginery.core.errors import UsageError
from enginery.spec import IN_WORDS, NAME_PATTERN

MANIFEST_PARTS = 5
"""`models/<model>/builds/<build id>/manifest.json`."""
CHANNEL_PARTS = 5
"""`models/<model>/channels/<channel>/<target>.json`."""
POINTER_SUFFIX = ".json"
CHANNELS = "channels"


def manifest_path(model: str, build_id: str) -> str:
    """The object that makes a build exist."""
    return f"{build_path(model, build_id)}/{MANIFEST}"


def channel_path(model: str, channel: str, target: str) -> str:
    """The pointer of a channel for one target."""
    return f"{channels_path(model, channel)}/{target}{POINTER_SUFFIX}"


def build_of(path: str) -> tuple[str, str] | None:
    """The model and build id whose manifest is at `path`, if one is."""
    parts = path.split("/")
    if len(parts) == MANIFEST_PARTS and (parts[0], parts[2], parts[4]) == (MODELS, "builds", MANIFEST):
        return parts[1], parts[3]
    return None


def channels_path(model: str, channel: str | None = None) -> str:
    """The prefix of a model's channels, or of one of them."""
    every = f"{MODELS}/{model}/{CHANNELS}"
    return f"{every}/{channel}" if channel else every


def pointer_of(path: str) -> tuple[str, str] | None:
    """The channel and target whose pointer is at `path`, if one is."""
    parts = path.split("/")
    if len(parts) == CHANNEL_PARTS and parts[2] == CHANNELS and path.endswith(POINTER_SUFFIX):
        return parts[3], parts[4].removesuffix(POINTER_SUFFIX)
    return None


def channel_reference(model: str, channel: str, target: str) -> str:
    """A channel for one target as commands take it."""
    return f"{model}@{channel}/{target}"


def require_name(field: str, value: str) -> None:
    """Make sure that a text can be part of a path, and of a reference.

    Raises:
        UsageError: when it is no name.
    """
    if not re.fullmatch(NAME_PATTERN, value):
        raise UsageError(f"{value!r} {IN_WORDS[NAME_PATTERN]}", subject=field)
