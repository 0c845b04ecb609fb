# ruff: noqa: F811  fixtures are imported
"""Tests of the store in S3 with a local store in front of it, over real HTTP."""

import shutil
import stat
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from enginery.core.errors import StoreError
from enginery.core.s3 import Address
from enginery.store import open_store
from enginery.store.bucket import BucketStore, TieredStore
from enginery.store.layout import blob_path, record_path
from enginery.store.local import LocalStore
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401
from tests.support.s3.server import S3Server
from tests.support.store.outputs import FILES, contents, some_record, write_output

pytestmark = pytest.mark.usefixtures("bucket")


@pytest.fixture
def far(bucket: str, tmp_path: Path) -> BucketStore:
    return BucketStore(Address(bucket, "store"), scratch=LocalStore(tmp_path / "scratch"))


def other_machine(far: BucketStore, root: Path) -> TieredStore:
    """The store of another machine with the same bucket and an empty local store."""
    near = LocalStore(root)
    return TieredStore(near, BucketStore(far.prefix.address, scratch=near))


def test_what_was_added_is_found_and_fetched(far: BucketStore, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output")
    record = some_record(root)
    assert far.find(record.key) is None
    far.add(record, root)
    assert far.find(record.key) == record
    assert list(far.records()) == [record]
    far.fetch(record, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES
    assert stat.S_IMODE((tmp_path / "fetched" / "config.json").stat().st_mode) == 0o444
    assert far.verify(record) == []


def test_the_record_is_written_after_its_files(far: BucketStore, proxy: Proxy, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output")
    record = some_record(root)
    far.add(record, root)
    puts = [urlsplit(path).path for method, path in proxy.requests if method == "PUT"]
    assert len(puts) == 4
    assert puts[-1].endswith(record_path(record.key))


def test_an_add_that_fails_in_the_middle_leaves_no_record(
    far: BucketStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    blob = blob_path(record.files[-1])
    proxy.fail(Fault("reset", times=2, matches=lambda method, path: method == "PUT" and blob in path))  # each way once
    with pytest.raises(StoreError, match="broke off"):
        far.add(record, root)
    assert far.find(record.key) is None
    assert list(far.records()) == []
    far.add(record, root)
    assert far.find(record.key) == record


@pytest.mark.parametrize("part", ["", "blobs/", "steps/"])
def test_an_add_outlives_an_s3_that_is_away_for_a_while(
    far: BucketStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "20")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    proxy.fail(Fault("reset", times=100_000, matches=lambda _, path: part in path))
    back = threading.Timer(1.0, proxy.faults.clear)
    back.start()
    assert other_machine(far, tmp_path / "one").add(record, root) == record
    back.join()
    assert far.find(record.key) == record


def test_wrong_credentials_are_an_error_and_the_output_stays_in_the_local_store(
    far: BucketStore, proxy: Proxy, tmp_path: Path
) -> None:
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", times=100_000, status=403, body=body))
    one = other_machine(far, tmp_path / "one")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    with pytest.raises(StoreError, match="does not accept the credentials") as caught:
        one.add(record, root)
    assert not caught.value.transient
    assert len(proxy.requests) == 1
    assert one.local.find(record.key) == record


def test_files_that_are_there_are_not_uploaded_again(far: BucketStore, proxy: Proxy, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output")
    far.add(some_record(root, "one"), root)
    before = proxy.count("PUT")
    far.add(some_record(root, "two"), root)
    assert proxy.count("PUT") - before == 1


def test_a_second_add_keeps_the_first_record(far: BucketStore, tmp_path: Path) -> None:
    root, other = write_output(tmp_path / "one"), write_output(tmp_path / "two", {"x": b"other"})
    record = some_record(root)
    far.add(record, root)
    far.add(some_record(other, label="second"), other)
    assert far.find(record.key) == record


def test_a_step_that_lost_a_blob_is_absent_until_it_is_added_again(far: BucketStore, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output")
    record = some_record(root)
    far.add(record, root)
    far.prefix.delete(blob_path(record.files[-1]))
    assert far.find(record.key) is None
    assert far.find_many([record.key]) == {}
    assert len(far.verify(record)) == 1
    again = some_record(root, label="again")
    far.add(again, root)
    assert far.find(record.key) == again


def test_a_flipped_bit_is_noticed_by_fetch_and_by_verify(far: BucketStore, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output", {"w": b"weights"})
    record = some_record(root)
    far.add(record, root)
    far.prefix.put_bytes(blob_path(record.files[0]), b"weightz")
    assert far.find(record.key) == record
    with pytest.raises(StoreError, match="other bytes than were recorded"):
        far.fetch(record, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == {}
    (problem,) = far.verify(record)
    assert problem.startswith("w: sha256 is")


def test_many_are_found_with_one_listing(far: BucketStore, proxy: Proxy, tmp_path: Path) -> None:
    records = {}
    for name in ("one", "two"):
        root = write_output(tmp_path / name, {"name": name.encode()})
        record = some_record(root, name)
        far.add(record, root)
        records[record.key] = record
    before = len(proxy.requests)
    assert far.find_many([*records, *(f"{number:064}" for number in range(1000))]) == records
    assert len(proxy.requests) - before == 1 + 2 + 2


def test_a_file_that_is_gone_before_it_is_kept_is_an_error(far: BucketStore, tmp_path: Path) -> None:
    root = write_output(tmp_path / "output")
    record = some_record(root)
    (root / "config.json").unlink()
    with pytest.raises(StoreError, match="file that is not there"):
        far.add(record, root)
    assert far.find(record.key) is None


def test_two_at_once_leave_one_whole_record(far: BucketStore, tmp_path: Path) -> None:
    roots = [write_output(tmp_path / name, {"x": name.encode()}) for name in ("one", "two", "three")]
    records = [some_record(root, label=root.name) for root in roots]
    threads = [threading.Thread(target=far.add, args=each) for each in zip(records, roots, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = far.find(records[0].key)
    assert found in records
    assert found
    assert far.verify(found) == []


def test_what_one_machine_added_another_finds_and_keeps(far: BucketStore, proxy: Proxy, tmp_path: Path) -> None:
    one, two = other_machine(far, tmp_path / "one"), other_machine(far, tmp_path / "two")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    one.add(record, root)
    assert two.local.find(record.key) is None
    assert two.find(record.key) == record
    two.fetch(record, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES
    assert two.local.find(record.key) == record
    before = proxy.count("GET")
    two.fetch(record, tmp_path / "again")
    assert proxy.count("GET") == before


def test_a_machine_that_finishes_second_goes_on_with_what_the_first_one_made(far: BucketStore, tmp_path: Path) -> None:
    one, two = other_machine(far, tmp_path / "one"), other_machine(far, tmp_path / "two")
    first, second = write_output(tmp_path / "1", {"x": b"first"}), write_output(tmp_path / "2", {"x": b"second"})
    kept = one.add(some_record(first), first)
    assert two.add(some_record(second, label="second"), second) == kept
    assert two.find(kept.key) == two.local.find(kept.key) == kept
    two.fetch(kept, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == {"x": b"first"}


def test_a_step_that_is_replaced_is_replaced_here_and_there(far: BucketStore, tmp_path: Path) -> None:
    one, two = other_machine(far, tmp_path / "one"), other_machine(far, tmp_path / "two")
    first, second = write_output(tmp_path / "1", {"x": b"first"}), write_output(tmp_path / "2", {"x": b"second"})
    one.add(some_record(first), first)
    again = some_record(second, label="again")
    assert one.add(again, second, replace=True) == again
    assert one.local.find(again.key) == two.find(again.key) == again
    two.fetch(again, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == {"x": b"second"}


def test_a_failed_upload_is_made_up_for_without_doing_the_step_again(
    far: BucketStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    one = other_machine(far, tmp_path / "one")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    blob = blob_path(record.files[-1])
    proxy.fail(Fault("answer", times=2, matches=lambda method, path: method == "PUT" and blob in path))  # each way once
    with pytest.raises(StoreError, match="cannot answer just now"):
        one.add(record, root)
    assert far.find(record.key) is None
    shutil.rmtree(root)
    assert one.find(record.key) == record
    assert far.find(record.key) == record


def test_looking_for_many_writes_nothing(far: BucketStore, proxy: Proxy, tmp_path: Path) -> None:
    one = other_machine(far, tmp_path / "one")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    one.local.add(record, root)
    assert one.find_many([record.key, "0" * 64]) == {record.key: record}
    assert proxy.count("PUT") == 0


def test_a_step_whose_files_are_gone_here_is_fetched_from_the_bucket(far: BucketStore, tmp_path: Path) -> None:
    one = other_machine(far, tmp_path / "one")
    root = write_output(tmp_path / "output")
    record = some_record(root)
    one.add(record, root)
    one.local.blobs.path(record.files[-1]).unlink()
    assert one.find(record.key) == record
    one.fetch(record, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES
    assert one.local.find(record.key) == record


def test_a_blob_that_is_altered_in_the_bucket_does_not_get_here(far: BucketStore, tmp_path: Path) -> None:
    one, two = other_machine(far, tmp_path / "one"), other_machine(far, tmp_path / "two")
    root = write_output(tmp_path / "output", {"w": b"weights"})
    record = some_record(root)
    one.add(record, root)
    far.prefix.put_bytes(blob_path(record.files[0]), b"weightz")
    with pytest.raises(StoreError, match="other bytes"):
        two.fetch(record, tmp_path / "fetched")
    assert two.local.find(record.key) is None
    assert not (tmp_path / "fetched").exists()
    assert one.verify(record) == [f"in S3: {problem}" for problem in far.verify(record)] != []


def test_the_records_of_both_are_listed_once(far: BucketStore, tmp_path: Path) -> None:
    one, two = other_machine(far, tmp_path / "one"), other_machine(far, tmp_path / "two")
    for store, name in ((one, "shared"), (two.local, "near")):
        root = write_output(tmp_path / name, {"name": name.encode()})
        store.add(some_record(root, name, label=name), root)
    assert sorted(record.label for record in two.records()) == ["near", "shared"]


def test_it_is_what_an_address_in_s3_opens(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: S3Server
) -> None:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "home"))
    store = open_store(f"s3://{bucket}/steps-of-ours")
    with store.lock("k1"), store.workspace("k1") as work:
        root = write_output(work / "output", {"w": b"weights"})
        record = some_record(root)
        store.add(record, root)
    assert open_store(None).find(record.key) == record
    assert [key for key in server.keys(bucket) if "/leases/" not in key] == [
        f"steps-of-ours/{blob_path(record.files[0])}",
        f"steps-of-ours/{record_path(record.key)}",
    ]


def test_a_bucket_that_does_not_exist_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "home"))
    store = open_store("s3://no-such-bucket/x")
    with pytest.raises(StoreError, match="bucket no-such-bucket does not exist"):
        store.find("0" * 64)
