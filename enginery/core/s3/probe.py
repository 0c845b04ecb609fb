"""Looks whether a bucket can be used, before hours are spent on what goes there.

A small test object is written, replaced, read and removed again. That shows a missing bucket, a wrong region, missing
rights, and whether the server honours conditional writes.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

from enginery.core.s3.errors import PreconditionFailed
from enginery.core.s3.objects import ObjectInfo, Prefix

PROBE = ".probe-"
"""The names of the test objects begin with this."""


def honours_conditional_writes(prefix: Prefix) -> bool:
    """Whether the server honours If-None-Match and If-Match. A small object tests this once for each address.

    Some servers ignore both without an error, so only a test shows it. The test also shows that objects can be written,
    read and removed under the address.

    Raises:
        EngineryError: of the prefix's class, when the test object cannot be written, read or removed.
    """
    known, address = prefix.connection().conditional, str(prefix.address)
    if address not in known:
        known[address] = _probe(prefix)
    return known[address]


def require_listable(prefix: Prefix, path: str = "") -> None:
    """Check that the objects under `path` may be listed.

    Raises:
        EngineryError: of the prefix's class, when they may not.
    """
    next(_Probed(prefix.address, prefix.error_class).list(path), None)


def probes(prefix: Prefix) -> Iterator[ObjectInfo]:
    """Objects that a test has left behind, because the writer died before it removed them."""
    for path, entry in prefix.entries("list_objects_v2", prefix.address.key(PROBE)):
        yield ObjectInfo(path, entry["Size"], entry["ETag"], modified=entry["LastModified"])


class _Probed(Prefix):
    """A prefix whose errors name the prefix, and not the object: the user does not know the test object."""

    def where(self, path: str) -> str:  # noqa: ARG002  the same for every object
        return str(self.address)


def _probe(probed: Prefix) -> bool:
    prefix = _Probed(probed.address, probed.error_class)
    path = f"{PROBE}{os.getpid()}-{time.time_ns()}"
    prefix.put_bytes(path, b"first")
    try:
        _require_same(prefix, path, b"first")
        return _refuses(prefix, path, if_none_match=True) and _refuses(prefix, path, if_match='"0"')
    finally:
        prefix.delete(path)


def _require_same(prefix: Prefix, path: str, written: bytes) -> None:
    if prefix.get_bytes(path) != written:
        problem = "an object that was just written cannot be read, or has other bytes"
        remedy = "use a server that returns what was written, or look for a cache in front of it"
        raise prefix.error_class(problem, subject=str(prefix.address), remedy=remedy)


def _refuses(prefix: Prefix, path: str, **condition: Any) -> bool:
    try:
        prefix.put_bytes(path, b"second", **condition)
    except PreconditionFailed:
        return True
    return False
