"""The file that a download fills, range by range, and its digest while it is filled.

A killed download is continued from the ranges that its file already has.
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
"""For one write: for a larger one ext4 allocates larger blocks of memory, which can double the time of a download."""
_PRESENT = b"\1"

Read = Callable[[int, int], Iterator[bytes]]
"""Gives the bytes of the file from one position to another, in pieces."""


def write_small(destination: Path, data: bytes) -> None:
    """Write a small file whole or not at all; missing directories are made. It is never resumed."""
    directory = str(destination.parent)
    part = f"{directory}/{PART}{token_hex(8)}"  # as text: there are thousands of these
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
    """The file while it arrives, beside its destination and under a name of its own.

    After the bytes of the file comes one byte for each range, which says whether that range is complete. These are cut
    off at the end. Damage by a power failure is found by the digest of the whole file.

    Attributes:
        path: where it is.
    """

    def __init__(self, destination: Path, size: int, ranges: int, resume: str | None) -> None:
        """Open it.

        Args:
            destination: the file it is to become; its directory is there.
            size: bytes of that file.
            ranges: in how many pieces it comes.
            resume: the SHA-256 of the complete file, for a part that is kept after a failure and found again by the
                next download of that digest; None for a part of this download alone. Only one may use it at a time.
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
        """Forget every range."""
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, self.size + self.ranges)

    def missing(self) -> list[int]:
        """The ranges that are not complete."""
        if os.fstat(self._descriptor).st_size == self.size:
            return []  # already finished once
        notes = os.pread(self._descriptor, self.ranges, self.size)
        return [index for index in range(self.ranges) if notes[index : index + 1] != _PRESENT]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, in pieces; they must have been written."""
        for position in range(start, end, CHUNK_BYTES):
            yield os.pread(self._descriptor, min(CHUNK_BYTES, end - position), position)

    def write(self, data: bytes, position: int) -> None:
        """Write bytes at their position in the file."""
        _write_all(self._descriptor, data, position)

    def note(self, index: int, start: int, end: int) -> None:
        """Note that a range is complete; the disk begins to write it while others arrive."""
        os.pwrite(self._descriptor, _PRESENT, self.size + index)
        begin_to_sync(self._descriptor, start, end - start)

    def finish(self) -> None:
        """Cut off the notes, so that only the file itself is left."""
        os.ftruncate(self._descriptor, self.size)

    def close(self) -> None:
        """Close the file, and remove it unless it has been renamed to its destination or may be resumed."""
        os.close(self._descriptor)
        if not self.keep:
            with suppress(FileNotFoundError):
                self.path.unlink()


class ContiguousDigest:
    """SHA-256 of a file whose ranges arrive side by side, taken as far as there is no gap.

    The thread that has written bytes also digests them, and what follows them without a gap, unless another thread is
    digesting just then. So the bytes are still in the processor's cache, and no thread is needed for it.
    """

    def __init__(
        self, ranges: Sequence[tuple[int, int]], present: Collection[int], read: Read, progress: Progress
    ) -> None:
        """Begin.

        Args:
            ranges: first byte and end of each range, without a gap between them.
            present: the indexes of those that are complete already.
            read: reads back what has arrived.
            progress: is given the bytes that are digested; a negative number when they have to be digested again.
        """
        self._ranges, self._read, self._progress = ranges, read, progress
        self._reached = [end if index in present else start for index, (start, end) in enumerate(ranges)]
        self._working = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._digest = hashlib.sha256()
        self._range = self._position = 0

    def arrived(self, index: int, data: bytes, position: int) -> None:
        """Bytes of a range have been written: the next ones, or some of before once more."""
        if position < self._reached[index]:
            self._again(index, position)
        self._reached[index] = position + len(data)
        if self._working.acquire(blocking=False):
            try:
                if position == self._position:
                    self._take(data)
                self._follow()
            finally:
                self._working.release()

    def hexdigest(self) -> str:
        """The digest of the file: 64 hex digits.

        Raises:
            ValueError: when not every byte has arrived.
        """
        with self._working:
            self._follow()
        if self._range < len(self._ranges):
            raise ValueError(f"range {self._range} of {len(self._ranges)} has not arrived")
        return self._digest.hexdigest()

    def _again(self, index: int, position: int) -> None:
        with self._working:
            self._reached[index] = position
            if position < self._position:
                self._progress.add(-self._position)
                self._begin()

    def _follow(self) -> None:
        while self._range < len(self._ranges):
            reached = self._reached[self._range]
            for data in self._read(self._position, reached):
                self._take(data)
            if reached < self._ranges[self._range][1]:
                return
            self._range += 1

    def _take(self, data: bytes) -> None:
        self._digest.update(data)
        self._position += len(data)
        self._progress.add(len(data))
