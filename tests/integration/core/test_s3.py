# ruff: noqa: F811  fixtures are imported
"""Tests of objects in S3, over real HTTP and with its failures."""

import os
import threading
from pathlib import Path

import pytest

from enginery.core import s3
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError, StoreError
from enginery.core.s3 import Address, Prefix, download, objects, upload
from enginery.core.s3.download import download_file
from enginery.core.s3.upload import upload_file
from tests.support.http.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.support.s3.fixtures import bucket, prefix, proxy, server  # noqa: F401
from tests.support.s3.server import S3Server
from tests.support.store.outputs import contents

pytestmark = pytest.mark.usefixtures("bucket")


def a_file(tmp_path: Path, data: bytes) -> tuple[Path, str]:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path, bytes_digest(data)


def uploaded(prefix: Prefix, tmp_path: Path, data: bytes = os.urandom(100_000)) -> str:
    path, digest = a_file(tmp_path, data)
    upload_file(prefix, "x", path, digest)
    return digest


def test_what_was_put_is_there(prefix: Prefix, server: S3Server) -> None:
    etag = prefix.put_bytes("a/b.json", b"{}", content_type="application/json")
    assert prefix.get("a/b.json") == s3.Content(b"{}", etag, bytes_digest(b"{}"))
    assert prefix.get_bytes("a/b.json") == b"{}"
    assert server.keys(prefix.address.bucket) == ["pre/fix/a/b.json"]


def test_what_is_not_there_is_none(prefix: Prefix) -> None:
    assert prefix.get("x") is None
    assert prefix.get_bytes("x") is None
    assert prefix.head("x") is None
    assert list(prefix.list()) == []
    prefix.delete("x")


def test_a_head_says_what_the_upload_noted(prefix: Prefix, tmp_path: Path) -> None:
    digest = uploaded(prefix, tmp_path, b"data")
    found = prefix.head("x")
    assert found
    assert (found.path, found.size, found.sha256) == ("x", 4, digest)


def test_a_listing_is_of_a_directory_and_goes_over_pages(prefix: Prefix) -> None:
    for name in ("a/1", "a/2/3", "ab/4", "b"):
        prefix.put_bytes(name, b"x")
    assert [entry.path for entry in prefix.list("a")] == ["a/1", "a/2/3"]
    assert [entry.path for entry in prefix.list()] == ["a/1", "a/2/3", "ab/4", "b"]
    everything = Prefix(Address(prefix.address.bucket, ""))
    assert [entry.path for entry in everything.list("pre/fix/ab")] == ["pre/fix/ab/4"]


def test_more_than_a_page_is_listed(prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAGE", 2)
    for number in range(5):
        prefix.put_bytes(f"n/{number}", b"")
    assert [entry.path for entry in prefix.list("n")] == [f"n/{number}" for number in range(5)]
    assert proxy.count("GET", "list-type=2") == 3


def test_a_copy_is_made_by_the_server_with_its_notes(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    digest = uploaded(prefix, tmp_path)
    prefix.copy("x", "y")
    found = prefix.head("y")
    assert found
    assert found.sha256 == digest
    assert proxy.count("GET") == 0


def test_copying_what_is_not_there_is_an_error(prefix: Prefix) -> None:
    with pytest.raises(StoreError, match="no such object"):
        prefix.copy("x", "y")


def test_a_deleted_object_is_gone(prefix: Prefix) -> None:
    prefix.put_bytes("x", b"x")
    prefix.delete("x")
    assert prefix.head("x") is None


def test_a_large_file_goes_in_parts_and_comes_in_ranges(
    prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(download, "RANGE_BYTES", 3 << 20)
    data = os.urandom((11 << 20) + 17)
    digest = uploaded(prefix, tmp_path, data)
    assert proxy.count("PUT", "partNumber=3") == 1
    found = prefix.head("x")
    assert found
    assert (found.size, found.sha256) == (len(data), digest)
    assert download_file(prefix, "x", tmp_path / "back", size=len(data), sha256=digest) == digest
    assert (tmp_path / "back").read_bytes() == data
    assert proxy.count("GET", "/x") == 4


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 3_000_000])
def test_a_download_is_the_upload(prefix: Prefix, tmp_path: Path, data: bytes) -> None:
    digest = uploaded(prefix, tmp_path, data)
    download_file(prefix, "x", tmp_path / "new" / "back", size=len(data), sha256=digest)
    assert (tmp_path / "new" / "back").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["back"]


def test_an_object_is_only_created_once(prefix: Prefix) -> None:
    prefix.put_bytes("x", b"first", if_none_match=True)
    with pytest.raises(s3.PreconditionFailed):
        prefix.put_bytes("x", b"second", if_none_match=True)
    assert prefix.get_bytes("x") == b"first"


def test_the_same_bytes_from_someone_else_are_a_failed_condition_too(prefix: Prefix) -> None:
    prefix.put_bytes("x", b"same")
    with pytest.raises(s3.PreconditionFailed):
        prefix.put_bytes("x", b"same", if_none_match=True)


def test_an_object_is_swapped_only_for_the_one_that_was_read(prefix: Prefix) -> None:
    etag = prefix.put_bytes("x", b"first")
    prefix.put_bytes("x", b"second", if_match=etag)
    with pytest.raises(s3.PreconditionFailed):
        prefix.put_bytes("x", b"third", if_match=etag)
    assert prefix.get_bytes("x") == b"second"


def test_what_is_gone_cannot_be_swapped(prefix: Prefix) -> None:
    with pytest.raises(s3.PreconditionFailed):
        prefix.put_bytes("x", b"new", if_match='"0"')
    assert prefix.get_bytes("x") is None


@pytest.mark.parametrize("patience", ["4", "20"])
def test_a_write_whose_answer_was_lost_counts_as_done(
    prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, patience: str
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", patience)  # with more patience, the client itself tries again
    proxy.fail(Fault("answer", after=True, matches=lambda method, _: method == "PUT"))
    etag = prefix.put_bytes("x", b"ours", if_none_match=True)
    assert proxy.count("PUT") == 2
    assert prefix.get("x") == s3.Content(b"ours", etag, bytes_digest(b"ours"))


def test_the_server_is_probed_once_and_nothing_stays(prefix: Prefix, proxy: Proxy, server: S3Server) -> None:
    assert s3.honours_conditional_writes(prefix)
    count = len(proxy.requests)
    assert s3.honours_conditional_writes(prefix)
    assert len(proxy.requests) == count
    assert server.keys(prefix.address.bucket) == []


def test_a_server_that_ignores_conditions_is_found_out(prefix: Prefix, proxy: Proxy) -> None:
    proxy.drops |= {"if-match", "if-none-match"}
    assert not s3.honours_conditional_writes(prefix)


def test_a_server_that_does_not_know_ranges_is_named_for_that(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RANGE_BYTES", 1000)
    uploaded(prefix, tmp_path, os.urandom(3000))
    proxy.drops.add("range")
    with pytest.raises(StoreError, match="was asked for a part of it") as caught:
        download_file(prefix, "x", tmp_path / "back", size=3000)
    assert "Range requests" in caught.value.remedy
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("kind", ["truncate", "reset", "flip"])
def test_a_broken_download_is_detected_and_done_again(prefix: Prefix, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    data = os.urandom(100_000)
    digest = uploaded(prefix, tmp_path, data)
    proxy.fail(Fault(kind, matches=lambda method, _: method == "GET"))  # type: ignore[arg-type]
    download_file(prefix, "x", tmp_path / "back", size=len(data), sha256=digest)
    assert (tmp_path / "back").read_bytes() == data
    assert proxy.count("GET") == 2


def test_a_download_goes_on_where_it_broke_off(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    digest = uploaded(prefix, tmp_path, data)
    for _ in range(5):
        proxy.fail(Fault("truncate", matches=lambda method, _: method == "GET"))
    download_file(prefix, "x", tmp_path / "back", size=len(data), sha256=digest)
    assert (tmp_path / "back").read_bytes() == data
    assert proxy.count("GET") == 6


def test_a_download_that_stalls_is_given_up_and_done_again(
    prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "1")
    digest = uploaded(prefix, tmp_path)
    proxy.fail(Fault("stall", matches=lambda method, _: method == "GET"))
    assert download_file(prefix, "x", tmp_path / "back", size=100_000, sha256=digest) == digest


def test_an_object_that_is_truncated_for_good_is_an_error(prefix: Prefix, tmp_path: Path) -> None:
    digest = uploaded(prefix, tmp_path, b"x" * 1000)
    with pytest.raises(StoreError, match="has 1000 bytes, not the 2000"):
        download_file(prefix, "x", tmp_path / "back", size=2000, sha256=digest)
    assert not (tmp_path / "back").exists()


def test_an_object_that_is_altered_for_good_is_an_error_and_nothing_is_kept(prefix: Prefix, tmp_path: Path) -> None:
    uploaded(prefix, tmp_path, b"x" * 1000)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "back").write_text("old")
    with pytest.raises(StoreError, match="other bytes than were recorded") as caught:
        download_file(prefix, "x", tmp_path / "kept" / "back", size=1000, sha256="0" * 64)
    assert not caught.value.transient
    assert contents(tmp_path / "kept") == {"back": b"old"}


def test_a_missing_object_is_an_error_of_the_callers_kind(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="is not there"):
        download_file(Prefix(Address(bucket, ""), RegistryError), "x", tmp_path / "back", size=1)


@pytest.mark.parametrize("kind", ["answer", "reset"])
def test_a_busy_server_is_asked_again(prefix: Prefix, proxy: Proxy, tmp_path: Path, kind: str) -> None:
    proxy.fail(Fault(kind, times=2))  # type: ignore[arg-type]
    digest = uploaded(prefix, tmp_path)
    proxy.fail(Fault(kind, times=2))  # type: ignore[arg-type]
    found = prefix.head("x")
    assert found
    assert found.sha256 == digest


def test_a_server_that_stays_busy_is_an_error_that_can_pass(
    prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.3")
    proxy.fail(Fault("answer", times=1000))
    with pytest.raises(StoreError, match="cannot answer just now") as caught:
        prefix.get("x")
    assert caught.value.transient


@pytest.mark.parametrize("work", ["put", "upload", "download"])
def test_a_server_that_is_down_for_a_while_is_waited_for(
    prefix: Prefix, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: str
) -> None:
    digest = uploaded(prefix, tmp_path)
    with faulty_proxy(server.host, server.port, refusing=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        back = threading.Timer(1.0, proxy.open)
        back.start()
        if work == "put":
            prefix.put_bytes("y", b"y", if_none_match=True)
        elif work == "upload":
            upload_file(prefix, "y", tmp_path / "file", digest)
        else:
            download_file(prefix, "x", tmp_path / "back", size=100_000, sha256=digest)
        back.join()
        assert proxy.requests
        s3.close_clients()


def test_a_server_that_is_away_is_named(prefix: Prefix, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.3")
    with faulty_proxy(server.host, server.port, refusing=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StoreError, match=f"S3 at {proxy.url} cannot be reached") as caught:
            prefix.put_bytes("x", b"x")
    assert caught.value.transient
    assert "AWS_ENDPOINT_URL" in caught.value.remedy


def test_a_bucket_that_does_not_exist_is_named_whatever_is_asked(bucket: str, tmp_path: Path) -> None:
    missing = Prefix(Address("no-such-bucket", "p"))
    path, digest = a_file(tmp_path, b"x")
    for ask in (
        lambda: missing.get("x"),
        lambda: missing.head("x"),
        lambda: list(missing.list()),
        lambda: missing.put_bytes("x", b"x"),
        lambda: upload_file(missing, "x", path, digest),
        lambda: download_file(missing, "x", tmp_path / "back", size=1),
        lambda: missing.copy("x", "y"),
        lambda: s3.honours_conditional_writes(missing),
    ):
        with pytest.raises(StoreError, match="bucket no-such-bucket does not exist at http"):
            ask()


@pytest.mark.parametrize(
    ("code", "problem", "remedy"),
    [
        ("AccessDenied", "not allowed", "AWS_PROFILE"),
        ("InvalidAccessKeyId", "does not accept the credentials", "correct AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "does not accept the credentials", "correct AWS_ACCESS_KEY_ID"),
    ],
)
def test_refused_credentials_and_a_missing_permission_have_different_errors(
    prefix: Prefix, proxy: Proxy, code: str, problem: str, remedy: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    proxy.fail(Fault("answer", times=1000, status=403, body=body))
    for ask in (lambda: prefix.get("x"), lambda: prefix.head("x"), lambda: prefix.put_bytes("x", b"x")):
        before = len(proxy.requests)
        with pytest.raises(StoreError, match=problem) as caught:
            ask()
        assert remedy in caught.value.remedy
        assert not caught.value.transient
        assert len(proxy.requests) - before <= 2
