"""The shelf: files beside the steps that make later steps faster, such as timing caches. Better ones replace them.

They are never part of a step's output or key. To lose one costs only time. A writer names the content that it replaces.
So if two write at the same time, the second write is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enginery.core import s3
from enginery.core.digests import bytes_digest
from enginery.core.errors import StoreError, UsageError
from enginery.core.files import write_atomic, writing
from enginery.core.locks import file_lock

SHELF = "shelf"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]*(/[0-9A-Za-z][0-9A-Za-z._+-]*)*")


@dataclass(frozen=True)
class Kept:
    """A file on a shelf.

    Attributes:
        data: its bytes.
        tag: identifies this content. A writer that replaces the content passes it to `put`.
    """

    data: bytes
    tag: str


class Shelf(Protocol):
    """Named files with tags. Methods raise StoreError when the store cannot be read or written."""

    def get(self, name: str) -> Kept | None:
        """The file with this name, such as `timing-caches/L4/10.3.0`; None when it does not exist."""

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """Write a file, but only if its content is still the one that the writer has read.

        Args:
            name: the file.
            data: its new bytes.
            after: the tag of the content to replace; None when the file did not exist.

        Returns:
            Whether the file was written. False when another writer was first.
        """


class LocalShelf:
    """A `Shelf` in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str) -> Kept | None:
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
        path = self._path(name)
        with writing(path), file_lock(path.with_name(f".{path.name}.lock")):
            found = self.get(name)
            if (found.tag if found else None) != after:
                return False
            write_atomic(path, data)
        return True

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)


class BucketShelf:
    """A `Shelf` under a prefix in S3.

    If the server does not honour conditional writes and two write at the same time, the last write wins.
    """

    def __init__(self, prefix: "s3.Prefix") -> None:
        self.prefix = prefix

    def get(self, name: str) -> Kept | None:
        found = self.prefix.get(f"{SHELF}/{_checked(name)}")
        return Kept(found.data, found.etag) if found else None

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        path = f"{SHELF}/{_checked(name)}"
        found = self.prefix.get(path)
        if (found.etag if found else None) != after:
            return False
        if not s3.honours_conditional_writes(self.prefix):
            self.prefix.put_bytes(path, data)
            return True
        return self.prefix.swap(path, data, after, content_type="application/octet-stream") is not None


class TieredShelf:
    """The shelf in S3, which all machines share. A file that only the local shelf has is found too."""

    def __init__(self, local: Shelf, remote: Shelf) -> None:
        self.local, self.remote = local, remote

    def get(self, name: str) -> Kept | None:
        if found := self.remote.get(name):
            return Kept(found.data, f"remote:{found.tag}")
        found = self.local.get(name)
        return Kept(found.data, f"local:{found.tag}") if found else None

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        tag = after.removeprefix("remote:") if after and after.startswith("remote:") else None
        if not self.remote.put(name, data, after=tag):
            return False
        found = self.local.get(name)
        self.local.put(name, data, after=found.tag if found else None)
        return True


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError("is not a name for a shelf", subject=name, remedy="use letters, digits, dots and dashes")
    return name
