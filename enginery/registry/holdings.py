"""Which files a registry holds already, whatever builds they are of, and the copies its server makes of them."""

from collections.abc import Iterable
from typing import NamedTuple

from enginery.context import Log
from enginery.errors import RegistryError
from enginery.registry.reading import Registry
from enginery.s3 import Prefix
from enginery.s3_errors import Gone
from enginery.transfers import Upload

SOURCES_TRIED = 3


class Place(NamedTuple):
    """Where a file is: a path in the build under `prefix`."""

    prefix: Prefix
    path: str


def places(registry: Registry, digests: Iterable[str], log: Log) -> dict[str, list[Place]]:
    """SHA-256 -> where manifests say that such a file is, the newest build first.

    Who may not list the registry finds nothing: then everything is sent.
    """
    wanted = set(digests)
    found: dict[str, list[Place]] = {}
    try:
        manifests, _ = registry.manifests()
    except RegistryError as error:
        if error.transient:
            raise
        log(f"what the registry holds cannot be looked up ({error.problem}): all files are sent")
        return {}
    for manifest in reversed(manifests):
        prefix = registry.build_prefix(manifest.model, manifest.build_id)
        for file in manifest.files:
            if file.sha256 in wanted:
                found.setdefault(file.sha256, []).append(Place(prefix, file.path))
    return found


def copied(prefix: Prefix, file: Upload, held: Iterable[Place]) -> bool:
    """Let the server copy the file from one of these places; False when it is in none of them any more, or altered.

    Raises:
        RegistryError: when the server cannot be asked.
    """
    return any(_copied(prefix, file, place) for place in list(held)[:SOURCES_TRIED])


def _copied(prefix: Prefix, file: Upload, place: Place) -> bool:
    found = place.prefix.head(place.path)
    if found is None or (found.size, found.sha256) != (file.size, file.sha256):
        return False
    try:
        prefix.copy_found(place.prefix, found, file.path)
    except Gone:
        return False  # it was pruned just now
    return True
