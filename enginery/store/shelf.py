"""A small place beside the steps for files that are replaced as they get better, such as timing caches.

What is here is never part of a step's output or key. To lose it costs time and nothing else, so readers check what they
find, and a replacement says what it replaces: two that write at once do not undo each other's work unseen.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from enginery.core.digests import bytes_digest
from enginery.core.errors import StoreError, UsageError
from enginery.core.files import cannot_write, write_atomic
from enginery.core.s3 import PreconditionFailed, Prefix, honours_conditional_writes

SHELF = "shelf"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]*(/[0-9A-Za-z][0-9A-Za-z._+-]*)*")


@dataclass(frozen=True)
class Kept:
    """A file on a shelf.

    Attributes:
        data: its bytes.
        tag: names this content, to be given when it is replaced.
    """

    data: bytes
    tag: str


class Shelf(Protocol):
    """All methods raise StoreError when the store cannot be read or written."""

    def get(self, name: str) -> Kept | None:
        """The file of that name, such as `timing-caches/L4/10.3.0`; None when there is none."""

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """Write a file whole, if what is there is still what the writer has seen.

        Args:
            name: which file.
            data: its new bytes.
            after: the tag of what it replaces; None where nothing was there.

        Returns:
            Whether it was written: False when another was faster.
        """


class LocalShelf:
    """See `Shelf`: files in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str) -> Kept | None:
        """See `Shelf.get`."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            remedy = "check that it is a file you may read, or remove it"
            raise StoreError(f"cannot be read: {error.strerror}", subject=str(path), remedy=remedy) from error
        return Kept(data, bytes_digest(data))

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """See `Shelf.put`."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                found = self.get(name)
                if (found.tag if found else None) != after:
                    return False
                write_atomic(path, data)
        except OSError as error:
            raise cannot_write(path, error) from error
        return True

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)


class BucketShelf:
    """See `Shelf`: objects under a prefix.

    Where the server does not honour conditional writes, the last of two that write at once wins.
    """

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix

    def get(self, name: str) -> Kept | None:
        """See `Shelf.get`."""
        found = self.prefix.get(f"{SHELF}/{_checked(name)}")
        return Kept(found.data, found.etag) if found else None

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """See `Shelf.put`."""
        path = f"{SHELF}/{_checked(name)}"
        found = self.prefix.get(path)
        if (found.etag if found else None) != after:
            return False
        if not honours_conditional_writes(self.prefix):
            self.prefix.put_bytes(path, data)
            return True
        try:
            self.prefix.put_bytes(path, data, if_none_match=after is None, if_match=after)
        except PreconditionFailed:
            return False
        return True


class TieredShelf:
    """See `Shelf`: the one in S3, which all machines share; what is only here, from before there was one, counts."""

    def __init__(self, near: Shelf, far: Shelf) -> None:
        self.near, self.far = near, far

    def get(self, name: str) -> Kept | None:
        """See `Shelf.get`."""
        found = self.far.get(name)
        if found is not None:
            return Kept(found.data, f"far:{found.tag}")
        here = self.near.get(name)
        return Kept(here.data, f"near:{here.tag}") if here else None

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """See `Shelf.put`."""
        far_tag = after.removeprefix("far:") if after and after.startswith("far:") else None
        if not self.far.put(name, data, after=far_tag):
            return False
        here = self.near.get(name)
        self.near.put(name, data, after=here.tag if here else None)
        return True


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError("is not a name for a shelf", subject=name, remedy="use letters, digits, dots and dashes")
    return name
