# ruff: noqa: F811  fixtures are imported
"""Tests of the shelf in S3, over real HTTP."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginery.core.s3 import Address
from enginery.store.bucket import BucketStore, TieredStore
from enginery.store.local import LocalStore
from tests.support.s3.fixtures import bucket, server  # noqa: F401

pytestmark = pytest.mark.usefixtures("bucket")

NAME = "timing-caches/H100-SXM5-80GB/9.2.0.post12.dev5"


@pytest.fixture
def far(bucket: str, tmp_path: Path) -> BucketStore:
    return BucketStore(Address(bucket, "store"), scratch=LocalStore(tmp_path / "scratch"))


def test_what_was_put_is_there_and_is_no_step(far: BucketStore) -> None:
    shelf = far.shelf()
    assert shelf.get(NAME) is None
    assert shelf.put(NAME, b"one", after=None)
    kept = shelf.get(NAME)
    assert kept is not None
    assert kept.data == b"one"
    assert shelf.put(NAME, b"two", after=kept.tag)
    assert not shelf.put(NAME, b"three", after=kept.tag)
    assert list(far.records()) == []


def test_of_many_that_write_first_one_succeeds(far: BucketStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda number: far.shelf().put(NAME, b"%d" % number, after=None), range(4)))
    assert sum(written) == 1
    kept = far.shelf().get(NAME)
    assert kept is not None
    assert kept.data == b"%d" % written.index(True)


def test_two_machines_share_it(far: BucketStore, tmp_path: Path) -> None:
    one, other = (TieredStore(LocalStore(tmp_path / name), far).shelf() for name in ("one", "other"))
    assert one.put(NAME, b"timed", after=None)
    kept = other.get(NAME)
    assert kept is not None
    assert kept.data == b"timed"
    assert other.put(NAME, b"more", after=kept.tag)
    assert not one.put(NAME, b"old", after=kept.tag)
