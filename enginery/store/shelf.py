"""Files beside the steps that are replaced as they get better, such as timing caches.

They are never part of a step's output or key, and losing one costs nothing but time. A writer names the content that it
replaces, so that of two who write at once the second one notices.
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
        tag: identifies this content; to be given when it is replaced.
    """

    data: bytes
    tag: str


class Shelf(Protocol):
    """Named files with tags. Methods raise StoreError when the store cannot be read or written."""

    def get(self, name: str) -> Kept | None:
        """The file of that name, such as `timing-caches/L4/10.3.0`; None when there is none."""

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        """Write a file, if it still has the content that the writer has seen.

        Args:
            name: which file.
            data: its new bytes.
            after: the tag of the content it replaces; None where there was no file.

        Returns:
            Whether it was written; False when another writer was first.
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

    Where the server does not honour conditional writes, the last of two that write at once wins.
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
    """The shelf in S3, which all machines share; a file that only the local one has, from earlier, is found too."""

    def __init__(self, near: Shelf, far: Shelf) -> None:
        self.near, self.far = near, far

    def get(self, name: str) -> Kept | None:
        found = self.far.get(name)
        if found is not None:
            return Kept(found.data, f"far:{found.tag}")
        local = self.near.get(name)
        return Kept(local.data, f"near:{local.tag}") if local else None

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        far_tag = after.removeprefix("far:") if after and after.startswith("far:") else None
        if not self.far.put(name, data, after=far_tag):
            return False
        local = self.near.get(name)
        self.near.put(name, data, after=local.tag if local else None)
        return True


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError("is not a name for a shelf", subject=name, remedy="use letters, digits, dots and dashes")
    return name
