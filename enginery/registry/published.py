"""A published build's manifest as its very bytes, which are what a signature covers and what a pull keeps."""

from enginery.digests import bytes_digest
from enginery.errors import RegistryError
from enginery.manifest import Manifest, read_manifest
from enginery.registry.layout import MANIFEST
from enginery.s3 import Content, Prefix


def manifest_json(source: Prefix, manifest: Manifest) -> bytes:
    """The bytes of `manifest`, which was found before, at the build's prefix.

    Raises:
        RegistryError: when they are not there any more, or are others now.
    """
    found = source.get(MANIFEST)
    problem = manifest_problem(found, manifest)
    if found is None or problem:
        remedy = "look again with `enginery show`; if nobody has published it anew, do not use this build"
        raise RegistryError(problem or "is not there", subject=source.where(MANIFEST), remedy=remedy)
    return found.data


def manifest_problem(found: Content | None, manifest: Manifest) -> str | None:
    """What is wrong with the object that should be `manifest`; None when nothing is.

    What its writer noted of its digest is compared too: a change that leaves it readable is found out.
    """
    if found is None:
        return "is not there any more"
    digest = bytes_digest(found.data)
    if found.sha256 not in {None, digest}:
        return f"holds other bytes than were written: sha256 is {digest}, not {found.sha256}"
    try:
        same = found.data == manifest.to_json() or read_manifest(found.data) == manifest
    except RegistryError as error:
        return error.problem
    return None if same else "was replaced since it was looked up"
