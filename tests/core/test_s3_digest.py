"""Tests of the digest of a file whose ranges arrive in any order, and some of them twice."""

import random
import threading
from collections.abc import Collection, Iterator

import pytest

from enginery.core.digests import bytes_digest
from enginery.core.progress import NO_PROGRESS
from enginery.core.s3.partial import ContiguousDigest
from tests.support.models.downloads import RecordedProgress
from tests.support.processes.switching import often_switching
from tests.support.registry.pulls import some_bytes

__all__ = ["often_switching"]

DATA = some_bytes(1000)
RANGES = [(start, min(start + 300, len(DATA))) for start in range(0, len(DATA), 300)]


class Arriving:
    """A file that arrives in ranges, and its digest."""

    def __init__(self, present: Collection[int] = ()) -> None:
        self.there = bytearray(len(DATA))
        for index in present:
            start, end = RANGES[index]
            self.there[start:end] = DATA[start:end]
        self.progress = RecordedProgress()
        self.read = 0
        self.digest = ContiguousDigest(RANGES, present, self.reads, self.progress)

    def reads(self, start: int, end: int) -> Iterator[bytes]:
        self.read += end - start
        for position in range(start, end, 70):
            yield bytes(self.there[position : min(position + 70, end)])

    def arrives(self, index: int, start: int, data: bytes) -> None:
        self.there[start : start + len(data)] = data
        self.digest.arrived(index, data, start)

    def range_arrives(self, index: int, data: bytes = DATA) -> None:
        start, end = RANGES[index]
        for position in range(start, end, 100):
            self.arrives(index, position, data[position : min(position + 100, end)])


def test_what_arrives_in_order_is_digested_without_being_read_again() -> None:
    file = Arriving()
    for index in range(4):
        file.range_arrives(index)
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert file.read == 0
    assert sum(file.progress.sizes) == len(DATA)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
def test_ranges_may_arrive_in_any_order(order: tuple[int, ...]) -> None:
    file = Arriving()
    for index in order:
        file.range_arrives(index)
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert sum(file.progress.sizes) == len(DATA)


def test_bytes_behind_a_gap_are_not_reported() -> None:
    file = Arriving()
    file.range_arrives(1)
    assert sum(file.progress.sizes) == 0
    file.range_arrives(0)
    assert sum(file.progress.sizes) == 600


def test_ranges_that_were_there_are_read() -> None:
    file = Arriving(present={0, 2})
    file.range_arrives(1)
    file.range_arrives(3)
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert file.read == 600 + 100  # old ranges, and the first piece of range 1: range 0 was not digested


def test_a_file_that_was_there_is_read_from_its_first_byte_to_its_last() -> None:
    file = Arriving(present=range(4))
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert file.read == len(DATA)


def test_bytes_that_come_again_and_differ_count_as_they_came_last() -> None:
    """The checksum of a range is compared at its end. If it is wrong, the whole range is requested again."""
    file = Arriving()
    file.range_arrives(0)
    file.range_arrives(1, bytes(len(DATA)))
    for index in (1, 2, 3):
        file.range_arrives(index)
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert sum(file.progress.sizes) == len(DATA)


def test_bytes_that_come_again_before_they_were_digested_are_digested_once() -> None:
    file = Arriving()
    file.range_arrives(1, bytes(len(DATA)))
    for index in (1, 0, 2, 3):
        file.range_arrives(index)
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert all(size > 0 for size in file.progress.sizes)


def test_an_empty_file_has_the_digest_of_no_bytes() -> None:
    digest = ContiguousDigest([(0, 0)], (), lambda *_: iter(()), NO_PROGRESS)
    assert digest.hexdigest() == bytes_digest(b"")


def test_a_file_with_a_gap_has_no_digest() -> None:
    file = Arriving()
    for index in (0, 1, 3):
        file.range_arrives(index)
    with pytest.raises(ValueError, match="range 2 of 4 has not arrived"):
        file.digest.hexdigest()


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("seed", range(20))
def test_many_threads_may_bring_bytes_at_once_and_some_of_them_again(seed: int) -> None:
    file = Arriving(present={seed % 4})
    begin = threading.Barrier(4)

    def bring(index: int) -> None:
        begin.wait(10)
        for _ in range(random.Random(seed + index).randrange(4)):
            file.range_arrives(index, bytes(len(DATA)))
        file.range_arrives(index)

    threads = [threading.Thread(target=bring, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.digest.hexdigest() == bytes_digest(DATA)
    assert sum(file.progress.sizes) == len(DATA)
