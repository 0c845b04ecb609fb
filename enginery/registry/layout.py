"""Where objects lie in a registry, relative to its prefix, and how users name builds and channels."""

import re

from enginery.builds import MANIFEST, MODELS, build_path, short
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError, UsageError
from enginery.spec import IN_WORDS, NAME_PATTERN

CHANNELS = "channels"
SIGNATURES = "signatures"
"""The folder of signatures in a build."""
_MANIFEST = re.compile(rf"{MODELS}/([^/]*)/builds/([^/]*)/{re.escape(MANIFEST)}")
_POINTER = re.compile(rf"{MODELS}/[^/]*/{CHANNELS}/([^/]*)/([^/]*)\.json")


def manifest_path(model: str, build_id: str) -> str:
    """The path of a build's manifest."""
    return f"{build_path(model, build_id)}/{MANIFEST}"


def channel_path(model: str, channel: str, target: str) -> str:
    """The path of a channel's pointer for one target."""
    return f"{channels_path(model, channel)}/{target}.json"


def channels_path(model: str, channel: str | None = None) -> str:
    """The prefix of the pointers of one channel; without `channel`, of all channels of the model."""
    prefix = f"{MODELS}/{model}/{CHANNELS}"
    return f"{prefix}/{channel}" if channel else prefix


def signature_path(manifest_json: bytes, fingerprint: str) -> str:
    """The path of the signature of a manifest by the key with this fingerprint, relative to the build."""
    return f"{SIGNATURES}/{short(bytes_digest(manifest_json))}-{short(fingerprint)}.sig"


def is_signature(path: str) -> bool:
    """Whether a path in a build belongs to a signature. Manifests do not list signatures."""
    return path.startswith(f"{SIGNATURES}/")


def build_of(path: str) -> tuple[str, str] | None:
    """The model and build id of a manifest's path; None for another path."""
    found = _MANIFEST.fullmatch(path)
    return (found[1], found[2]) if found else None


def pointer_of(path: str) -> tuple[str, str] | None:
    """The channel and target of a pointer's path; None for another path."""
    found = _POINTER.fullmatch(path)
    return (found[1], found[2]) if found else None


def channel_reference(model: str, channel: str, target: str) -> str:
    """A channel for one target, written as on the command line: `MODEL@CHANNEL/TARGET`."""
    return f"{model}@{channel}/{target}"


def split_reference(reference: str) -> tuple[str, str, str]:
    """The model, channel and target of `MODEL@CHANNEL/TARGET`; a RegistryError for a text in another form."""
    model, _, rest = reference.partition("@")
    channel, slash, target = rest.partition("/")
    if not (model and channel and slash and target):
        remedy = "write MODEL@CHANNEL/TARGET, such as tiny-llama@candidate/cpu-int4"
        raise RegistryError("does not name a channel and a target", subject=reference, remedy=remedy)
    return model, channel, target


def require_name(field: str, value: str) -> None:
    """Make sure that `value` can be part of a path and of a reference; a UsageError about `field` otherwise."""
    if not re.fullmatch(NAME_PATTERN, value):
        raise UsageError(f"{value!r} {IN_WORDS[NAME_PATTERN]}", subject=field)
