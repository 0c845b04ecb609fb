"""The file that a download fills range by range, and the digest of the file while it is filled.

A killed download can continue: the ranges that are complete in the file are kept.
"""

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from enginery.core.digests import CHUNK_BYTES
from enginery.core.files import begin_to_sync
from enginery.core.progress import Progress

PART = ".download-"
LONGEST_NAME = 100
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
WRITE_BYTES = 256 << 10
"""The size of one write. With larger writes, ext4 allocates larger blocks, which can double a download's time."""
_PRESENT = b"\1"

Read = Callable[[int, int], Iterator[bytes]]
"""A function that yields the bytes of the file between two positions, in pieces."""


def write_small(destination: Path, data: bytes) -> None:
    """Write a small file completely or not at all. Missing directories are made. It is never resumed."""
    directory = str(destination.parent)
    part = f"{directory}/{PART}{token_hex(8)}"  # a string, as Path is slow for thousands of files
    try:
        descriptor = os.open(part, NEW, 0o600)
    except FileNotFoundError:
        destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, NEW, 0o600)
    try:
        _write_all(descriptor, data, 0)
        os.replace(part, destination)  # noqa: PTH105
    except BaseException:
        os.unlink(part)  # noqa: PTH108
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done : done + WRITE_BYTES], position + done)


class Part:
    """A file during its download. It is in the directory of its destination, under another name.

    After the bytes of the file there is one byte for each range, which says whether that range is complete. `finish`
    removes these bytes. The digest of the whole file shows damage by a power failure.

    Attributes:
        path: the path during the download.
    """

    def __init__(self, destination: Path, size: int, ranges: int, resume: str | None) -> None:
        """Open the file.

        Args:
            destination: the path after the download. Its directory must exist.
            size: bytes of the complete file.
            ranges: the number of ranges.
            resume: the SHA-256 of the complete file. The file is then kept after a failure, and the next download of
                this digest continues it; only one download at a time may use it. None: the file is not kept.
        """
        self.size, self.ranges, self.keep = size, ranges, resume is not None
        if resume is None:
            self._descriptor, name = tempfile.mkstemp(prefix=PART, dir=destination.parent)
            self.path = Path(name)
        else:
            self.path = destination.with_name(f"{PART}{resume[:16]}-{destination.name[:LONGEST_NAME]}")
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(self._descriptor).st_size not in {size, size + ranges} or not size:
            self.restart()

    def restart(self) -> None:
        """Mark every range as missing."""
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, self.size + self.ranges)

    def missing(self) -> list[int]:
        """The indexes of the ranges that are not complete."""
        if os.fstat(self._descriptor).st_size == self.size:
            return []  # `finish` was called before
        marks = os.pread(self._descriptor, self.ranges, self.size)
        return [index for index in range(self.ranges) if marks[index : index + 1] != _PRESENT]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, in pieces. They must be written already."""
        for position in range(start, end, CHUNK_BYTES):
            yield os.pread(self._descriptor, min(CHUNK_BYTES, end - position), position)

    def write(self, data: bytes, position: int) -> None:
        """Write bytes at a position of the file."""
        _write_all(self._descriptor, data, position)

    def mark_complete(self, index: int, start: int, end: int) -> None:
        """Mark a range as complete. The disk begins to write it while other ranges arrive."""
        os.pwrite(self._descriptor, _PRESENT, self.size + index)
        begin_to_sync(self._descriptor, start, end - start)

    def finish(self) -> None:
        """Remove the marks at the end, so that only the bytes of the file remain."""
        os.ftruncate(self._descriptor, self.size)

    def close(self) -> None:
        """Close the file. Remove it, unless it was renamed to its destination or may be resumed."""
        os.close(self._descriptor)
        if not self.keep:
            with suppress(FileNotFoundError):
                self.path.unlink()


class ContiguousDigest:
    """SHA-256 of a file whose ranges arrive at the same time. The bytes before the first gap are digested at once.

    The thread that has written bytes also digests them, and the bytes after them up to the next gap, unless another
    thread digests at that moment. So the bytes are still in the processor's cache, and no extra thread is needed.
    """

    def __init__(
        self, ranges: Sequence[tuple[int, int]], present: Collection[int], read: Read, progress: Progress
    ) -> None:
        """Begin a digest.

        Args:
            ranges: the first byte and the end of each range, without gaps between the ranges.
            present: the indexes of the ranges that are complete already.
            read: reads bytes that have arrived.
            progress: receives the number of digested bytes; a negative number when bytes must be digested again.
        """
        self._ranges, self._read, self._progress = ranges, read, progress
        self._reached = [end if index in present else start for index, (start, end) in enumerate(ranges)]
        self._working = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._digest = hashlib.sha256()
        self._range = self._position = 0

    def arrived(self, index: int, data: bytes, position: int) -> None:
        """Bytes of a range were written: the next bytes, or earlier bytes once more."""
        if position < self._reached[index]:
            self._rewind(index, position)
        self._reached[index] = position + len(data)
        if self._working.acquire(blocking=False):
            try:
                if position == self._position:
                    self._update(data)
                self._digest_present()
            finally:
                self._working.release()

    def hexdigest(self) -> str:
        """The digest of the file: 64 hex digits.

        Raises:
            ValueError: when not every byte has arrived.
        """
        with self._working:
            self._digest_present()
        if self._range < len(self._ranges):
            raise ValueError(f"range {self._range} of {len(self._ranges)} has not arrived")
        return self._digest.hexdigest()

    def _rewind(self, index: int, position: int) -> None:
        with self._working:
            self._reached[index] = position
            if position < self._position:
                self._progress.add(-self._position)
                self._begin()

    def _digest_present(self) -> None:
        while self._range < len(self._ranges):
            reached = self._reached[self._range]
            for data in self._read(self._position, reached):
                self._update(data)
            if reached < self._ranges[self._range][1]:
                return
            self._range += 1

    def _update(self, data: bytes) -> None:
        self._digest.update(data)
        self._position += len(data)
        self._progress.add(len(data))
