"""Whether an S3 endpoint honours conditional writes: found out by trying, as some ignore them without a word."""

import os
import time
from typing import Any

from enginery.s3 import PROBE, PreconditionFailed, Prefix


def honours_conditional_writes(prefix: Prefix) -> bool:
    """See `enginery.s3.honours_conditional_writes`."""
    known, bucket = prefix.connection().conditional, prefix.address.bucket
    if bucket not in known:
        known[bucket] = _probe(prefix)
    return known[bucket]


class _Probed(Prefix):
    """What is wrong with a probe is wrong with the prefix: nobody asked for the probe's own object."""

    def where(self, path: str) -> str:  # noqa: ARG002  the same for every object
        return str(self.address)


def _probe(asked: Prefix) -> bool:
    prefix = _Probed(asked.address, asked.error_class)
    path = f"{PROBE}{os.getpid()}-{time.time_ns()}"
    prefix.put_bytes(path, b"first")
    try:
        return _refuses(prefix, path, if_none_match=True) and _refuses(prefix, path, if_match='"0"')
    finally:
        prefix.delete(path)


def _refuses(prefix: Prefix, path: str, **condition: Any) -> bool:
    try:
        prefix.put_bytes(path, b"second", **condition)
    except PreconditionFailed:
        return True
    return False
