"""Manifests that were read before, kept on this machine: what is under one etag does not change."""

from contextlib import suppress
from pathlib import Path

from enginery.digests import json_digest
from enginery.errors import StoreError
from enginery.files import write_atomic
from enginery.home import home
from enginery.s3 import ObjectInfo, Prefix, endpoint


def read_listed(prefix: Prefix, listed: ObjectInfo) -> bytes | None:
    """The bytes of an object that a listing has shown, from here where they were read before; None when it is gone.

    Raises:
        EngineryError: of the prefix's class, when it cannot be read.
    """
    kept = _place(prefix, listed)
    with suppress(OSError):  # not there, or a home that cannot be used
        data = kept.read_bytes()
        if len(data) == listed.size:
            return data
    found = prefix.get(listed.path)
    if found is None:
        return None
    if found.etag == listed.etag:
        with suppress(StoreError):  # a home that cannot be written only costs time
            write_atomic(kept, found.data)
    return found.data


def _place(prefix: Prefix, listed: ObjectInfo) -> Path:
    name = json_digest([endpoint(), prefix.where(listed.path), listed.etag])
    return home() / "manifests" / f"{name}.json"
