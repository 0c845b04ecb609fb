"""The file that a download fills, and what it has already: it goes on where a killed one broke off."""

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
from enginery.core.progress import OnBytes

PART = ".download-"
LONGEST_NAME = 100
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
WRITE_BYTES = 256 << 10
"""At once: for more, ext4 takes larger blocks of memory, which can take twice as long to be had as all the rest."""
_THERE = b"\1"


def write_small(destination: Path, data: bytes) -> None:
    """Put these bytes there, whole or not at all; nobody goes on with so little. Missing directories are made."""
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
    """A file on its way, beside its destination and under a name of its own.

    Behind the bytes of the file itself lies one for each of its ranges, which says whether the range is there. They are
    cut off once all are. What a power failure makes of it is found out by the digest of the whole.

    Attributes:
        path: where it is.
    """

    def __init__(self, destination: Path, size: int, ranges: int, resume: str | None) -> None:
        """Open it.

        Args:
            destination: the file it is to become; its directory is there.
            size: bytes of that file.
            ranges: in how many pieces it comes.
            resume: the SHA-256 of what it is to hold, for a part that is kept when it fails and found again by the
                next one of the same digest; None for a part of this download alone. No two may use one at once.
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
        """Hold nothing."""
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, self.size + self.ranges)

    def missing(self) -> list[int]:
        """The ranges that are not there."""
        if os.fstat(self._descriptor).st_size == self.size:
            return []  # it was cut off before: all were there
        notes = os.pread(self._descriptor, self.ranges, self.size)
        return [index for index in range(self.ranges) if notes[index : index + 1] != _THERE]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes that were written before, in pieces."""
        for position in range(start, end, CHUNK_BYTES):
            yield os.pread(self._descriptor, min(CHUNK_BYTES, end - position), position)

    def write(self, data: bytes, position: int) -> None:
        """Put bytes where they belong."""
        _write_all(self._descriptor, data, position)

    def note(self, index: int, start: int, end: int) -> None:
        """Remember that a range is there; the disk begins with it while others come."""
        os.pwrite(self._descriptor, _THERE, self.size + index)
        begin_to_sync(self._descriptor, start, end - start)

    def finish(self) -> None:
        """Be the file itself and nothing more."""
        os.ftruncate(self._descriptor, self.size)

    def close(self) -> None:
        """Let go of it; unless it may be resumed, what has not become the destination is removed."""
        os.close(self._descriptor)
        if not self.keep:
            with suppress(FileNotFoundError):
                self.path.unlink()


# The digest of a file whose ranges arrive side by side.


Read = Callable[[int, int], Iterator[bytes]]
"""Gives the bytes of the file from one position to another, in pieces."""


class GaplessDigest:
    """SHA-256 of a file, taken as far as there is no gap, while more of it arrives.

    Whoever has brought bytes digests what they make gapless, unless another does so just then: while they are still in
    the processor's cache, and without a thread of its own.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], present: Collection[int], read: Read, told: OnBytes) -> None:
        """Begin.

        Args:
            ranges: first byte and end of each range, which follow upon each other.
            present: which of them have arrived before.
            read: gives what has arrived before.
            told: takes the bytes of each piece that is digested; fewer than none when that has to be done again.
        """
        self._ranges, self._read, self._told = ranges, read, told
        self._reached = [end if index in present else start for index, (start, end) in enumerate(ranges)]
        self._working = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._digest = hashlib.sha256()
        self._range = self._position = 0

    def arrived(self, index: int, data: bytes, position: int) -> None:
        """More bytes of a range are where they belong: the next ones, or again some that were there."""
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
                self._told(-self._position)
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
        self._told(len(data))
