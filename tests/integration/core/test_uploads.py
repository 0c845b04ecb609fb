# ruff: noqa: F811  fixtures are imported
"""Tests of uploads to S3: what is sent, what is checked, and what happens after errors."""

import hashlib
import os
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError, StoreError
from enginery.core.progress import NoProgress
from enginery.core.s3 import Address, Prefix, download, objects, small, upload
from enginery.core.s3.client import bucket_url, connection
from enginery.core.s3.download import digest_object, download_file
from enginery.core.s3.errors import Gone
from enginery.core.s3.partial import Part
from enginery.core.s3.transfer import Download, Upload, download_all, upload_all
from enginery.core.s3.upload import upload_file
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.models.downloads import RecordedProgress
from tests.support.s3.fixtures import bucket, prefix, proxy, server  # noqa: F401
from tests.support.s3.server import S3Server

pytestmark = pytest.mark.usefixtures("bucket")

PART = 5 << 20
NO_UPLOAD = b"<Error><Code>NoSuchUpload</Code><Message>no</Message></Error>"
LARGE = os.urandom(2 * PART + 17)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LARGE` has three parts. No server accepts smaller parts."""
    monkeypatch.setattr(upload, "PART_BYTES", PART)


def a_file(directory: Path, data: bytes, name: str = "file") -> tuple[Path, str]:
    path = directory / name
    path.write_bytes(data)
    return path, bytes_digest(data)


def is_part(method: str, path: str) -> bool:
    return method == "PUT" and "partNumber=2" in path


def is_put(method: str, _: str) -> bool:
    return method == "PUT"


def uploads(server: S3Server, bucket: str) -> list[str]:
    client = server.client()
    found = [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
    client.close()
    return found


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(100_000), os.urandom(2_000_000), LARGE])
def test_a_file_arrives_as_it_is_and_its_digest_is_noted(prefix: Prefix, tmp_path: Path, data: bytes) -> None:
    path, digest = a_file(tmp_path, data)
    progress = RecordedProgress()
    upload_file(prefix, "x", path, digest, progress)
    found = prefix.head("x")
    assert found
    assert (found.size, found.sha256, sum(progress.sizes)) == (len(data), digest, len(data))
    assert digest_object(prefix, "x", size=len(data)) == digest


def test_small_files_take_the_short_way_and_are_put_once(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(upload, "_put", never)
    monkeypatch.setattr(download, "_fill", never)
    path, digest = a_file(tmp_path, b"small")
    upload_file(prefix, "a/x y+z%ü.json", path, digest)
    download_file(prefix, "a/x y+z%ü.json", tmp_path / "back", size=5, sha256=digest)
    assert (tmp_path / "back").read_bytes() == b"small"
    assert [method for method, _ in proxy.requests] == ["PUT", "GET"]


@pytest.mark.parametrize("size", [1000, 2_000_000, len(LARGE)])
def test_every_request_carries_the_digest_of_its_bytes(prefix: Prefix, proxy: Proxy, tmp_path: Path, size: int) -> None:
    path, digest = a_file(tmp_path, LARGE[:size])
    upload_file(prefix, "x", path, digest)
    assert proxy.checked == (1 if size <= PART else 3)


@pytest.mark.parametrize("size", [1000, 2_000_000, len(LARGE)])
def test_bytes_that_are_altered_on_the_way_are_noticed_by_the_server_and_sent_again(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, size: int
) -> None:
    path, digest = a_file(tmp_path, LARGE[:size])
    proxy.fail(Fault("flip sent", matches=is_put))
    upload_file(prefix, "x", path, digest)
    assert digest_object(prefix, "x", size=size) == digest
    assert proxy.checked == (2 if size <= PART else 4)


def test_bytes_that_are_always_altered_are_an_error_and_nothing_is_there(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.5")
    path, digest = a_file(tmp_path, b"data")
    proxy.fail(Fault("flip sent", times=1000, matches=is_put))
    with pytest.raises(StoreError, match="was altered on its way"):
        upload_file(prefix, "x", path, digest)
    assert prefix.head("x") is None


@pytest.mark.parametrize("size", [1000, 2_000_000, len(LARGE)])
def test_a_file_that_is_another_than_was_recorded_never_becomes_an_object(
    prefix: Prefix, server: S3Server, tmp_path: Path, size: int
) -> None:
    path, digest = a_file(tmp_path, LARGE[:size])
    path.write_bytes(LARGE[: size - 1] + bytes([LARGE[size - 1] ^ 1]))
    progress = RecordedProgress()
    with pytest.raises(StoreError, match="holds other bytes than were recorded") as caught:
        upload_file(prefix, "x", path, digest, progress)
    assert caught.value.subject == str(path)
    assert not caught.value.transient
    assert prefix.head("x") is None
    assert uploads(server, prefix.address.bucket) == []
    assert sum(progress.sizes) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", matches=is_part),
        Fault("reset", matches=is_part),
        Fault("reset", after=True, matches=is_part),
        Fault("answer", times=2, matches=lambda _, path: "uploads" in path),
        Fault("answer", matches=lambda method, path: method == "POST" and "uploadId" in path),
    ],
    ids=["503", "reset", "answer lost", "begin", "complete"],
)
def test_only_the_request_that_failed_is_sent_again(prefix: Prefix, proxy: Proxy, tmp_path: Path, fault: Fault) -> None:
    fault.times = 1
    path, digest = a_file(tmp_path, LARGE)
    proxy.fail(fault)
    upload_file(prefix, "x", path, digest)
    assert digest_object(prefix, "x", size=len(LARGE)) == digest
    assert proxy.count("PUT", "partNumber=1") + proxy.count("PUT", "partNumber=3") == 2


def test_an_upload_counts_as_done_if_the_answer_to_its_completion_was_lost(
    prefix: Prefix, proxy: Proxy, tmp_path: Path
) -> None:
    path, digest = a_file(tmp_path, LARGE)
    proxy.fail(Fault("reset", after=True, matches=lambda method, path: method == "POST" and "uploadId" in path))
    upload_file(prefix, "x", path, digest)
    assert digest_object(prefix, "x", size=len(LARGE)) == digest
    assert proxy.count("PUT") == 3


def test_an_upload_that_somebody_aborts_begins_again(
    prefix: Prefix, proxy: Proxy, server: S3Server, tmp_path: Path
) -> None:
    aborted: list[str] = []

    def abort(method: str, path: str) -> None:
        if is_part(method, path) and not aborted:
            client = server.client()
            for upload in client.list_multipart_uploads(Bucket=prefix.address.bucket)["Uploads"]:
                aborted.append(upload["UploadId"])
                client.abort_multipart_upload(
                    Bucket=prefix.address.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            client.close()
            # S3 answers like this. moto has no such answer.
            proxy.fail(
                Fault("answer", times=100, status=404, body=NO_UPLOAD, matches=lambda _, path: aborted[0] in path)
            )

    proxy.watch = abort
    path, digest = a_file(tmp_path, LARGE)
    progress = RecordedProgress()
    upload_file(prefix, "x", path, digest, progress)
    assert len(aborted) == 1
    assert sum(progress.sizes) == len(LARGE)
    assert digest_object(prefix, "x", size=len(LARGE)) == digest


def test_a_refused_part_is_an_error_and_what_was_sent_is_freed(
    prefix: Prefix, proxy: Proxy, server: S3Server, tmp_path: Path
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", times=1000, status=403, body=body, matches=is_part))
    path, digest = a_file(tmp_path, LARGE)
    with pytest.raises(StoreError, match="not allowed"):
        upload_file(prefix, "x", path, digest)
    assert uploads(server, prefix.address.bucket) == []


def test_parts_grow_with_the_file_so_that_there_are_not_too_many() -> None:
    assert upload.part_bytes(10 << 20) == PART
    size = 5 << 40
    assert -(-size // upload.part_bytes(size)) <= 10_000


def test_many_files_go_and_come_back(prefix: Prefix, tmp_path: Path, proxy: Proxy) -> None:
    contents = {f"d{number % 7}/f{number}": os.urandom(number * 50) for number in range(60)} | {"large": LARGE}
    for name, data in contents.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    for _ in range(6):
        proxy.fail(Fault("reset"))
    digests = {name: bytes_digest(data) for name, data in contents.items()}
    upload_all(prefix, [Upload(tmp_path / "out" / n, n, len(contents[n]), digests[n]) for n in contents], NoProgress())
    for kind in ("reset", "flip", "truncate", "answer"):  # fewer errors than attempts of a download
        proxy.fail(Fault(kind, times=2, matches=lambda method, _: method == "GET"))
    back = tmp_path / "back"
    download_all(prefix, [Download(n, back / n, len(contents[n]), digests[n]) for n in contents], NoProgress())
    assert {path.relative_to(back).as_posix(): path.read_bytes() for path in back.rglob("*") if path.is_file()} == (
        contents
    )


def test_a_large_file_is_digested_while_it_comes_and_not_read_again(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    monkeypatch.setattr(download, "RANGE_BYTES", 3 << 20)
    monkeypatch.setattr(download, "RANGES_AT_ONCE", 1)
    original, again = Part.read, list[bytes]()

    def read(part: Part, start: int, end: int) -> Iterator[bytes]:
        for data in original(part, start, end):
            again.append(data)
            yield data

    monkeypatch.setattr(Part, "read", read)
    progress = RecordedProgress()
    assert download_file(prefix, "x", tmp_path / "back", size=len(LARGE), sha256=digest, progress=progress) == digest
    assert proxy.count("GET", "/x") == 4
    assert again == []
    assert sum(progress.sizes) == len(LARGE)


def test_a_large_file_with_a_flipped_bit_is_found_out_and_brought_again(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    monkeypatch.setattr(download, "RANGE_BYTES", 3 << 20)
    proxy.fail(Fault("flip", matches=lambda method, _: method == "GET"))
    progress = RecordedProgress()
    download_file(prefix, "x", tmp_path / "back", size=len(LARGE), sha256=digest, progress=progress)
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest
    assert proxy.count("GET", "/x") == 8
    assert sum(progress.sizes) == len(LARGE)


# Copies


def test_an_object_too_large_for_one_copy_is_copied_in_parts_by_the_server(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    monkeypatch.setattr(objects, "LARGEST_SINGLE_COPY", PART)
    monkeypatch.setattr(objects, "COPY_PART_BYTES", PART)
    sent, parts = proxy.sent_bytes, proxy.count("PUT", "partNumber")
    prefix.copy("x", "y")
    found = prefix.head("y")
    assert found
    assert (found.size, found.sha256) == (len(LARGE), digest)
    assert digest_object(prefix, "y", size=len(LARGE)) == digest
    assert proxy.count("PUT", "partNumber") - parts == 3
    assert proxy.sent_bytes - sent < 10_000


def test_the_copy_of_an_object_that_was_sent_in_parts_has_the_checksum_of_its_bytes(
    prefix: Prefix, server: S3Server, tmp_path: Path
) -> None:
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    prefix.copy("x", "y")
    with closing(server.client()) as client:
        bucket, key = prefix.address.bucket, prefix.address.key("y")
        answer = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    assert b64decode(answer["ChecksumSHA256"]).hex() == digest
    assert digest_object(prefix, "y", size=len(LARGE)) == digest


@pytest.mark.parametrize("limit", [5 << 30, PART])
def test_a_server_that_gives_no_checksum_for_a_copy_is_asked_to_copy_without(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(objects, "LARGEST_SINGLE_COPY", limit)
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    refusal = b"<Error><Code>NotImplemented</Code><Message>Header 'x-amz-checksum-algorithm'</Message></Error>"
    copies = {"PUT", "POST"}
    proxy.fail(Fault("answer", status=501, body=refusal, matches=lambda method, _: method in copies))
    prefix.copy("x", "y")
    assert [fault.times for fault in proxy.faults] == [0]
    found = prefix.head("y")
    assert found
    assert (found.size, found.sha256) == (len(LARGE), digest)


@pytest.mark.parametrize("limit", [5 << 30, PART])
def test_a_copy_of_what_has_gone_or_changed_meanwhile_says_so(
    prefix: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(objects, "LARGEST_SINGLE_COPY", limit)
    path, digest = a_file(tmp_path, LARGE)
    upload_file(prefix, "x", path, digest)
    found = prefix.head("x")
    assert found
    prefix.delete("x")
    with pytest.raises(Gone, match="not there any more"):
        prefix.copy_from(prefix, found, "y")
    assert prefix.head("y") is None


# Small files


def test_the_short_way_is_not_taken_where_it_would_not_do_as_the_user_has_set(
    prefix: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small._store(prefix, "x") is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ssl/certs/ours.pem")
    assert small._store(prefix, "x") is None


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("endpoint", "region", "name", "url"),
    [
        ("http://minio:9000", "garage", "abc", "http://minio:9000/abc"),
        ("http://minio:9000/s3", "garage", "abc", "http://minio:9000/s3/abc"),
        ("", "eu-west-1", "abc", "https://abc.s3.eu-west-1.amazonaws.com"),
        ("", "eu-west-1", "ab.c", "https://s3.eu-west-1.amazonaws.com/ab.c"),
        ("", "", "abc", "https://abc.s3.amazonaws.com"),
    ],
)
def test_buckets_are_found_where_the_general_client_finds_them(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, region: str, name: str, url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    assert bucket_url(connection(), name) == url


def test_a_missing_permission_is_reported_by_the_general_client(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    path, digest = a_file(tmp_path, b"small")
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", times=1000, status=403, body=body))
    ours = Prefix(Address(prefix.address.bucket, "p"), RegistryError)
    with pytest.raises(RegistryError, match="not allowed") as caught:
        upload_file(ours, "x", path, digest)
    assert not caught.value.transient
    with pytest.raises(RegistryError, match="not allowed"):
        download_file(ours, "x", tmp_path / "back", size=5, sha256=digest)
