"""Removing a build so that nobody ever sees a part of it, or a channel that points at nothing.

The build is claimed, so nobody publishes it meanwhile. The manifest goes first: from then on there is no build. Only
then are the channels read once more: whoever moves a channel looks for the build again after the move, so one of the
two sees the other. A removal that dies leaves files without a manifest, which the next one finishes.
"""

from functools import partial
from uuid import uuid4

from enginery.parallel import side_by_side
from enginery.registry.claims import CLAIM, PRUNING, InTheWay, claimed
from enginery.registry.inventory import channel_uses
from enginery.registry.layout import MANIFEST
from enginery.registry.reading import Registry
from enginery.s3 import Content, PreconditionFailed, Prefix
from enginery.s3_leftovers import abort_upload, unfinished_uploads

AT_WORK = "someone is at work on it"


def remove_build(registry: Registry, model: str, build_id: str, manifest_etag: str | None) -> str | None:
    """Remove a build with all its files.

    Args:
        registry: where.
        model: its model.
        build_id: its name.
        manifest_etag: the manifest it was judged by; None for files without one.

    Returns:
        Why it was kept after all: it is needed, or not what was judged. None when it is gone.

    Raises:
        RegistryError: when the registry cannot be used; a build that a channel needs then has its manifest again.
    """
    prefix = registry.build_prefix(model, build_id)
    try:
        with claimed(prefix, f"{PRUNING} {uuid4().hex}"):
            return _remove(registry, prefix, (model, build_id), manifest_etag)
    except InTheWay:
        return AT_WORK


def _remove(registry: Registry, prefix: Prefix, names: tuple[str, str], judged: str | None) -> str | None:
    model, build_id = names
    if reason := channel_uses(registry, model).get(build_id):
        return reason
    manifest = prefix.get(MANIFEST)
    if (manifest.etag if manifest else None) != judged:
        return "it was published or removed meanwhile"
    if manifest and (reason := _unpublish(registry, prefix, names, manifest)):
        return reason
    _remove_files(prefix)
    return None


def _unpublish(registry: Registry, prefix: Prefix, names: tuple[str, str], manifest: Content) -> str | None:
    """Remove the manifest; put it back and say why when a channel has been moved to the build."""
    model, build_id = names
    prefix.delete(MANIFEST)
    try:
        reason = channel_uses(registry, model).get(build_id)
    except BaseException:
        _put_back(prefix, manifest)
        raise
    if reason:
        _put_back(prefix, manifest)
        return f"{reason}, since just now"
    return None


def _put_back(prefix: Prefix, manifest: Content) -> None:
    try:
        prefix.put_bytes(MANIFEST, manifest.data, if_none_match=True, content_type="application/json")
    except PreconditionFailed:
        return  # it is there
    except BaseException as error:
        error.add_note(f"{prefix.where(MANIFEST)} was removed and could not be put back: publish the build again")
        raise


def _remove_files(prefix: Prefix) -> None:
    side_by_side(partial(abort_upload, prefix), unfinished_uploads(prefix))
    side_by_side(prefix.delete, [info.path for info in prefix.list() if info.path != CLAIM])
