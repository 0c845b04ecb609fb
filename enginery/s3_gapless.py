"""The digest of a file whose ranges arrive side by side."""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from enginery.told import Told

Read = Callable[[int, int], Iterator[bytes]]
"""Gives the bytes of the file from one position to another, in pieces."""


class GaplessDigest:
    """SHA-256 of a file, taken as far as there is no gap, while more of it arrives.

    Whoever has brought bytes digests what they make gapless, unless another does so just then: while they are still in
    the processor's cache, and without a thread of its own.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], present: Collection[int], read: Read, told: Told) -> None:
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
