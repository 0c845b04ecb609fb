"""Tests of the shelf for small files with versions, and of a local and a shared shelf together."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginery.core.errors import StoreError, UsageError
from enginery.store.local import LocalStore
from enginery.store.shelf import Kept, LocalShelf, TieredShelf

NAME = "timing-caches/L4/10.3.0"


@pytest.fixture
def shelf(tmp_path: Path) -> LocalShelf:
    return LocalStore(tmp_path / "store").shelf()


def tag(shelf: LocalShelf) -> str:
    kept = shelf.get(NAME)
    assert kept
    return kept.tag


def test_an_empty_shelf_has_nothing_and_makes_no_directory(shelf: LocalShelf) -> None:
    assert shelf.get(NAME) is None
    assert not shelf.root.exists()


def test_what_was_put_is_there(shelf: LocalShelf) -> None:
    assert shelf.put(NAME, b"one", after=None)
    kept = shelf.get(NAME)
    assert kept is not None
    assert kept.data == b"one"


def test_a_replacement_names_what_it_replaces(shelf: LocalShelf) -> None:
    shelf.put(NAME, b"one", after=None)
    assert shelf.put(NAME, b"two", after=tag(shelf))
    assert shelf.get(NAME) == Kept(b"two", tag(shelf))


def test_a_writer_that_has_not_seen_the_newest_is_reported(shelf: LocalShelf) -> None:
    shelf.put(NAME, b"one", after=None)
    seen = tag(shelf)
    shelf.put(NAME, b"two", after=seen)
    assert not shelf.put(NAME, b"three", after=seen)
    assert not shelf.put(NAME, b"three", after=None)
    assert shelf.get(NAME) == Kept(b"two", tag(shelf))


def test_of_many_that_write_first_one_succeeds(shelf: LocalShelf) -> None:
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda number: shelf.put(NAME, b"%d" % number, after=None), range(8)))
    assert sum(written) == 1
    kept = shelf.get(NAME)
    assert kept is not None
    assert kept.data == b"%d" % written.index(True)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", ".hidden", "a/", "a b", "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(shelf: LocalShelf, name: str) -> None:
    with pytest.raises(UsageError, match="is not a name for a shelf"):
        shelf.put(name, b"", after=None)


def test_what_cannot_be_read_is_named(shelf: LocalShelf) -> None:
    (shelf.root / NAME).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read"):
        shelf.get(NAME)


def test_what_cannot_be_written_is_named(shelf: LocalShelf) -> None:
    shelf.root.parent.mkdir()
    shelf.root.touch()
    with pytest.raises(StoreError, match="cannot be written"):
        shelf.put(NAME, b"one", after=None)


def tiers(tmp_path: Path) -> tuple[LocalShelf, LocalShelf, TieredShelf]:
    near, far = LocalShelf(tmp_path / "near"), LocalShelf(tmp_path / "far")
    return near, far, TieredShelf(near, far)


def test_the_shared_shelf_comes_first(tmp_path: Path) -> None:
    near, far, both = tiers(tmp_path)
    near.put(NAME, b"here", after=None)
    far.put(NAME, b"shared", after=None)
    kept = both.get(NAME)
    assert kept is not None
    assert kept.data == b"shared"


def test_what_is_only_here_counts_and_can_be_shared(tmp_path: Path) -> None:
    near, far, both = tiers(tmp_path)
    near.put(NAME, b"here", after=None)
    kept = both.get(NAME)
    assert kept is not None
    assert kept.data == b"here"
    assert both.put(NAME, b"better", after=kept.tag)
    assert (tag(near), tag(far)) == (tag(far), tag(near))
    assert far.get(NAME) == Kept(b"better", tag(far))


def test_another_machine_that_was_faster_is_seen(tmp_path: Path) -> None:
    near, far, both = tiers(tmp_path)
    assert both.get(NAME) is None
    far.put(NAME, b"theirs", after=None)
    assert not both.put(NAME, b"ours", after=None)
    assert near.get(NAME) is None
    kept = both.get(NAME)
    assert kept is not None
    assert both.put(NAME, b"merged", after=kept.tag)
