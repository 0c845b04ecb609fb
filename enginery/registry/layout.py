"""Where things are in a registry, relative to its prefix."""

MANIFEST = "manifest.json"
MODELS = "models"
MANIFEST_PARTS = 5
"""`models/<model>/builds/<build id>/manifest.json`."""


def build_path(model: str, build_id: str) -> str:
    """The prefix of a build."""
    return f"{MODELS}/{model}/builds/{build_id}"


def manifest_path(model: str, build_id: str) -> str:
    """The object that makes a build exist."""
    return f"{build_path(model, build_id)}/{MANIFEST}"


def channel_path(model: str, channel: str, target: str) -> str:
    """The pointer of a channel for one target."""
    return f"{MODELS}/{model}/channels/{channel}/{target}.json"


def build_of(path: str) -> tuple[str, str] | None:
    """The model and build id whose manifest is at `path`, if one is."""
    parts = path.split("/")
    if len(parts) == MANIFEST_PARTS and (parts[0], parts[2], parts[4]) == (MODELS, "builds", MANIFEST):
        return parts[1], parts[3]
    return None
