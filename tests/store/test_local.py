"""Tests of the store in a local directory."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core.errors import StoreError
from enginery.store import digest_output
from enginery.store.layout import record_path
from enginery.store.local import LocalStore
from enginery.store.steps import StepRecord
from tests.support.store.outputs import FILES, contents, some_record, write_output


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return write_output(tmp_path / "output")


@pytest.fixture
def added(store: LocalStore, output: Path) -> StepRecord:
    record = some_record(output)
    store.add(record, output)
    return record


def blobs(store: LocalStore) -> list[Path]:
    return sorted(path for path in (store.root / "blobs").rglob("*") if path.is_file())


def leftovers(store: LocalStore) -> list[Path]:
    return list((store.root / "work").iterdir())


def test_what_was_added_is_found_and_fetched(store: LocalStore, added: StepRecord, tmp_path: Path) -> None:
    assert store.find(added.key) == added
    store.fetch(added, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES
    assert leftovers(store) == []


def test_nothing_is_found_in_a_new_store(store: LocalStore) -> None:
    assert store.find("0" * 64) is None
    assert store.find_many(["0" * 64]) == {}
    assert list(store.records()) == []
    assert not store.root.exists()


def test_the_layout_is_the_one_that_is_documented(store: LocalStore, added: StepRecord) -> None:
    assert (store.root / "steps" / f"{added.key}.json").is_file()
    digests = sorted(file.sha256 for file in added.files)
    assert [path.relative_to(store.root).as_posix() for path in blobs(store)] == [
        f"blobs/sha256/{digest[:2]}/{digest}" for digest in digests
    ]


def test_files_are_linked_not_copied_and_read_only(
    store: LocalStore, added: StepRecord, output: Path, tmp_path: Path
) -> None:
    store.fetch(added, tmp_path / "fetched")
    for name in FILES:
        fetched = tmp_path / "fetched" / name
        assert fetched.samefile(output / name)
        assert stat.S_IMODE(fetched.stat().st_mode) == 0o444


def test_a_file_that_someone_else_may_change_is_copied(store: LocalStore, tmp_path: Path) -> None:
    theirs = tmp_path / "weights"
    theirs.write_bytes(b"theirs")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "weights").hardlink_to(theirs)
    record = some_record(tmp_path / "output")
    store.add(record, tmp_path / "output")
    theirs.write_bytes(b"other!")
    assert store.verify(record) == []
    assert stat.S_IMODE(theirs.stat().st_mode) & stat.S_IWUSR


def test_equal_files_are_kept_once(store: LocalStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        root = write_output(tmp_path / name, {"a": b"same", "b": b"same", "own": name.encode()})
        store.add(some_record(root, name), root)
    assert len(blobs(store)) == 3


def test_a_second_add_keeps_the_first_record(store: LocalStore, added: StepRecord, tmp_path: Path) -> None:
    other = write_output(tmp_path / "other", {"config.json": b"[]"})
    store.add(some_record(other, label="second"), other)
    assert store.find(added.key) == added


def test_adding_the_same_again_changes_nothing(store: LocalStore, added: StepRecord, output: Path) -> None:
    before = {path: path.stat().st_ino for path in blobs(store)}
    store.add(added, output)
    assert {path: path.stat().st_ino for path in blobs(store)} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 3)])
def test_a_step_without_all_its_blobs_is_absent_until_it_is_added_again(
    store: LocalStore, added: StepRecord, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(store.blobs.path(next(file for file in added.files if file.size > 3)))
    assert store.find(added.key) is None
    assert store.find_many([added.key]) == {}
    with pytest.raises(StoreError, match="the store has lost"):
        store.fetch(added, tmp_path / "fetched")
    again = write_output(tmp_path / "again")
    store.add(some_record(again, label="again"), again)
    found = store.find(added.key)
    assert found
    assert found.label == "again"
    assert store.verify(found) == []


def test_a_damaged_record_is_replaced(store: LocalStore, added: StepRecord, output: Path) -> None:
    (store.root / record_path(added.key)).write_text("{")
    assert store.find(added.key) is None
    assert list(store.records()) == []
    store.add(added, output)
    assert store.find(added.key) == added


def test_a_flipped_bit_is_noticed_by_verify(store: LocalStore, added: StepRecord) -> None:
    file = added.files[-1]
    data = bytearray(store.blobs.path(file).read_bytes())
    data[17] ^= 1
    store.blobs.path(file).chmod(0o644)
    store.blobs.path(file).write_bytes(data)
    (problem,) = store.verify(added)
    assert problem.startswith(f"{file.path}: sha256 is ")
    store.blobs.path(file).unlink()
    (problem,) = store.verify(added)
    assert "missing" in problem


def test_many_are_found_at_once(store: LocalStore, tmp_path: Path) -> None:
    records = {}
    for name in ("one", "two", "three"):
        root = write_output(tmp_path / name, {"name": name.encode()})
        record = some_record(root, name)
        store.add(record, root)
        records[record.key] = record
    assert store.find_many([*records, "0" * 64]) == records
    assert {record.key: record for record in store.records()} == records


def test_fetching_again_replaces_what_is_there(store: LocalStore, added: StepRecord, tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "config.json").write_text("stale")
    store.fetch(added, tmp_path / "fetched")
    store.fetch(added, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES


def test_a_flipped_bit_is_not_passed_on_and_the_step_runs_again(
    store: LocalStore, added: StepRecord, output: Path, tmp_path: Path
) -> None:
    blob = store.blobs.path(added.files[0])
    content = bytearray(blob.read_bytes())
    content[0] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(StoreError, match="was damaged in the store"):
        store.fetch(added, tmp_path / "fetched")
    assert store.find(added.key) is None
    assert not blob.exists()


def test_a_record_that_points_outside_is_not_fetched(store: LocalStore, added: StepRecord, tmp_path: Path) -> None:
    evil = added.files[0].model_copy(update={"path": "../evil"})
    with pytest.raises(StoreError, match="outside its output"):
        store.fetch(added.model_copy(update={"files": (evil,)}), tmp_path / "fetched")
    assert not (tmp_path / "evil").exists()


def test_a_file_that_is_gone_before_it_is_kept_is_an_error(store: LocalStore, output: Path) -> None:
    record = some_record(output)
    (output / "config.json").unlink()
    with pytest.raises(StoreError, match="file that is not there"):
        store.add(record, output)
    assert store.find(record.key) is None
    assert leftovers(store) == []


def test_a_file_that_was_changed_before_it_is_kept_is_an_error(store: LocalStore, output: Path) -> None:
    record = some_record(output)
    (output / "config.json").write_bytes(b"{} ")
    with pytest.raises(StoreError, match="was changed"):
        store.add(record, output)
    assert store.find(record.key) is None


def test_a_full_disk_leaves_nothing_half_made(monkeypatch: pytest.MonkeyPatch, store: LocalStore, output: Path) -> None:
    record = some_record(output)

    def full(source: Path, destination: Path, **_: object) -> None:
        destination.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(StoreError, match="disk is full") as caught:
            store.add(record, output)
    assert "free some space" in caught.value.remedy
    assert store.find(record.key) is None
    assert blobs(store) == []
    assert leftovers(store) == []
    store.add(record, output)
    assert store.find(record.key) == record


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, output: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")
    store = LocalStore(tmp_path / "store")
    with pytest.raises(StoreError, match="cannot be written"):
        store.add(some_record(output), output)
    with pytest.raises(StoreError, match="cannot be read"):
        store.find("0" * 64)


def test_a_workspace_is_empty_and_goes_away(store: LocalStore) -> None:
    left = store.root / "work" / "k1" / "half"
    left.mkdir(parents=True)
    with store.workspace("k1") as work:
        assert work == store.root / "work" / "k1"
        assert list(work.iterdir()) == []
        (work / "output").mkdir()
    assert not work.exists()


def test_a_workspace_goes_away_after_a_failure(store: LocalStore) -> None:
    def fail() -> None:
        with store.workspace("k1") as work:
            (work / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert leftovers(store) == []


def test_files_from_a_workspace_are_linked(store: LocalStore) -> None:
    with store.workspace("k1") as work:
        root = write_output(work / "output")
        inode = (root / "config.json").stat().st_ino
        record = some_record(root)
        store.add(record, root)
    assert store.blobs.path(record.files[0]).stat().st_ino == inode


def test_a_lock_lets_one_in_at_a_time(store: LocalStore) -> None:
    inside: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with store.lock("k1"):
            inside.append("second")

    thread = threading.Thread(target=second)
    with store.lock("k1"):
        thread.start()
        entered.wait(10)
        thread.join(0.2)
        inside.append("first")
    thread.join(10)
    assert inside == ["first", "second"]


def test_different_keys_do_not_wait_for_each_other(store: LocalStore) -> None:
    with store.lock("k1"), store.lock("k2"):
        assert sorted(path.name for path in (store.root / "locks").iterdir()) == ["k1.lock", "k2.lock"]


def test_a_step_can_be_added_under_its_lock(store: LocalStore, output: Path) -> None:
    record = some_record(output)
    with store.lock(record.key):
        store.add(record, output)
    assert store.find(record.key) == record


def test_an_output_without_files_is_a_whole_step(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    record = some_record(tmp_path / "nothing")
    store.add(record, tmp_path / "nothing")
    assert store.find(record.key) == record
    assert digest_output(tmp_path / "nothing") == ()
